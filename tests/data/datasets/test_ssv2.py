"""Something-Something V2: the official json lists, and everything that can be wrong with them, reported at once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.datasets.ssv2 import SomethingV2
from vision_peft.data.decoding.video_dataset import VideoFiles

LABELS = {"Holding something next to something": "1", "Approaching something with your camera": "0", "Poking a stack of something so the stack collapses": "2"}  # fmt: skip # noqa: E501
TEMPLATES = [
    "Approaching [something] with your camera",
    "Holding [something] next to [something]",
    "Poking a stack of [something] so the stack collapses",
]


def entries(ids: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": str(number), "label": "a cup", "template": TEMPLATES[number % 3], "placeholders": ["cup"]}
        for number in ids
    ]


def make(root: Path, lists: str = "", videos: str = "20bn-something-something-v2", extension: str = ".webm") -> Path:
    (root / lists).mkdir(parents=True, exist_ok=True)
    (root / videos).mkdir(parents=True, exist_ok=True)
    write(root, "labels", LABELS, lists)
    write(root, "train", entries(list(range(30))), lists)
    write(root, "validation", entries(list(range(100, 109))), lists)
    for number in [*range(30), *range(100, 109)]:
        (root / videos / f"{number}{extension}").write_bytes(b"video")
    return root


def write(root: Path, name: str, content: Any, folder: str = "") -> None:
    (root / folder / f"something-something-v2-{name}.json").write_text(json.dumps(content))


def load(root: Path, split: str, **fields: Any) -> VideoFiles:
    dataset = SomethingV2(root=str(root), **fields).load(split)
    assert isinstance(dataset, VideoFiles)
    return dataset


def problems(root: Path) -> list[str]:
    with pytest.raises(ValueError, match="data=ssv2") as caught:
        load(root, "train")
    first, *lines = str(caught.value).split("\n")
    assert f"{len(lines)} problem" in first
    prefix = "something-something-v2-"
    return [line.strip().replace(f"{root}/", "").replace(prefix, "", 1) for line in lines]


@pytest.mark.parametrize("lists", ["", "labels"])
@pytest.mark.parametrize("videos", ["20bn-something-something-v2", "videos", ""])
@pytest.mark.parametrize("extension", [".webm", ".mp4"])
def test_classes_are_the_templates_without_brackets(tmp_path: Path, lists: str, videos: str, extension: str) -> None:
    root = make(tmp_path / "root", lists, videos, extension)
    test = load(root, "test")
    assert test.classes == [template.replace("[", "").replace("]", "") for template in TEMPLATES]
    assert test.labels == [1, 2, 0] * 3
    assert [Path(path).name for path in test.paths] == [f"{number}{extension}" for number in range(100, 109)]
    assert Path(test.paths[0]).is_file()


def test_val_is_drawn_from_train_and_test_is_the_official_validation(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    train, val = load(root, "train"), load(root, "val")
    assert Counter(val.labels) == {0: 1, 1: 1, 2: 1}
    assert len(train) == 27
    assert sorted(train.paths + val.paths) == sorted(load(root, "trainval").paths)
    assert not set(load(root, "test").paths) & set(load(root, "trainval").paths)
    assert {tuple(load(root, "val", seed=seed).paths) for seed in range(8)} != {tuple(val.paths)}


def test_short_names_of_the_lists_are_found(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    for file in root.glob("*.json"):
        file.rename(file.with_name(file.name.replace("something-something-v2-", "")))
    assert len(load(root, "test")) == 9
    (root / "validation.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"wanted something-something-v2-validation\.json or validation\.json"):
        load(root, "train")


def test_all_problems_are_told_at_once_with_file_and_entry(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    train = entries(list(range(30)))
    train[3]["template"] = "Holding [something] next to [someting]"
    del train[4]["template"]
    train[5]["id"] = "../29"
    train[6]["id"] = "7"
    write(root, "train", train)
    (root / "20bn-something-something-v2" / "8.webm").unlink()
    (root / "20bn-something-something-v2" / "9.webm").write_bytes(b"")
    write(root, "validation", [*entries([100, 101, 2]), "text"])
    found = problems(root)
    assert found[0].startswith("train.json, entry 4 (video '3'): unknown class 'Holding something next to someting'")
    assert "(did you mean 'Holding something next to something'?)" in found[0]
    assert found[1].startswith("train.json, entry 5: wanted an object with id and template, got \"{'id': '4'")
    assert found[2:] == [
        "validation.json, entry 4: wanted an object with id and template, got 'text'",
        "train.json, entry 8: video '7' is already in something-something-v2-train.json, entry 7",
        "validation.json, entry 3: video '2' is already in something-something-v2-train.json, entry 3",
        "train.json, entry 6: video '20bn-something-something-v2/../29.webm' is missing",
        "train.json, entry 9: video '20bn-something-something-v2/8.webm' is missing",
        "train.json, entry 10: video '20bn-something-something-v2/9.webm' is empty (0 bytes)",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"a": "0", "b": "2"}, "'b': number '2' is not one of 0 to 1"),
        ({"a": "0", "b": 0}, "'b': number 0 is that of 'a' already"),
        ({"a": "0", "b": "one"}, "'b': number 'one' is not one of 0 to 1"),
        (["a", "b"], "wanted an object of class: number, got"),
        ({}, "wanted an object of class: number, got"),
    ],
)
def test_class_lists_that_make_no_sense_are_reported(tmp_path: Path, content: Any, problem: str) -> None:
    root = make(tmp_path / "root")
    write(root, "labels", content)
    found = problems(root)
    assert len(found) == 1
    assert found[0].startswith("labels.json: ")
    assert problem in found[0]


@pytest.mark.parametrize("text", ["[{", "", "[" * 100_000, '"id"', "\x00"])
def test_files_that_are_no_lists_are_reported(tmp_path: Path, text: str) -> None:
    root = make(tmp_path / "root")
    (root / "something-something-v2-train.json").write_text(text)
    found = problems(root)
    assert len(found) == 1
    assert found[0].startswith("train.json: ")
    assert len(found[0]) < 400
