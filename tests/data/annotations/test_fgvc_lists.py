"""FGVC: what is wrong with the text lists of the bird archives is said with file and line, all at once."""

from pathlib import Path

import pytest
from support.fgvc_miniatures import cub
from support.fgvc_problems import load, problems, replace

pytestmark = pytest.mark.usefixtures("small_fgvc")


def test_every_bad_line_of_the_bird_lists_is_reported_at_once(tmp_path: Path) -> None:
    folder = cub(tmp_path / "cub").folder
    replace(folder / "images.txt", "2 001", "1 001")
    replace(folder / "images.txt", "\n4 001.Black_footed_Albatross/Black_footed_Albatross_0003_7.jpg\n", "\n4\n")
    replace(folder / "image_class_labels.txt", "\n5 1\n", "\n5 one\n")
    replace(folder / "image_class_labels.txt", "\n6 1\n", "\n6 4\n")
    replace(folder / "image_class_labels.txt", "\n7 1\n", "\n")
    replace(folder / "train_test_split.txt", "\n8 1\n", "\n8 2\n")
    replace(folder / "train_test_split.txt", "\n9 1\n", "\n99 1\n")
    replace(folder / "classes.txt", "3 003", "three 003")
    assert problems(folder) == [
        "images.txt:2: id '1' is already on line 1",
        "images.txt:4: wanted '<id> <value>', got '4'",
        "classes.txt:3: class id 'three' is not an integer from 0",
        "image_class_labels.txt:5: class id 'one' is not an integer from 0",
        "image_class_labels.txt:6: class id 4 is not in classes.txt",
        "images.txt:7: image '7' has no line in image_class_labels.txt",
        "train_test_split.txt:8: wanted 1 (train) or 0 (test), got '2'",
        "images.txt:9: image '9' has no line in train_test_split.txt",
        *(f"image_class_labels.txt:{k}: class id 3 is not in classes.txt" for k in range(18, 24)),
        "image_class_labels.txt:2: image '2' is not in images.txt",
        "image_class_labels.txt:4: image '4' is not in images.txt",
        "train_test_split.txt:2: image '2' is not in images.txt",
        "train_test_split.txt:4: image '4' is not in images.txt",
        "train_test_split.txt:9: image '99' is not in images.txt",
        "FOLDER: 2 classes have images in train, wanted 3",
    ]


def test_missing_images_and_lists_of_the_bird_archives_are_named(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub")
    first, *_, last = made.splits["train"]
    (made.folder / first).unlink()
    (made.folder / last).unlink()
    assert problems(made.folder) == [
        f"images.txt:1: image {first!r} is missing",
        f"images.txt:22: image {last!r} is missing",
    ]
    assert len(load(made.folder, "test")) == 6
    (made.folder / "classes.txt").unlink()
    assert load(made.folder, "test").classes == made.classes
    (made.folder / "images.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"images\.txt"):
        load(made.folder)


def test_an_image_that_both_lines_of_the_bird_lists_name_is_an_error(tmp_path: Path) -> None:
    made = cub(tmp_path / "cub")
    first = next(iter(made.splits["train"])).removeprefix("images/")
    test = next(iter(made.splits["test"])).removeprefix("images/")
    replace(made.folder / "images.txt", test, first)
    assert problems(made.folder, "test") == [
        f"images.txt:11: image 'images/{first}' is also in images.txt:1: train and test overlap"
    ]
