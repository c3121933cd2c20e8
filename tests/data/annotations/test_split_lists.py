"""What lists say beside paths and labels, and numbers that are read as names, are not passed over without a word."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.checked import noise

from vision_peft.data.datasets.list import ImageLists

COUNT = 20
POINT = r"labels such as '0,5' are read as names of classes: decimals take a point \(0\.5\)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(COUNT):
        noise(number).save(tmp_path / f"{number:02}.png")
    return tmp_path


def write(root: Path, labels: Sequence[str], head: str = "path;label", name: str = "train.csv") -> None:
    lines = [f"{number:02}.png;{label}" for number, label in enumerate(labels)]
    (root / name).write_text("\n".join([head, *lines] if head else lines) + "\n")


def read(root: Path, name: str = "train.csv", **fields: Any) -> ImageLists:
    config = ImageLists(root=str(root), train=name, val_fraction=0.2, test_fraction=0.2, **fields)
    config.open_splits()
    return config


def read_quietly(root: Path, **fields: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(root, **fields)


SPLITS = ["train"] * 12 + ["test"] * 8


@pytest.mark.parametrize("word", ["split", "Subset", "partition"])
def test_a_column_of_splits_that_is_not_read_is_said(root: Path, word: str) -> None:
    write(root, [f"{'ab'[number % 2]};{part}" for number, part in enumerate(SPLITS)], f"path;label;{word}")
    words = r"it names \(12 train, 8 test\) are not read, all its lines are of data\.train: give a list for each split"
    with pytest.warns(UserWarning, match=words):
        read(root)


def test_a_key_of_splits_in_json_is_said(root: Path) -> None:
    entries = [
        {"path": f"{number:02}.png", "label": "ab"[number % 2], "split": part} for number, part in enumerate(SPLITS)
    ]
    (root / "train.json").write_text(json.dumps(entries))
    with pytest.warns(UserWarning, match=r"train\.json: the splits that it names \(12 train, 8 test\) are not read"):
        read(root, "train.json")


@pytest.mark.parametrize(
    ("head", "parts", "fields"),
    [
        ("path;label;split", ["train"] * COUNT, {}),  # one list a split, each with its name in it
        ("path;label;set", [f"box {number % 3}" for number in range(COUNT)], {}),
        ("path;label;set", [f"box {number}" for number in range(COUNT)], {}),
        ("path;label;split", SPLITS, {"target": "split"}),
        ("path;label;remark", SPLITS, {}),
    ],
)
def test_other_columns_are_no_splits(root: Path, head: str, parts: list[str], fields: dict[str, Any]) -> None:
    write(root, [f"{'ab'[number % 2]};{part}" for number, part in enumerate(parts)], head)
    read_quietly(root, **fields)


def test_numbers_with_a_comma_are_said_to_be_names(root: Path) -> None:
    write(root, ["0,5", "1", "2,25", "3,75"] * 5)
    with pytest.warns(UserWarning, match=POINT), pytest.raises(ValueError, match="'1' is a number among class names"):
        read(root)
    write(root, ["0,5", "1,5", "2,25", "3,75"] * 5)
    with pytest.warns(UserWarning, match=POINT):
        read(root)
    (root / "train.txt").write_text("".join(f"{number:02}.png 0,5\n" for number in range(COUNT)))
    with pytest.warns(UserWarning, match=POINT):
        read(root, "train.txt")
    with pytest.raises(ValueError, match=r"wanted a finite number, got '0,5'; decimals take a point \(0\.5\)"):
        read(root, task_kind="regression")


@pytest.mark.parametrize(
    ("labels", "fields"),
    [(["0,5", "1,5"], {"task_kind": "classes"}), (["0,5", "cat", "dog", "fox"], {}), (["1,5,2", "2,5,1"], {})],
)
def test_names_with_a_comma_are_names(root: Path, labels: list[str], fields: dict[str, Any]) -> None:
    write(root, labels * (COUNT // len(labels)))
    read_quietly(root, **fields)
