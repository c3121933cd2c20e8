"""FGVC: the problems that are found in a task folder, and ways to spoil its files."""

from pathlib import Path
from typing import Any

import pytest
from scipy.io import loadmat, savemat

from vision_peft.data import ImageDataset
from vision_peft.data.datasets.fgvc import FGVC

LISTS = {
    "train": {"a/1.jpg": 1, "b/1.jpg": 2},
    "val": {"a/2.jpg": 1, "b/2.jpg": 2},
    "test": {"a/3.jpg": 1, "b/3.jpg": 2},
}


def load(folder: Path, split: str = "train") -> ImageDataset:
    """The split of the task that `folder` is named after."""
    return FGVC(root=str(folder.parent), task=folder.name).load(split)


def problems(folder: Path, split: str = "train") -> list[str]:
    """The lines of the one error, without the path of the task folder."""
    with pytest.raises(ValueError, match=r"\d+ problems?") as caught:
        load(folder, split)
    head, *lines = str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER").splitlines()
    assert f"{len(lines)} problem" in head
    return [line.strip() for line in lines]


def rewrite(file: Path, **changed: Any) -> None:
    """Saves a MATLAB file once more with some of its variables changed; None leaves one out."""
    content = {name: value for name, value in loadmat(file).items() if not name.startswith("__")} | changed
    savemat(file, {name: value for name, value in content.items() if value is not None})


def replace(file: Path, old: str, new: str) -> None:
    """Replaces what must be in a text file, once."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
