"""What `check_tasks` finds in trees with one fault of each kind."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.checked import CLASS_NAMES, check, noise
from support.mask_files import write_set

from vision_peft.data.check import check as check_module
from vision_peft.data.check.check import check_tasks
from vision_peft.data.check.findings import Item
from vision_peft.data.check.report import summarise, to_json
from vision_peft.data.datasets.fgvc import FGVC
from vision_peft.data.datasets.folder import Folder
from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.datasets.segmentation import Segmentation
from vision_peft.data.datasets.vtab1k import VTAB1k
from vision_peft.data.decoding.image_kinds import MISSING_PLUGINS


def found(root: Path, **fields: Any) -> list[tuple[str, str, str]]:
    """Severity, kind and text of what is found in a tree; the paths in it start at the root."""
    report = check(Folder(root=str(root), **fields))
    return [(each.severity, each.kind, each.text.replace(f"{root}/", "")) for each in report.findings]


def test_a_sound_tree_has_no_findings_and_its_counts_are_right(tree: Path) -> None:
    noise(99, (30, 20)).save(tree / "train" / "cat" / "big.png")
    report = check(Folder(root=str(tree)))
    assert report.findings == []
    (task,) = to_json([report])["tasks"]
    assert task["data"]["name"] == "folder"
    assert task["folder"] == str(tree)
    assert task["classes"] == ["cat", "dog"]
    assert list(task["splits"]) == ["train", "val", "trainval", "test"]
    assert task["splits"]["train"] == {
        "images": 7,
        "unreadable": 0,
        "per_class": [4, 3],
        "images_per_class": {"min": 3, "median": 3.5, "max": 4},
        "width": {"min": 9, "median": 9, "max": 30},
        "height": {"min": 7, "median": 7, "max": 20},
        "sizes": 2,
        "formats": {"PNG": 7},
        "modes": {"RGB": 7},
    }


def test_of_images_that_are_sound_no_places_are_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million of them a list would take more memory than what is known of them."""
    (tree / "test" / "cat" / "same.png").write_bytes((tree / "train" / "cat" / "0.png").read_bytes())
    (tree / "test" / "cat" / "broken.png").write_bytes(b"")
    listed: list[str] = []
    monkeypatch.setattr(check_module, "Item", lambda *fields: listed.append(Path(fields[1]).name) or Item(*fields))
    assert [kind for _, kind, _ in found(tree)] == ["unreadable", "overlap"]
    assert sorted(listed) == ["0.png", "0.png", "broken.png", "same.png"]


def test_an_image_in_two_splits_is_a_problem_also_as_a_lossless_copy(tree: Path) -> None:
    original = tree / "train" / "cat" / "0.png"
    (tree / "test" / "cat" / "same.png").write_bytes(original.read_bytes())
    Image.open(tree / "val" / "dog" / "1.png").save(tree / "test" / "dog" / "again.bmp")
    report = check(Folder(root=str(tree)))
    assert [dataclasses.asdict(finding) for finding in report.findings] == [
        {
            "severity": "problem",
            "kind": "overlap",
            "text": f"train and test share an image (the same file): {original} (train), "
            f"{tree}/test/cat/same.png (test)",
            "splits": ["train", "test"],
            "items": [("train", str(original), 0), ("test", f"{tree}/test/cat/same.png", 0)],
        },
        {
            "severity": "problem",
            "kind": "overlap",
            "text": f"val and test share an image (the same pixels): {tree}/val/dog/1.png (val), "
            f"{tree}/test/dog/again.bmp (test)",
            "splits": ["val", "test"],
            "items": [("val", f"{tree}/val/dog/1.png", 1), ("test", f"{tree}/test/dog/again.bmp", 1)],
        },
    ]


def test_an_image_in_three_splits_is_one_finding(tree: Path) -> None:
    for split in ("val", "test"):
        (tree / split / "cat" / "same.png").write_bytes((tree / "train" / "cat" / "0.png").read_bytes())
    ((_, kind, text),) = found(tree)
    assert (kind, text.split(" share")[0]) == ("overlap", "train, val and test")


def test_copies_inside_a_split_are_a_warning_and_with_two_labels_a_problem(tree: Path) -> None:
    (tree / "train" / "cat" / "copy.png").write_bytes((tree / "train" / "cat" / "0.png").read_bytes())
    (tree / "test" / "dog" / "copy.png").write_bytes((tree / "test" / "cat" / "1.png").read_bytes())
    assert found(tree) == [
        (
            "problem",
            "label_conflict",
            "one image has several labels (the same file): test/cat/1.png is cat, test/dog/copy.png is dog",
        ),
        (
            "warning",
            "duplicate",
            "train holds an image 2 times (the same file): train/cat/0.png (train), train/cat/copy.png (train)",
        ),
        (
            "warning",
            "duplicate",
            "test holds an image 2 times (the same file): test/cat/1.png (test), test/dog/copy.png (test)",
        ),
    ]


def test_a_flat_image_of_another_shape_is_another_image(tmp_path: Path) -> None:
    for split, size in (("train", (6, 4)), ("val", (4, 6)), ("test", (8, 3))):
        for value, name in enumerate(CLASS_NAMES):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", size, (value, 0, 0)).save(tmp_path / split / name / "flat.png")
    assert found(tmp_path) == []


def test_unreadable_files_are_named_with_their_cause(tree: Path) -> None:
    (tree / "val" / "cat" / "page.jpg").write_text("<html>")
    whole = (tree / "test" / "dog" / "0.png").read_bytes()
    (tree / "test" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    problems = found(tree)
    assert [(severity, kind) for severity, kind, _ in problems] == [("problem", "unreadable")] * 2
    assert problems[0][2].startswith("test/dog/0.png: OSError: ")
    assert problems[1][2] == "val/cat/page.jpg: not a known image format (the file starts with b'<html>')"
    report = check(Folder(root=str(tree)))
    assert report.findings[1].splits == ["val", "trainval"]
    (task,) = to_json([report])["tasks"]
    assert [task["splits"][split]["unreadable"] for split in ("train", "val", "trainval", "test")] == [0, 1, 1, 1]


def test_more_pixels_than_allowed_are_unreadable_and_a_raised_limit_reads_them(tree: Path) -> None:
    noise(50, (40, 30)).save(tree / "train" / "cat" / "large.png")
    ((_, kind, text),) = found(tree, max_pixels=1000)
    assert (kind, "more than max_pixels=1,000" in text) == ("unreadable", True)
    assert found(tree, max_pixels=1200) == []


def test_a_file_that_goes_away_after_its_list_was_read_is_missing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tree / "train" / "dog" / "2.png"

    def open_and_lose(self: Folder, problems: list[str], open_splits: Any = Folder.open_splits) -> Any:
        opened = open_splits(self, problems)
        gone.unlink()
        return opened

    monkeypatch.setattr(Folder, "open_splits", open_and_lose)
    assert found(tree) == [("problem", "missing", "train/dog/2.png: there is no such file")]


def test_exif_and_wrong_extensions_are_warnings(tree: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for kind in ("jpg", "png"):
        noise(61 if kind == "jpg" else 62).save(tree / "train" / "cat" / f"turned.{kind}", exif=exif)
    noise(63).save(tree / "test" / "dog" / "named.jpg", format="PNG")
    turned = (
        "warning",
        "exif_rotation",
        "2 files that EXIF data would rotate (data.exif_rotation=true does so): "
        "train/cat/turned.jpg (orientation 6), train/cat/turned.png (orientation 6)",
    )
    named = ("warning", "extension", "1 file whose format does not match the extension: test/dog/named.jpg (PNG)")
    assert found(tree) == [turned, named]
    assert found(tree, exif_rotation=True) == [named]
    rotated = check(Folder(root=str(tree), exif_rotation=True)).contents[str(tree / "train/cat/turned.jpg")]
    assert getattr(rotated, "size", None) == (7, 9)


def test_a_family_that_cannot_turn_images_is_not_told_to(tmp_path: Path) -> None:
    root = write_set(tmp_path, {"train": 2, "val": 1, "test": 1})
    exif = Image.Exif()
    exif[274] = 6
    noise(0, (16, 12)).save(root / "images" / "000.jpg", exif=exif)
    findings = check(Segmentation(root=str(root))).findings
    (text,) = [finding.text for finding in findings if finding.kind == "exif_rotation"]
    assert "1 file that EXIF data would rotate (data=segmentation reads them as they are stored): " in text


def test_formats_and_modes_are_counted_as_they_are_stored(tree: Path) -> None:
    folder = tree / "val" / "cat"
    noise(70).convert("L").save(folder / "grey.png")
    noise(71).convert("CMYK").save(folder / "print.jpg")
    noise(72).quantize(4).save(folder / "palette.gif")
    Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 999).save(folder / "deep.png")
    (task,) = to_json([check(Folder(root=str(tree)))])["tasks"]
    assert task["findings"] == []
    assert task["splits"]["val"]["formats"] == {"PNG": 6, "JPEG": 1, "GIF": 1}
    assert task["splits"]["val"]["modes"] == {"RGB": 4, "I;16": 1, "L": 1, "P": 1, "CMYK": 1}


def test_every_problem_of_the_readers_is_there_once_with_file_and_line(tmp_path: Path) -> None:
    for number in range(30):
        noise(number).save(tmp_path / f"{number}.png")
    lines = [*(f"{number}.png {number % 2}" for number in range(4)), *(f"gone{k}.png 0" for k in range(25)), "odd"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "test.txt").write_text("20.png 0\n21.png 1\n")
    report = check(ImageLists(root=str(tmp_path), train="train.txt", val="test.txt", test="test.txt"))
    texts = [finding.text for finding in report.findings]
    gone = [f"{tmp_path}/train.txt:{k + 5}: image 'gone{k}.png' is missing" for k in range(25)]
    assert {*gone, f"{tmp_path}/train.txt:30: wanted '<path> <label>', got 'odd'"} < set(texts)
    assert len(texts) == len(set(texts)) == 25 + 1 + 2  # and two images that val and test share
    assert {finding.kind for finding in report.findings} == {"reader"}
    assert report.findings[0].splits == ["train", "val", "trainval", "test"]
    assert {split: len(dataset) for split, dataset in report.datasets.items()} == {"train": 4, "val": 2, "trainval": 6}
    (tmp_path / "train.txt").write_text("\n".join(lines[4:]))
    report = check(ImageLists(root=str(tmp_path), train="train.txt", val="test.txt", test="test.txt"))
    assert report.datasets == {}
    assert summarise(report).startswith("list: no split can be read\n")


def test_a_folder_in_a_class_folder_is_said_once_and_the_rest_is_checked(tree: Path) -> None:
    (tree / "train" / "cat" / "kitten").mkdir()
    (tree / "val" / "cat" / "0.png").write_bytes(b"")
    (tree / "val" / "dog" / "1.HEIC").write_bytes(b"")
    (tree / "val" / "dog" / "1.txt").write_bytes(b"")
    advice = "data.recursive=true reads the images in them, as of the class whose folder they are in"
    told = [(severity, kind, text.replace(str(tree), "ROOT")) for severity, kind, text in found(tree)]
    assert told[0] == ("problem", "reader", f"ROOT: 1 folder inside class folders (train/cat/kitten): {advice}")
    assert ("problem", "unreadable") in {each[:2] for each in told}
    if MISSING_PLUGINS:
        assert told[1][:2] == ("problem", "reader")
        assert "1 .heic cannot be read here: pip install pillow-heif" in told[1][2]
    assert told[-1] == ("warning", "reader", "ROOT: 1 file left out: 1 .txt")


def test_a_split_that_is_not_there_does_not_hide_the_faults_of_the_others(tree: Path) -> None:
    (tree / "test").rename(tree.parent / "elsewhere")
    (tree / "val" / "cat" / "0.png").write_bytes(b"")
    problems = found(tree)
    assert [kind for _, kind, _ in problems] == ["reader", "unreadable"]
    assert "has no folder test" in problems[0][2]
    (task,) = to_json([check(Folder(root=str(tree)))])["tasks"]
    assert task["splits"]["test"] is None


def test_a_suite_is_checked_task_by_task_and_missing_tasks_come_last(make_task: Callable[..., Path]) -> None:
    root = make_task("kitti", classes=["a", "b", "c", "d"]).parent
    reports = list(check_tasks(VTAB1k(root=str(root), task="structured"), workers=1))
    assert reports[0].title == "vtab1k kitti"
    assert len(reports) == 8
    assert {finding.kind for report in reports[1:] for finding in report.findings} == {"task"}
    assert to_json(reports)["problems"] == 7 + len(reports[0].of("problem"))
    with pytest.raises(ValueError, match=r"not one of 7 tasks can be checked: unknown data\.task 'cifar'"):
        list(check_tasks(VTAB1k(root=str(root), task="natural"), workers=1))


def test_what_cannot_be_checked_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        check(Folder(root=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"give data\.root=FOLDER"):
        check(Folder())


def test_the_number_of_threads_changes_nothing(tree: Path) -> None:
    (tree / "test" / "cat" / "copy.png").write_bytes((tree / "val" / "dog" / "0.png").read_bytes())
    one, four = (to_json(check_tasks(Folder(root=str(tree)), workers)) for workers in (1, 4))
    assert one == four
    assert one["problems"] == 2


@pytest.mark.parametrize(
    ("folder", "task", "count"),
    [
        ("fgvc", "sign_digits", 1100),
        *(
            pytest.param("vtab-1k", task, count, marks=pytest.mark.slow)
            for task, count in (("clothing", 1372), ("rsscn7", 1700), ("cifar10", 3000))
        ),
    ],
)
def test_the_shared_sets_have_no_copies_and_no_unreadable_file(
    shared: Path, folder: str, task: str, count: int
) -> None:
    kind = FGVC if folder == "fgvc" else VTAB1k
    report = check(kind(root=str(shared / "data" / folder), task=task))
    assert report.findings == []
    assert len({getattr(content, "file", None) for content in report.contents.values()}) == count
