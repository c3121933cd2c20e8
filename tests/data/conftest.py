"""Miniature datasets in the layouts that the readers know."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.checked import CLASS_NAMES, noise

from vision_peft.data.datasets.fgvc import CLASS_COUNTS, SIZES

MakeImage = Callable[..., Path]
MakeTask = Callable[..., Path]


@pytest.fixture
def make_image() -> MakeImage:
    """Writes a flat RGB image of grey `value` and gives its path."""

    def make(path: Path, value: int = 128, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
        return path

    return make


@pytest.fixture
def fill(make_image: MakeImage) -> Callable[..., None]:
    """Writes so many images into class folders of `folder`."""

    def make(folder: Path, extension: str = "png", **counts: int) -> None:
        for name, count in counts.items():
            for number in range(count):
                make_image(folder / name / f"{number:03d}.{extension}", value=number)

    return make


@pytest.fixture
def make_task(tmp_path: Path, make_image: MakeImage) -> MakeTask:
    """Writes a VTAB-1k task folder whose splits hold the given labels, and gives its path."""

    def make(name: str = "pebbles", classes: list[str] | None = None, **labels: list[int]) -> Path:
        splits = {"train": [0, 1, 2, 0], "val": [1, 2], "test": [2, 1, 0], **labels}
        folder = tmp_path / "vtab" / name
        lines: dict[str, list[str]] = {}
        for split, file in (("train", "train800"), ("val", "val200"), ("test", "test")):
            lines[split] = []
            for number, label in enumerate(splits[split]):
                path = make_image(folder / "images" / file / f"{number:06d}.jpg", value=number)
                lines[split].append(f"{path.relative_to(folder)} {label}")
            (folder / f"{file}.txt").write_text("\n".join(lines[split]) + "\n")
        (folder / "train800val200.txt").write_text("\n".join(lines["train"] + lines["val"]) + "\n")
        if classes:
            (folder / "classes.txt").write_text("\n".join(classes) + "\n")
        return folder

    return make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A sound tree of class folders: 3 train, 2 val and 2 test images a class, all different."""
    seed = 0
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for name in CLASS_NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                noise(seed := seed + 1).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def small_fgvc(monkeypatch: pytest.MonkeyPatch) -> None:
    """FGVC's miniatures have 3 classes, and any number of images is as published."""
    for task in CLASS_COUNTS:
        monkeypatch.setitem(CLASS_COUNTS, task, 3)
        monkeypatch.delitem(SIZES, task)
