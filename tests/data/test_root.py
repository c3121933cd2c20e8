"""The folder of the data has one name however it is typed, so that names, draws and digests do not depend on it."""

from pathlib import Path
from typing import Any

import pytest
from support.checked import noise
from support.mask_files import halves, write_image, write_mask

from vision_peft.data import DATASETS
from vision_peft.data.few_items import take_few
from vision_peft.data.root import find_root, name_folder
from vision_peft.runs.data_record import DataRecord

FEW = 40


def write_masks(root: Path) -> None:
    """Write images with masks, which no list divides."""
    for number in range(20):
        write_image(root / "images" / f"{number:02}.png")
        write_mask(root / "masks" / f"{number:02}.png", halves())
    (root / "classes.txt").write_text("land\nwater\n")


def write_classes(root: Path) -> None:
    """Write images of two classes, in folders and in two lists."""
    lines: list[str] = []
    for number in range(FEW):
        name = f"{'ab'[number % 2]}/{number:02}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(root / name)
        lines.append(f"{name},{name[0]}")
    noise(FEW).save(root / "a" / "é.png")
    noise(FEW + 1).save(root / "b" / "è.png")
    (root / "ascii.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    (root / "letters.csv").write_text("path,label\n" + "\n".join([*lines, "a/é.png,a", "b/è.png,b"]) + "\n")


def describe(name: str, root: str, **fields: Any) -> tuple[str, list[list[str]], list[str]]:
    """Return the digest of the data, the names of the items of its splits and of those that few items train on."""
    family: Any = DATASETS[name]
    config = family(root=root, **fields)
    load = config.open_splits()
    record = DataRecord({split: load(split) for split in ("train", "val", "test")}, config)
    names = [[item.name for item in record.items(split)] for split in record.splits]
    share = family(root=root, train_share=0.3, **fields)
    few = take_few(load("train"), share)
    return record.digest, names, [item.name for item in DataRecord({"train": few}, share).items("train")]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("folder", {}),
        ("list", {"train": "ascii.csv", "test_fraction": 0.2}),
        ("list", {"train": "letters.csv", "test_fraction": 0.2}),
        ("segmentation", {}),
    ],
)
def test_every_spelling_of_the_root_is_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fields: dict[str, Any]
) -> None:
    root = tmp_path / "data"
    (write_masks if name == "segmentation" else write_classes)(root)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "away").symlink_to(tmp_path / "other" / "deep")
    monkeypatch.chdir(tmp_path / "other")
    wanted = describe(name, str(root), **fields)
    assert all(not Path(item).is_absolute() for items in wanted[1] for item in items)
    spellings = ("../data", "../data/", f"{root}/../data", "./../link", str(tmp_path / "link"), "../away/../../data")
    for spelling in spellings:
        assert describe(name, spelling, **fields) == wanted, spelling


def test_a_letter_that_is_not_ascii_moves_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for root in (str(tmp_path / "data"), "../data"):
        found = [describe("list", root, train=file, test_fraction=0.2)[1] for file in ("ascii.csv", "letters.csv")]
        for before, after in zip(*found, strict=True):
            assert {*after} - {"a/é.png", "b/è.png"} == {*before}


def test_two_dots_behind_a_link_lead_where_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    assert find_root(f"{tmp_path}/link/../data", "folder") == (tmp_path / "far" / "data").resolve()
    assert name_folder(f"{tmp_path}/far/../nothing") == tmp_path / "nothing"
