"""Files that no one wants in a data folder: each becomes 8-bit RGB or the one error; none crashes, hangs or is dropped.

The files are those of `hostile_files.MAKERS`.
"""

import os
import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.hostile_files import MAKERS
from support.hostile_kit import Picture

from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import FORMATS, ImageDecodeError, decode_image, read_pixel_count
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.data.loading.cache import keep_decoded
from vision_peft.data.loading.loader import eval_loader
from vision_peft.data.transforms.images import eval_transform

SECONDS = 20
NEEDS = {"avif": "AVIF", "jpeg_2000": "JPEG2000"}  # formats that a build of PIL may lack

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, links and alarms are those of POSIX")


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fail a test that takes too long or starts a program; what a file creates is created in `tmp_path`."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("another program was started")

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def names() -> list[str]:
    return [name for name in MAKERS if NEEDS.get(name, "PNG") in FORMATS]


@pytest.mark.parametrize("name", MAKERS)
def test_a_hostile_file_ends_as_it_should(name: str, tmp_path: Path) -> None:
    if name not in names():
        pytest.skip(f"this build of PIL has no {NEEDS[name]}")
    path = tmp_path / "photo.jpg"
    end = MAKERS[name](path)
    if isinstance(end, Picture):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = decode_image(path)
        assert (image.mode, image.size) == ("RGB", end.size)
        np.testing.assert_allclose(np.asarray(image).mean(axis=(0, 1)), end.mean, atol=end.within + 1e-9)
        assert read_pixel_count(path) == image.width * image.height
    else:
        with pytest.raises(ImageDecodeError, match=end) as caught:
            decode_image(path)
        assert caught.value.path == str(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert [found.name for found in tmp_path.iterdir()] == ["photo.jpg"]


def test_there_are_forty_of_them_of_both_kinds() -> None:
    assert len(MAKERS) >= 40


@pytest.mark.parametrize(("workers", "cache_mb"), [(0, 0), (2, 0), (0, 100)])
def test_none_of_them_is_dropped_in_evaluation(tmp_path: Path, workers: int, cache_mb: int) -> None:
    paths = [tmp_path / f"{name}.jpg" for name in names() if name != "png_of_200_megapixels_in_194_kilobytes"]
    wanted = {path: MAKERS[path.stem](path) for path in paths}
    dataset = ImageFiles(paths, [0] * len(paths), ["photo"], max_pixels=100_000_000, exif_rotation=False)
    dataset.transform = eval_transform(size=16, mean=(0, 0, 0), std=(1, 1, 1), resize="shortest")
    bad_files = BadFiles(tmp_path / "bad_files.txt")
    kept = keep_decoded({"test": dataset}, ["test"], cache_mb, workers)[0]["test"]
    loader = eval_loader(kept, 8, workers, bad="wrong", bad_files=bad_files)
    seen: list[int] = []
    for images, _, indices in loader:
        assert images.dtype == torch.float32
        seen += indices.tolist()
    assert sorted(seen + loader.unreadable) == list(range(len(paths)))
    assert {paths[index] for index in seen} == {path for path, end in wanted.items() if isinstance(end, Picture)}
    assert set(bad_files.causes) == {str(path) for path, end in wanted.items() if isinstance(end, str)}
    assert len((tmp_path / "bad_files.txt").read_text().splitlines()) == len(loader.unreadable)
