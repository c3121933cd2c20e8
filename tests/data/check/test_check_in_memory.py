"""What `check_tasks` finds in images in memory: labels, classes and splits that do not agree."""

import dataclasses
from typing import ClassVar

import pytest
from support.checked import Squares, check

from vision_peft.data.config import DataConfig
from vision_peft.data.dataset import ImageDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class InMemory(DataConfig):
    """Whatever `splits` holds."""

    name: ClassVar[str] = "in_memory"
    splits: ClassVar[dict[str, ImageDataset]] = {}

    def load(self, split: str) -> ImageDataset:
        return self.splits[split]


def in_memory(monkeypatch: pytest.MonkeyPatch, **changed: ImageDataset) -> list[tuple[str, str, str]]:
    sound: dict[str, ImageDataset] = {
        "train": Squares([1, 2], [0, 1]),
        "val": Squares([3, 4], [0, 1]),
        "trainval": Squares([1, 2, 3, 4], [0, 1, 0, 1]),
        "test": Squares([5, 6], [0, 1]),
    }
    monkeypatch.setattr(InMemory, "splits", sound | changed)
    return [(each.severity, each.kind, each.text) for each in check(InMemory()).findings]


def test_images_in_memory_are_compared_by_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_memory(monkeypatch) == []
    assert in_memory(monkeypatch, test=Squares([5, 1], [0, 1])) == [
        ("problem", "overlap", "train and test share an image (the same pixels): grey 1 (train), grey 1 (test)"),
        ("problem", "label_conflict", "one image has several labels (the same pixels): grey 1 is cat, grey 1 is dog"),
    ]


def test_labels_out_of_range_and_empty_classes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_memory(monkeypatch, test=Squares([5, 6], [-1, 2])) == [
        ("problem", "label_range", "2 labels of test out of range, wanted 0 to 1: grey 5 (-1), grey 6 (2)"),
        ("warning", "empty_class", "2 of 2 classes have no image in test: cat, dog"),
    ]


def test_splits_must_agree_about_two_classes_or_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_memory(monkeypatch, val=Squares([3, 4], [0, 1], ["cat", "emu"])) == [
        ("problem", "classes", "val has other classes than train: cat, emu against cat, dog")
    ]
    names = ["cat", "cat"]
    values = {"train": [1, 2], "val": [3, 4], "trainval": [1, 2, 3, 4], "test": [5, 6]}
    twice = {split: Squares(greys, [0, 1] * (len(greys) // 2), names) for split, greys in values.items()}
    assert in_memory(monkeypatch, **twice) == [("problem", "classes", "class names must differ, repeated: cat")]
    one = {split: Squares(greys, [0] * len(greys), ["cat"]) for split, greys in values.items()}
    assert in_memory(monkeypatch, **one) == [("problem", "classes", "there is nothing to learn from 1 class")]


def test_trainval_is_train_and_val_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_memory(monkeypatch, trainval=Squares([1, 2, 3, 9], [0, 1, 0, 1])) == [
        (
            "warning",
            "trainval",
            "trainval is not train and val together: it lacks 1 image of them and has 1 image that neither has",
        )
    ]
    assert in_memory(monkeypatch, trainval=Squares([1, 2, 3, 4], [1, 1, 0, 1])) == [
        ("problem", "label_conflict", "one image has several labels (the same pixels): grey 1 is cat, grey 1 is dog")
    ]
    ((severity, kind, text), *rest) = in_memory(monkeypatch, trainval=Squares([1, 2, 3, 4, 5], [0, 1, 0, 1, 0]))
    assert (severity, kind, text.split(" (")[0]) == ("problem", "overlap", "trainval and test share an image")
    assert [kind for _, kind, _ in rest] == ["trainval"]
