"""Lists with several labels, grades or numbers an image: every way to write them, and whatever may be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeImage = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage) -> Path:
    """Images `a.png` to `f.png`."""
    for number, name in enumerate("abcdef"):
        make_image(tmp_path / "root" / f"{name}.png", value=number)
    return tmp_path / "root"


def write(root: Path, name: str, *lines: str) -> None:
    (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def open_lists(root: Path, **fields: Any) -> Callable[[str], Any]:
    return ImageLists(root=str(root), **{"train": "train.csv", "val": "val.csv", **fields}).open_splits()


def sets(dataset: ImageFiles) -> dict[str, set[str]]:
    assert dataset.targets is not None
    assert dataset.targets.kind == "multilabel"
    assert dataset.targets.values is not None
    rows = dataset.targets.values[dataset.labels]
    found = [{name for name, flag in zip(dataset.classes, row, strict=True) if flag} for row in rows.tolist()]
    return dict(zip([Path(path).stem for path in dataset.paths], found, strict=True))


def numbers(dataset: ImageFiles) -> dict[str, tuple[float, ...]]:
    assert dataset.targets is not None
    assert dataset.targets.values is not None
    rows = dataset.targets.values[dataset.labels].tolist()
    return {Path(path).stem: tuple(row) for path, row in zip(dataset.paths, rows, strict=True)}


def problems(root: Path, **fields: Any) -> list[str]:
    with pytest.raises(ValueError, match="data=list") as caught:
        open_lists(root, **fields)
    first, *lines = str(caught.value).split("\n")
    assert f"{len(lines)} problem" in first
    return [line.strip().replace(f"{root}/", "") for line in lines]


WANTED = {"a": {"sea", "sun"}, "b": {"sea"}, "c": set(), "d": {"sun", "trees"}}
MULTILABEL = {
    "train.csv": "path,labels\na.png,sun;sea\nb.png,sea\nc.png,\nd.png,trees;sun;trees\n",
    "bars.csv": "path;labels\na.png;sea | sun\nb.png;sea\nc.png;\nd.png;sun|trees|\n",
    "plain.csv": "a.png,sea;sun\nb.png,sea\nc.png,\nd.png,sun;trees\n",
    "train.tsv": "id\timage\tlabels\n1\ta.png\tsea;sun\n2\tb.png\tsea\n3\tc.png\t\n4\td.png\tsun;trees\n",
    "train.txt": "a.png sea;sun\nb.png sea\nc.png\nd.png sun;trees\n",
    "flags.csv": "path,sea,sun,trees\na.png,1,1,0\nb.png,1,0,0\nc.png,0,0,0\nd.png,0,1,1\n",
    "flags.tsv": "sea\tfile\tsun\ttrees\n1\ta.png\t1\t0\n1\tb.png\t0\t0\n0\tc.png\t0\t0\n0\td.png\t1\t1\n",
    "list.json": json.dumps(
        [
            {"path": "a.png", "labels": ["sea", "sun"]},
            {"path": "b.png", "labels": ["sea"]},
            {"file_name": "c.png", "labels": []},
            {"image": "d.png", "labels": ["sun", "trees"]},
        ]
    ),
    "map.json": json.dumps({"a.png": ["sun", "sea"], "b.png": ["sea"], "c.png": [], "d.png": {"sun": 1, "trees": 1}}),
    "coco.json": json.dumps(
        {
            "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abcd")],
            "categories": [{"id": 7, "name": "sea"}, {"id": 9, "name": "sun"}, {"id": 2, "name": "trees"}],
            "annotations": [
                {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1]}
                for image, category in [(0, 9), (0, 7), (1, 7), (3, 9), (3, 2), (3, 9)]
            ],
        }
    ),
    "voc.json": json.dumps(
        [
            {"annotation": {"filename": f"{name}.png", "object": [{"name": each} for each in sorted(labels)]}}
            for name, labels in WANTED.items()
        ]
    ),
}


@pytest.mark.parametrize("name", MULTILABEL)
def test_sets_of_labels_are_found_however_they_are_written(root: Path, name: str) -> None:
    (root / name).write_text(MULTILABEL[name], encoding="utf-8")
    load = open_lists(root, train=name, val=None, val_fraction=0.3)
    assert sets(load("trainval")) == WANTED
    assert load("train").classes == ["sea", "sun", "trees"]
    assert {*sets(load("train")), *sets(load("val"))} == {*WANTED}
    assert load("train").targets is load("val").targets
    assert len(load("train").targets.values) == 4


def test_classes_of_a_file_give_the_order_and_numbers_are_places_in_it(root: Path) -> None:
    write(root, "classes.txt", "trees", "sun", "sea")
    write(root, "train.csv", "path,labels", "a.png,2;1", "b.png,trees;sea")
    write(root, "val.csv", "path,labels", "c.png,1")
    load = open_lists(root, classes="classes.txt")
    assert load("train").classes == ["trees", "sun", "sea"]
    assert sets(load("train")) == {"a": {"sea", "sun"}, "b": {"trees", "sea"}}
    assert sets(load("val")) == {"c": {"sun"}}


def test_numbered_classes_are_in_the_order_of_the_numbers(root: Path) -> None:
    write(root, "train.csv", "path,labels", "a.png,10;2", "b.png,9")
    write(root, "val.csv", "path,labels", "c.png,2")
    assert open_lists(root)("train").classes == ["2", "9", "10"]


def test_the_columns_that_target_names_are_read(root: Path) -> None:
    write(root, "train.csv", "path,label,wet,old,score,label_2", "a.png,x,1,0,1.5,7", "b.png,y,1,1,2.5,8")
    write(root, "val.csv", "path,score,label,old,wet,label_2", "c.png,3.25,x,0,1,9")
    load = open_lists(root, target=("old", "wet"), task_kind="multilabel")
    assert load("train").classes == ["old", "wet"]
    assert sets(load("train")) | sets(load("val")) == {"a": {"wet"}, "b": {"old", "wet"}, "c": {"wet"}}
    load = open_lists(root, target="score", unit="mm")
    assert numbers(load("train")) | numbers(load("val")) == {"a": (1.5,), "b": (2.5,), "c": (3.25,)}
    assert (load("train").classes, load("train").targets.unit) == (["score"], "mm")
    for task_kind in ("auto", "regression"):
        load = open_lists(root, target=("score", "label_2"), task_kind=task_kind)
        assert numbers(load("train")) == {"a": (1.5, 7.0), "b": (2.5, 8.0)}
        assert load("train").classes == ["score", "label_2"]
    assert open_lists(root)("train").classes == ["x", "y"]  # the column label


@pytest.mark.parametrize("task_kind", ["auto", "regression"])
def test_numbers_are_read_as_they_are_written(root: Path, task_kind: str) -> None:
    write(root, "train.csv", "path,value", "a.png,-1.5e-3", "b.png,+2", "d.png,.5")
    write(root, "val.csv", "path,value", "c.png,2.0")
    load = open_lists(root, task_kind=task_kind)
    assert load("train").targets.kind == "regression"
    assert numbers(load("train")) | numbers(load("val")) == {"a": (-1.5e-3,), "b": (2.0,), "d": (0.5,), "c": (2.0,)}
    (root / "train.json").write_text(json.dumps([{"path": "a.png", "value": 1.5}, {"path": "b.png", "value": 2}]))
    assert numbers(open_lists(root, train="train.json", task_kind=task_kind)("train")) == {"a": (1.5,), "b": (2.0,)}


def test_whole_numbers_are_classes_unless_said_otherwise(root: Path) -> None:
    write(root, "train.csv", "path,value", "a.png,3", "b.png,5", "d.png,4")
    write(root, "val.csv", "path,value", "c.png,5")
    with pytest.warns(UserWarning, match="3 of 6 classes have no training image"):
        assert open_lists(root)("train").targets is None
    grades = open_lists(root, task_kind="ordinal")
    assert (grades("train").targets.kind, grades("train").classes) == ("ordinal", ["3", "4", "5"])
    assert [*grades("train").labels, *grades("val").labels] == [0, 2, 1, 2]
    assert numbers(open_lists(root, task_kind="regression")("val")) == {"c": (5.0,)}


def test_grades_with_names_need_the_file_that_orders_them(root: Path) -> None:
    write(root, "train.csv", "path,grade", "a.png,good", "b.png,bad")
    write(root, "val.csv", "path,grade", "c.png,good")
    write(root, "classes.txt", "bad", "good")
    assert open_lists(root, task_kind="ordinal", classes="classes.txt")("train").labels == [1, 0]
    first, *_ = problems(root, task_kind="ordinal")
    assert first == ("train.csv: grades are whole numbers, or data.classes=FILE names them in order: got 'good', 'bad'")


def test_classes_whose_names_hold_the_separators_stay_classes_where_a_file_or_the_kind_says_so(root: Path) -> None:
    write(root, "train.csv", "path,label", "a.png,a;b", "b.png,1.5")
    write(root, "val.csv", "path,label", "c.png,a;b")
    write(root, "classes.txt", "a;b", "1.5")
    assert open_lists(root)("train").targets.kind == "multilabel"
    for fields in ({"task_kind": "classes"}, {"classes": "classes.txt"}):
        load = open_lists(root, **fields)
        assert load("train").targets is None
        assert {*load("train").classes} == {"a;b", "1.5"}


def test_all_problems_of_sets_are_named_at_once(root: Path) -> None:
    write(root, "train.csv", "path,labels", "a.png,sea;sun", "gone.png,sea", "b.png,", "b.png,sea")
    write(root, "val.csv", "path,labels", "c.png,see;sun", "d.png,sea,sun")
    assert problems(root) == [
        "val.csv:3: wanted 2 columns with path and label, got 'd.png,sea,sun'; a header names the columns path and "
        "label",
        "train.csv:3: image 'gone.png' is missing",
        "train.csv:5: image 'b.png' is already on line 4: list it once; data.balanced=true trains on rare classes as "
        "often as on others",
        "val.csv:2: class 'see' is not among the 2 classes of train.csv (did you mean sea?)",
    ]


def test_all_problems_of_flags_are_named_at_once(root: Path) -> None:
    write(root, "train.csv", "path,sea,sun", "a.png,1,0", "b.png,0,2", "c.png,,1")
    write(root, "val.csv", "path,sea,sun", "d.png,1,yes")
    assert problems(root) == [
        "train.csv:3: column 'sun': wanted 0 or 1, got '2'",
        "train.csv:4: column 'sea': wanted 0 or 1, got ''",
        "val.csv:2: column 'sun': wanted 0 or 1, got 'yes'",
    ]


def test_all_problems_of_numbers_are_named_at_once(root: Path) -> None:
    write(root, "train.csv", "path,value", "a.png,1.5", "b.png,2", "c.png,nan", "d.png,1_0", "e.png,")
    write(root, "val.csv", "path,value", "f.png,1e999")
    wanted = [
        "train.csv:6: wanted 2 columns with path and label, got 'e.png,'; a header names the columns path and label",
        "train.csv:4: wanted a finite number, got 'nan'",
        "train.csv:5: wanted a finite number, got '1_0'",
        "val.csv:2: wanted a finite number, got '1e999'",
    ]
    assert problems(root, task_kind="regression") == wanted
    write(root, "train.csv", "path,value", "a.png,1.5", "b.png,2", "c.png,nan", "d.png,3.5", "e.png,")
    assert problems(root)[1:] == [wanted[1], wanted[3]]


def test_all_problems_of_grades_are_named_at_once(root: Path) -> None:
    write(root, "train.csv", "path,value", "a.png,1", "b.png,3", "c.png,1.5")
    write(root, "val.csv", "path,value", "d.png,2")
    write(root, "test.csv", "path,value", "e.png,4", "f.png,good")
    assert problems(root, task_kind="ordinal", test="test.csv") == [
        "train.csv:4: grade '1.5' is not a whole number of '1' to '3'",
        "test.csv:2: grade 4 is out of range: wanted one of '1' to '3'",
        "test.csv:3: grade 'good' is not a whole number of '1' to '3'",
    ]


def test_a_column_that_is_not_there_is_named_with_those_that_are(root: Path) -> None:
    write(root, "train.csv", "path,value,weight", "a.png,1.5,2")
    write(root, "val.csv", "path,value,weight", "b.png,1.5,2")
    assert problems(root, target="wieght")[0] == (
        "train.csv:1: data.target: the header has no column 'wieght' (did you mean weight?); its columns are "
        "'path', 'value', 'weight'"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_kind": "ordinals"}, "did you mean ordinal"),
        ({"task_kind": "ordinal", "target": ("a", "b")}, "data.task_kind=ordinal has one label an image"),
        ({"target": ("a", "")}, "got an empty name"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageLists(root="x", train="y", **fields)


def test_a_class_without_a_training_image_is_said(root: Path) -> None:
    write(root, "train.csv", "path,sea,sun,ice", "a.png,1,0,0", "b.png,0,1,0")
    write(root, "val.csv", "path,sea,sun,ice", "c.png,1,0,1")
    with pytest.warns(UserWarning, match="1 of 3 classes have no training image: ice"):
        open_lists(root)("train")


def test_a_value_that_occurs_once_may_fall_into_any_drawn_split(root: Path) -> None:
    write(root, "train.csv", "path,value", *(f"{name}.png,{place}.5" for place, name in enumerate("abcdef")))
    shares = [len(open_lists(root, val=None, val_fraction=0.5, seed=seed)("val")) for seed in range(4)]
    assert np.mean(shares) > 1.5


def test_a_folder_with_one_list_has_all_splits_drawn_by_name(root: Path) -> None:
    write(root, "labels.csv", "path,labels", *(f"{name}.png,sea;{name}" for name in "abcdef"))
    fields: dict[str, Any] = {"train": "labels.csv", "val": None, "val_fraction": 0.3, "seed": 3}
    load = open_lists(root, **fields, test_fraction=0.3)
    parts = [{*sets(load(split))} for split in ("train", "val", "test")]
    assert sorted(name for part in parts for name in part) == [*"abcdef"]
    assert all(parts)
    assert {*sets(load("trainval"))} == parts[0] | parts[1]
    with pytest.raises(FileNotFoundError, match=r"has no test images: give data\.test=FILE or data\.test_fraction"):
        open_lists(root, **fields)("test")
    with pytest.raises(ValueError, match="leave nothing for train"):
        open_lists(root, **{**fields, "val_fraction": 0.5}, test_fraction=0.5)


def test_a_drawn_test_beside_a_val_list_leaves_val_as_it_is(root: Path) -> None:
    write(root, "train.csv", "path,labels", *(f"{name}.png,sea;sun" for name in "abcde"))
    write(root, "val.csv", "path,labels", "f.png,sea")
    load = open_lists(root, test_fraction=0.4)
    assert [*sets(load("val"))] == ["f"]
    assert {*sets(load("train")), *sets(load("test"))} == {*"abcde"}
    assert len(load("test")) > 0
