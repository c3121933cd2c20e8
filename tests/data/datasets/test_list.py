"""The users' own list files: text and csv, numbers and names, and whatever may be wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_peft.data.annotations import split_lists
from vision_peft.data.annotations.join_lists import REPEATED
from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.decoding.image_dataset import ImageFiles

MakeImage = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage) -> Path:
    """Images `a0.png` to `a19.png`, `b0.png` to `b9.png`, and some with trying names."""
    folder = tmp_path / "root"
    names = [f"a{number}" for number in range(20)] + [f"b{number}" for number in range(10)]
    for number, name in enumerate([*names, "with space", "with, comma", "c0"]):
        make_image(folder / "images" / f"{name}.png", value=number)
    return folder


def write(root: Path, name: str, *lines: str, end: str = "\n") -> None:
    (root / name).write_bytes("".join(f"{line}{end}" for line in lines).encode())


def load(root: Path, split: str, **fields: Any) -> ImageFiles:
    dataset = ImageLists(root=str(root), **{"train": "train.txt", **fields}).load(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


def items(dataset: ImageFiles) -> list[tuple[str, int]]:
    return [(Path(path).stem, label) for path, label in zip(dataset.paths, dataset.labels, strict=True)]


def problems(root: Path, split: str = "train", **fields: Any) -> list[str]:
    with pytest.raises(ValueError, match="data=list") as caught:
        load(root, split, **fields)
    first, *lines = str(caught.value).split("\n")
    assert f"{len(lines)} problem" in first
    return [line.strip().replace(f"{root}/", "") for line in lines]


def test_three_lists_are_read_in_their_order(root: Path) -> None:
    write(root, "train.txt", "images/b1.png 1", "images/a1.png 0", "images/with space.png 1")
    write(root, "val.txt", "images/b2.png 1")
    write(root, "test.txt", "images/c0.png 0")
    given = {"val": "val.txt", "test": str(root / "test.txt")}
    assert items(load(root, "train", **given)) == [("b1", 1), ("a1", 0), ("with space", 1)]
    assert items(load(root, "val", **given)) == [("b2", 1)]
    assert items(load(root, "trainval", **given)) == [("b1", 1), ("a1", 0), ("with space", 1), ("b2", 1)]
    assert items(load(root, "test", **given)) == [("c0", 0)]
    assert load(root, "test", **given).classes == ["0", "1"]
    assert load(root, "train", **given)[0][0].getpixel((0, 0)) == (21, 21, 21)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \r\n\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("train.txt", ["\ufeffimages/a1.png 0", "images/with space.png\t1", "./images/with, comma.png   1"]),
        ("train.csv", ["\ufeffimages/a1.png,0", "images/with space.png, 1", '"./images/with, comma.png",1']),
        ("train.csv", ["\ufeffPath,Label", "images/a1.png,0", "images/with space.png,1", '"images/with, comma.png",1']),
        ("train.csv", ["n,label,path", "7,0,images/a1.png", "8,1,images/with space.png", '9,1,"images/with, comma.png"']),  # noqa: E501
        ("train.csv", ["images/a1.png 0", "images/with space.png 1", "images/with, comma.png 1"]),
        ("train.CSV", ["path,label", "images/a1.png,a", "images/with space.png,b c", '"images/with, comma.png",b c']),
        ("train.csv", ["filename,class", "images/a1.png,0", "images/with space.png,1", '"images/with, comma.png",1']),
        ("train.csv", ["Image Path;Category", "images/a1.png;a", "images/with space.png;b", "images/with, comma.png;b"]),  # noqa: E501
        ("train.tsv", ["\tfile_name\tclass", "0\timages/a1.png\ta", "1\timages/with space.png\tb c", "2\timages/with, comma.png\tb c"]),  # noqa: E501
        ("train.tsv", ["images/a1.png\ta", "images/with space.png\tb c", "images/with, comma.png\tb c"]),
        ("train.tsv", ["images/a1.png 0", "images/with space.png 1", "images/with, comma.png 1"]),
        ("train.txt", ["filename class", "images/a1.png 0", "images/with space.png 1", "images/with, comma.png 1"]),
        ("train", ["images/a1.png ash", "images/with space.png oak", "images/with, comma.png oak"]),
    ],
)  # fmt: skip
def test_text_and_csv_say_the_same(root: Path, name: str, lines: list[str], end: str) -> None:
    write(root, name, *lines, end=end)
    both = load(root, "trainval", train=name)
    assert sorted(items(both)) == [("a1", 0), ("with space", 1), ("with, comma", 1)]
    assert both[1][0].size == (12, 10)


def test_names_are_classes_in_sorted_order_or_in_that_of_the_file(root: Path) -> None:
    write(root, "train.txt", "images/a1.png oak", "images/a2.png ash", "images/a3.png oak")
    write(root, "test.txt", "images/a4.png ash")
    write(root, "classes.txt", "oak", "big elm", "ash", end="\r\n")
    assert load(root, "test", test="test.txt").classes == ["ash", "oak"]
    assert load(root, "test", test="test.txt").labels == [0]
    with pytest.warns(UserWarning, match=r"train\.txt: 1 of 3 classes have no training image: big elm"):
        assert load(root, "trainval", classes="classes.txt").classes == ["oak", "big elm", "ash"]
    assert load(root, "test", test="test.txt", classes="classes.txt").labels == [2]


def test_a_label_that_does_not_fit_the_first_one_is_reported(root: Path) -> None:
    write(root, "train.txt", "images/a1.png oak", "images/a2.png ash", "images/a3.png 1")
    write(root, "test.txt", "images/a4.png ahs", "images/a5.png 0")
    assert problems(root, test="test.txt") == [
        "train.txt:3: label '1' is a number among class names; data.classes=FILE treats it as a name",
        "test.txt:1: class 'ahs' is not among the 3 classes of train.txt (did you mean ash?)",
        "test.txt:2: label '0' is a number among class names; data.classes=FILE treats it as a name",
    ]
    write(root, "train.txt", "images/a1.png 1", "images/a2.png oak", "images/a3.png -1", "images/a6.png 2.0")
    write(root, "test.txt", "images/a4.png 2", f"images/a5.png {10**9}")
    assert problems(root, test="test.txt") == [
        "train.txt:2: label 'oak' is not an integer",
        "train.txt:3: label -1 is out of range: wanted 0 to 1",
        "train.txt:4: label '2.0' is not an integer",
        "test.txt:1: label 2 is out of range: wanted 0 to 1",
        "test.txt:2: label 1000000000 is out of range: wanted 0 to 1",
    ]
    write(root, "classes.txt", "oak", "", "oak")
    assert problems(root, classes="classes.txt")[:2] == [
        "classes.txt:2: empty class name",
        "classes.txt:3: class name 'oak' is already on line 1",
    ]


def test_gaps_in_the_labels_are_a_warning(root: Path) -> None:
    write(root, "train.txt", "images/a1.png 1", "images/a2.png 4")
    with pytest.warns(UserWarning, match="3 of 5 classes have no training image: 0, 2, 3"):
        assert load(root, "train").classes == ["0", "1", "2", "3", "4"]


def test_without_a_val_list_a_share_of_train_is_drawn_by_the_names_of_the_files(root: Path) -> None:
    write(root, "train.txt", *[f"images/a{i}.png 0" for i in range(20)], *[f"images/b{i}.png 1" for i in range(10)])
    train, val = load(root, "train"), load(root, "val")
    assert (len(train) + len(val), 0 < len(val) < 10) == (30, True)
    assert not set(train.paths) & set(val.paths)
    assert load(root, "trainval").paths == train.paths + val.paths
    assert load(root, "val").paths == val.paths
    assert load(root, "val", seed=1).paths != val.paths
    half = load(root, "val", val_fraction=0.5)
    assert set(half.paths) > set(val.paths)
    lines = [f"./images/../images/b{i}.png 0" for i in range(10)] + [f"images/a{i}.png 1" for i in range(1, 20)]
    write(root, "train.txt", *lines)  # in another order and spelling, with other labels, without one
    again = {name for name, _ in items(load(root, "val", val_fraction=0.5))}
    assert again == {name for name, _ in items(half)} - {"a0"}
    write(root, "train.txt", "images/a1.png 0", "images/b1.png 1")
    with pytest.raises(ValueError, match="split val is empty"):
        load(root, "val")


def test_every_problem_of_every_list_is_reported_at_once(root: Path) -> None:
    write(root, "train.txt", "images/a1.png 0", "images/gone.png 1", "images/a1.png", "./images/a1.png 1", end="\r\n")
    write(root, "val.csv", "path,label", "images/a2.png,5", 'images/"a3.png,0', "images/a4.png,1,7", ",1", '"open,1')
    write(root, "test.txt", "images/a1.png 0", "images/a5.png 0", "images/../images/a5.png 0")
    assert problems(root, val="val.csv", test="test.txt") == [
        "train.txt:3: wanted '<path> <label>', got 'images/a1.png'",
        "val.csv:4: wanted 2 columns with path and label, got 'images/a4.png,1,7'; "
        "a header names the columns path and label",
        "val.csv:5: wanted 2 columns with path and label, got ',1'; a header names the columns path and label",
        "val.csv:6: not a line of a csv file: unexpected end of data",
        "train.txt:2: image 'images/gone.png' is missing",
        "train.txt:4: image './images/a1.png' is already on line 1"
        ": list it once; data.balanced=true trains on rare classes as often as on others",
        "val.csv:3: image 'images/\"a3.png' is missing",
        "test.txt:1: image 'images/a1.png' is also in train.txt:1",
        "test.txt:3: image 'images/../images/a5.png' is already on line 2",
    ]


def test_images_outside_the_root_are_refused_unless_that_is_allowed(
    root: Path, tmp_path: Path, make_image: MakeImage
) -> None:
    outside = make_image(tmp_path / "outside.png")
    (root / "images" / "link.png").symlink_to(outside)
    write(root, "train.txt", "images/a1.png 0", f"{outside} 0", "images/link.png 1", "../root2/../outside.png 1")
    (tmp_path / "root2").mkdir()
    found = problems(root)
    assert [line.split(": ")[0] for line in found] == ["train.txt:2", "train.txt:3", "train.txt:4"]
    assert "is absolute: wanted a path below" in found[0]
    assert "leads out of" in found[1]
    assert all(line.endswith("(data.allow_absolute=true lets it)") for line in found)
    write(root, "train.txt", "images/a1.png 0", f"{outside} 0", "images/link.png 1")
    train = load(root, "trainval", allow_absolute=True)
    assert sorted(items(train)) == [("a1", 0), ("link", 1), ("outside", 0)]
    write(root, "train.txt", "images/a1.png 0", f"{outside} 0", "../outside.png 1", "/nowhere.png 1")
    assert problems(root, allow_absolute=True) == [
        f"train.txt:3: image '../outside.png' is already on line 2{REPEATED}",
        "train.txt:4: image '/nowhere.png' is missing",
    ]


def test_a_list_that_is_not_there_or_not_given_is_named(root: Path) -> None:
    write(root, "train.txt", "images/a1.png 0", "images/a2.png 1")
    with pytest.raises(ValueError, match=r"give data\.train=FILE"):
        load(root, "train", train=None)
    near = r"data\.train=tarin\.txt: there is no file .* \(did you mean .*/train\.txt\?"
    with pytest.raises(FileNotFoundError, match=near):
        load(root, "train", train="tarin.txt")
    with pytest.raises(FileNotFoundError, match=r"data\.classes=names\.txt: there is no file"):
        load(root, "train", classes="names.txt")
    assert len(load(root, "train")) == 2
    with pytest.raises(FileNotFoundError, match=r"no test images: give data\.test=FILE"):
        load(root, "test")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("train.txt", b"", "the file is empty"),
        ("train.csv", b"\r\n \r\n", "the file is empty"),
        ("train.csv", b"path,label\r\n", "no line below the header"),
        ("train.csv", b"\xff\xfe\x00,1", "not UTF-8 text"),
        ("train.csv", b"PNG,\x00\n", "not among|missing|cannot be read|line contains NUL"),
        ("train.csv", b"picture;breed\nimages/a1.png;0\nimages/a2.png;1\n", r"train\.csv:1: looks like a header"),
        ("train.csv", b'"' + b"x" * 200_000 + b'",1', "field larger than field limit"),
    ],
)
def test_a_file_that_is_no_list_is_reported(root: Path, name: str, content: bytes, problem: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem) as caught:
        load(root, "train", train=name)
    assert len(str(caught.value)) < 1000


def test_a_first_line_of_unknown_words_is_said_to_look_like_a_header(root: Path) -> None:
    write(root, "train.csv", "picture,breed", "images/a1.png,3", "images/a2.png,1", "images/gone.png,0")
    assert problems(root, train="train.csv") == [
        "train.csv:1: looks like a header ('picture' and 'breed'): name its columns path and label, or remove it",
        "train.csv:4: image 'images/gone.png' is missing",
    ]
    write(root, "train.csv", "gone,3", "gone2,1")
    assert problems(root, train="train.csv") == [
        "train.csv:1: image 'gone' is missing",
        "train.csv:2: image 'gone2' is missing",
    ]


def test_names_are_compared_in_one_spelling_of_unicode(root: Path, make_image: MakeImage) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make_image(root / decomposed / f"{decomposed}.png")
    lines = [f"images/a{number}.png {composed if number % 2 else decomposed}" for number in range(10)]
    write(root, "train.txt", *lines, f"{composed}/{composed}.png tea")
    write(root, "test.txt", f"images/b0.png {decomposed}")
    with pytest.warns(UserWarning, match="Unicode") as caught:
        both = load(root, "trainval", test="test.txt")
    assert {str(warning.message).replace(f"{root}/", "") for warning in caught} == {
        f"train.txt: classes whose names differ in their Unicode spelling alone are one: {composed}",
        f"train.txt: 1 paths are spelt otherwise in Unicode than the files are called, and mean those: "
        f"'{decomposed}/{decomposed}.png'",
    }
    assert both.classes == [composed, "tea"]
    assert sorted(both.labels) == [0] * 10 + [1]
    assert both[both.paths.index(f"{root}/{decomposed}/{decomposed}.png")][1] == 1
    with pytest.warns(UserWarning, match="are one"):
        assert list(load(root, "test", test="test.txt").labels) == [0]
    write(root, "classes.txt", composed, decomposed)
    assert problems(root, classes="classes.txt")[:1] == [f"classes.txt:2: class name '{composed}' is already on line 1"]
    write(root, "train.txt", f"{composed}/{composed}.png tea", f"{decomposed}/{decomposed}.png tea")
    with pytest.warns(UserWarning, match="spelt otherwise"):
        assert problems(root) == [f"train.txt:2: image '{decomposed}/{decomposed}.png' is already on line 1{REPEATED}"]


def test_folders_with_many_files_are_listed_and_not_asked_file_by_file(
    root: Path, tmp_path: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "images" / "out.png").symlink_to(make_image(tmp_path / "outside.png"))
    (root / "images" / "in.png").symlink_to(root / "images" / "c0.png")
    (root / "images" / "pipe.png").mkdir()
    lines = [f"images/a{number}.png {number}" for number in range(20)]
    write(root, "train.txt", *lines, *(f"images/{name}.png 0" for name in ("out", "in", "pipe", "gone", "A1")))
    real, asked = PathCheck.find_problem, []
    monkeypatch.setattr(PathCheck, "find_problem", lambda check, path: asked.append(path) or real(check, path))
    found = problems(root)
    assert [line.partition(": ")[0] for line in found] == [f"train.txt:{number}" for number in (21, 23, 24, 25)]
    assert asked == [f"images/{name}.png" for name in ("out", "in", "pipe", "gone", "A1")]


def test_the_lists_are_read_once_for_all_splits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "train.txt", *[f"images/a{i}.png 0" for i in range(20)], *[f"images/b{i}.png 1" for i in range(10)])
    real, read = split_lists.read_list_lines, []
    monkeypatch.setattr(split_lists, "read_list_lines", lambda file, *rest: read.append(file.name) or real(file, *rest))
    open_split = ImageLists(root=str(root), train="train.txt").open_splits()
    assert sum(len(open_split(split)) for split in ("train", "val", "trainval")) == 60
    assert read == ["train.txt"]


def test_what_is_sound_can_be_read_in_spite_of_problems(root: Path) -> None:
    write(root, "train.txt", *[f"images/a{i}.png 0" for i in range(20)], "images/gone.png 0", "images/b1.png 1")
    found: list[str] = []
    open_split = ImageLists(root=str(root), train="train.txt").open_splits(found)
    assert len(open_split("trainval")) == 21
    assert len(found) == 1


def test_the_fraction_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"data\.val_fraction must be between 0 and 1"):
        ImageLists(val_fraction=-1)
