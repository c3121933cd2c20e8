"""What `check_tasks` finds in trees with one fault of each kind, and the picture of samples."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from vision_peft.data.check import check_tasks
from vision_peft.data.check_report import TaskReport, summary, to_json
from vision_peft.data.contents import ProgressLine, read_contents
from vision_peft.data.dataset import DataConfig, ImageDataset
from vision_peft.data.digits import Digits
from vision_peft.data.fgvc import FGVC
from vision_peft.data.folder import Folder
from vision_peft.data.images import image_header
from vision_peft.data.list import ImageLists
from vision_peft.data.sheet import CLASSES, COLUMNS, TILE, draw_sheet
from vision_peft.data.vtab1k import VTAB1k

CLASS_NAMES = ("cat", "dog")


def noise(seed: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


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


def check(config: DataConfig) -> TaskReport:
    (report,) = check_tasks(config, workers=2)
    return report


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

    def load_and_lose(self: Folder, split: str, load: Callable[..., ImageDataset] = Folder.load) -> ImageDataset:
        dataset = load(self, split)
        if split == "test":
            gone.unlink()
        return dataset

    monkeypatch.setattr(Folder, "load", load_and_lose)
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
        "2 files that EXIF would turn (data.exif_rotation=true does): "
        "train/cat/turned.jpg (orientation 6), train/cat/turned.png (orientation 6)",
    )
    named = ("warning", "extension", "1 file of another format than the name says: test/dog/named.jpg (PNG)")
    assert found(tree) == [turned, named]
    assert found(tree, exif_rotation=True) == [named]
    rotated = check(Folder(root=str(tree), exif_rotation=True)).contents[str(tree / "train/cat/turned.jpg")]
    assert getattr(rotated, "size", None) == (7, 9)


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
    assert report.datasets == {}
    assert summary(report).startswith("list: no split can be read\n")


def test_a_split_that_is_not_there_does_not_hide_the_faults_of_the_others(tree: Path) -> None:
    (tree / "test").rename(tree.parent / "elsewhere")
    (tree / "val" / "cat" / "0.png").write_bytes(b"")
    problems = found(tree)
    assert [kind for _, kind, _ in problems] == ["reader", "unreadable"]
    assert "has no folder test" in problems[0][2]
    (task,) = to_json([check(Folder(root=str(tree)))])["tasks"]
    assert task["splits"]["test"] is None


class Squares(ImageDataset):
    """Flat images in memory; the label says nothing about the grey value."""

    def __init__(self, greys: Sequence[int], labels: Sequence[int], classes: Sequence[str] = CLASS_NAMES) -> None:
        super().__init__(classes, labels)
        self.greys = greys

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (self.greys[index],) * 3)

    def path(self, index: int) -> str:
        return f"grey {self.greys[index]}"


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
    with pytest.raises(FileNotFoundError, match="is no folder"):
        check(Folder(root=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"give data\.root=FOLDER"):
        check(Folder())


def test_only_as_many_images_are_asked_for_as_the_threads_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    most_ahead = 0

    class Counted(Squares):
        def image(self, index: int) -> Image.Image:
            asked.append(index)
            return super().image(index)

    def note(done: int, total: int) -> None:
        nonlocal most_ahead
        assert total == 200
        most_ahead = max(most_ahead, len(asked) - done)

    contents = read_contents({"train": Counted(range(200), [0] * 200)}, workers=2, progress=note)
    assert list(contents) == [f"grey {value}" for value in range(200)]
    assert sorted(asked) == list(range(200))
    assert most_ahead <= 2 * 4 + 1


def test_the_number_of_threads_changes_nothing(tree: Path) -> None:
    (tree / "test" / "cat" / "copy.png").write_bytes((tree / "val" / "dog" / "0.png").read_bytes())
    one, four = (to_json(check_tasks(Folder(root=str(tree)), workers)) for workers in (1, 4))
    assert one == four
    assert one["problems"] == 2


def test_the_progress_line_comes_now_and_then_and_not_for_small_sets(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line(1, 2)
    line(2, 2)
    assert capsys.readouterr().err == ""
    line.next = 0.0
    line(1000, 2000)
    line(1001, 2000)
    assert capsys.readouterr().err == "1,000 of 2,000 images read\n"


def test_a_header_with_broken_exif_is_upright(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(40)))
    assert image_header(tmp_path / "a.jpg") == ("JPEG", "RGB", (9, 7), 1)


def test_the_shared_sets_have_no_copies_and_no_unreadable_file(shared: Path) -> None:
    configs = [VTAB1k(root=str(shared / "data/vtab-1k"), task=task) for task in ("clothing", "rsscn7", "cifar10")]
    images = [1372, 1700, 3000, 1100]
    for config, count in zip([*configs, FGVC(root=str(shared / "data/fgvc"), task="sign_digits")], images, strict=True):
        report = check(config)
        assert report.findings == []
        assert len({getattr(content, "file", None) for content in report.contents.values()}) == count


def test_the_sheet_has_a_row_a_class_and_its_columns_hold_the_samples(tree: Path, tmp_path: Path) -> None:
    for number in range(7, 20):
        noise(number + 100).save(tree / "train" / "cat" / f"{number:02}.png")
    Image.new("RGB", (960, 480), (255, 0, 0)).save(tree / "train" / "dog" / "0.png")
    (tree / "train" / "dog" / "1.png").write_bytes(b"")
    datasets = {split: Folder(root=str(tree)).load(split) for split in ("train", "val", "trainval", "test")}
    first = draw_sheet(datasets, "a title", tmp_path / "new" / "sheet.png").read_bytes()
    assert draw_sheet(datasets, "a title", tmp_path / "sheet.png").read_bytes() == first
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    left, top, step = 230, 104, TILE + 4
    assert sheet.shape == (top + 2 * step - 4 + 20, left + sum(COLUMNS.values()) * step - 3 * 4 + 2 * 20 + 20, 3)
    cats = [path for path in datasets["train"].paths if "/cat/" in path]  # pyright: ignore[reportAttributeAccessIssue]
    for column, index in enumerate((0, 3, 6, 9, 12, 15)):  # 16 images, evenly spaced
        pixels = np.asarray(Image.open(cats[index])).repeat(10, 0).repeat(10, 1)  # 9x7 pixels fit ten times
        tile = sheet[top : top + TILE, left + column * step :][:, :TILE]
        assert (tile[13 : 13 + 70, 3 : 3 + 90] == pixels).all()
    red = sheet[top + step : top + step + TILE, left : left + TILE] == (255, 0, 0)
    assert red.all(-1).sum() == TILE * TILE // 2  # twice as wide as high
    crossed = sheet[top + step : top + step + TILE, left + step : left + step + TILE].reshape(-1, 3)
    assert {tuple(colour) for colour in crossed.tolist()} == {(0xE9, 0xE9, 0xEC), (0xB0, 0, 0x20)}


def test_the_sheet_shows_the_first_classes_of_many_and_digits_in_memory(tmp_path: Path) -> None:
    names = [f"a long name of class number_{number} that needs more lines than there are" for number in range(60)]
    names[:3] = ["two\nlines", "no text: \udcff", ""]
    many = Squares(range(60), range(60), names)
    sheet = Image.open(draw_sheet({"train": many}, "many " * 60, tmp_path / "many.png"))
    assert sheet.height == 104 + CLASSES * (TILE + 4) - 4 + 20
    digits = Image.open(draw_sheet({"test": Digits().load("test")}, "digits", tmp_path / "digits.png"))
    assert digits.size == (230 + 3 * (TILE + 4) - 4 + 20, 104 + 10 * (TILE + 4) - 4 + 20)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_sheet({}, "none", tmp_path / "none.png")
