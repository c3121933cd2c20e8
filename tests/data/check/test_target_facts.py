"""What a check says of sets of labels, grades and numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.check.check import check_tasks
from vision_peft.data.check.contact_sheet import draw_sheet
from vision_peft.data.check.report import TaskReport, summarise, to_json
from vision_peft.data.datasets.list import ImageLists

MakeImage = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage) -> Path:
    """Images `0.png` to `11.png`."""
    for number in range(12):
        make_image(tmp_path / f"{number}.png", value=20 * number)
    return tmp_path


def check(root: Path, lines: list[str], test: list[str], **fields: Any) -> TaskReport:
    header, *rest = lines
    (root / "train.csv").write_text("\n".join([header, *rest[:-1]]) + "\n")
    (root / "val.csv").write_text("\n".join([header, rest[-1]]) + "\n")
    (root / "test.csv").write_text("\n".join([header, *test]) + "\n")
    lists = ImageLists(root=str(root), train="train.csv", val="val.csv", test="test.csv", **fields)
    (report,) = check_tasks(lists, 1)
    return report


def findings(report: TaskReport) -> list[tuple[str, str]]:
    return [(found.kind, found.text) for found in report.findings]


def test_sets_of_labels_are_counted_together_and_empty_ones_are_said(root: Path) -> None:
    lines = ["path,labels", "0.png,sea;sun", "1.png,sea", "2.png,", "3.png,sea;sun", "4.png,ice;sea", "5.png,sun"]
    report = check(root, lines, ["6.png,sun", "7.png,"])
    facts = to_json([report])["tasks"][0]["splits"]["train"]
    assert facts["per_class"] == [1, 4, 2]
    assert facts["targets"] == {
        "kind": "multilabel",
        "empty": 1,
        "labels_per_image": [1, 1, 3],
        "together": [[1, 1, 0], [1, 4, 2], [0, 2, 2]],
    }
    words = summarise(report)
    assert "train: sea 4, sun 2, ice 1" in words
    assert "train: images by number of labels: 1 of 0, 1 of 1, 3 of 2" in words
    assert "train: most often together: sea with sun 2, ice with sea 1" in words
    said = findings(report)
    assert ("no_label", "1 of 5 images of train have no label: they are of none of the classes") in said
    assert ("no_label", "1 of 2 images of test have no label: they are of none of the classes") in said
    assert ("empty_class", "2 of 3 classes have no image in test: ice, sea") in said
    assert draw_sheet(report.datasets, "sets", root / "sheet.png").stat().st_size > 0


def test_numbers_have_ranges_and_a_histogram_and_test_beyond_train_is_said(root: Path) -> None:
    lines = ["path,value", *(f"{number}.png,{number}.5" for number in range(8)), "8.png,1.5"]
    report = check(root, lines, ["9.png,9.25", "10.png,3.5", "11.png,0.25"], unit="mm")
    facts = to_json([report])["tasks"][0]["splits"]["train"]
    own = facts["targets"]["targets"]["value"]
    assert facts["per_class"] == []
    assert (own["min"], own["median"], own["max"], own["mean"]) == (0.5, 4.0, 7.5, 4.0)
    assert sum(own["histogram"]["counts"]) == 8
    assert own["histogram"]["counts"][0] == own["histogram"]["counts"][-1] == 1
    assert "train: value 0.5 to 7.5 mm, median 4, mean 4, standard deviation 2.29129" in summarise(report)
    assert ("range", "2 of 3 values of value in test lie outside of train's 0.5 to 7.5") in findings(report)
    assert report.of("problem") == []
    assert draw_sheet(report.datasets, "numbers", root / "sheet.png").stat().st_size > 0


def test_numbers_that_do_not_vary_are_a_problem(root: Path) -> None:
    lines = ["path,value", "0.png,2.5", "1.png,2.5", "2.png,1.5"]
    report = check(root, lines, ["3.png,2.5"])
    assert [found.text for found in report.of("problem")] == [
        "value is 2.5 for every image of train: there is nothing to learn"
    ]


def test_one_image_with_two_sets_of_labels_is_said_in_words(root: Path) -> None:
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    report = check(root, ["path,labels", "0.png,sea;sun", "1.png,", "2.png,sea", "3.png,sun"], ["4.png,sea"])
    (conflict,) = [text for kind, text in findings(report) if kind == "label_conflict"]
    assert conflict.endswith(f"{root}/0.png is sea and sun, {root}/1.png is none of the classes")


def test_grades_are_counted_as_classes_are(root: Path) -> None:
    lines = ["path,value", "0.png,1", "1.png,3", "2.png,3", "3.png,1"]
    report = check(root, lines, ["4.png,3"], task_kind="ordinal")
    assert to_json([report])["tasks"][0]["splits"]["train"]["per_class"] == [1, 0, 2]
    assert ("empty_class", "1 of 3 classes have no image in train: 2") in findings(report)
