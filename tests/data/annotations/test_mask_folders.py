"""Which images and masks are found in folders: every one, by one name each, or a word about it."""

import os
import unicodedata
from pathlib import Path

import pytest
from support.mask_files import halves, write_image, write_mask

from vision_peft.data.annotations.mask_folders import list_names
from vision_peft.data.datasets.segmentation import Segmentation

CLASSES = "land\nwater\n"


def write_pairs(root: Path, names: list[str], kind: str = "png", masks: list[str] | None = None) -> Path:
    for name, mask in zip(names, masks or names, strict=True):
        write_image(root / "images" / f"{name}.{kind}")
        write_mask(root / "masks" / f"{mask}.png", halves())
    (root / "classes.txt").write_text(CLASSES)
    return root


def divide(root: Path) -> list[list[str]]:
    """Return the paths of train, val and test below the folder of images, in NFC."""
    load = Segmentation(root=str(root)).open_splits()
    splits = (load(split) for split in ("train", "val", "test"))
    found = [[split.path(item) for item in range(len(split))] for split in splits]
    return [[unicodedata.normalize("NFC", os.path.relpath(path, root / "images")) for path in part] for part in found]


def test_files_come_in_the_order_of_their_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/b/c.png", "a.png", "a-b/y.png", "a/.hidden/x.png", ".h.png"):
        write_image(tmp_path / name)
    problems: list[str] = []
    with pytest.warns(UserWarning, match=r"2 files left out: 2 hidden"):
        found = list_names(tmp_path, problems)
    assert [*found] == ["a", "b", "a/z", "a/b/c", "a-b/y"]  # files first, then each folder with all that is in it
    assert found["a/b/c"] == str(tmp_path / "a/b/c.png")
    assert problems == []
    assert list_names(tmp_path / "nothing", problems) == {}


def test_two_images_of_one_name_are_a_problem_and_so_are_two_masks(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [str(number) for number in range(20)], "jpg")
    write_image(root / "images" / "1.png")
    write_mask(root / "masks" / "2.tif", halves())
    with pytest.raises(ValueError, match="2 problems") as caught:
        Segmentation(root=str(root)).open_splits()
    assert f"{root}/images/1.png: 1.jpg in this folder has the same name: keep one image of a name" in str(caught.value)
    assert f"{root}/masks/2.tif: 2.png in this folder has the same name: keep one mask of a name" in str(caught.value)


def test_links_to_folders_are_followed_and_loops_are_named(tmp_path: Path) -> None:
    root, far = write_pairs(tmp_path / "data", [f"a/{number:02}" for number in range(15)]), tmp_path / "far"
    write_pairs(far, [f"{number:02}" for number in range(15)])
    for kind in ("images", "masks"):
        (root / kind / "b").symlink_to(far / kind)
    parts = divide(root)
    assert sorted(path for part in parts for path in part) == [f"{part}/{n:02}.png" for part in "ab" for n in range(15)]
    (root / "images" / "a" / "up").symlink_to(root / "images")
    with pytest.raises(ValueError, match="images/a/up: a link to a folder that it is in"):
        divide(root)


def test_deep_folders_are_read(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [f"1/2/3/4/5/6/7/8/9/10/{number:02}" for number in range(20)])
    assert sum(map(len, divide(root))) == 20


def test_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, [f"{number:02}" for number in range(20)])
    for name in ("x.jxl9", "y.jxl9", "noext"):
        (root / "images" / name).write_bytes((root / "images" / "00.png").read_bytes())
    with pytest.warns(UserWarning, match=r"images: 3 files left out: 2 \.jxl9, 1 no extension"):
        assert sum(map(len, divide(root))) == 20


def test_names_are_the_same_in_both_forms_of_unicode(tmp_path: Path) -> None:
    names = {form: [unicodedata.normalize(form, f"é{number:02}") for number in range(20)] for form in ("NFC", "NFD")}
    composed = divide(write_pairs(tmp_path / "nfc", names["NFC"]))
    assert all(composed)
    assert divide(write_pairs(tmp_path / "nfd", names["NFD"])) == composed
    assert divide(write_pairs(tmp_path / "both", names["NFC"], masks=names["NFD"])) == composed
    listed = write_pairs(tmp_path / "listed", names["NFD"])
    (listed / "splits").mkdir()
    for part, text in (("train", names["NFC"][:15]), ("val", names["NFD"][15:]), ("test", names["NFC"][15:16])):
        (listed / "splits" / f"{part}.txt").write_text("\n".join(text))
    with pytest.raises(ValueError, match="1 problem") as caught:
        divide(listed)
    assert "is in val and in test" in str(caught.value)
