"""The picture of samples."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.checked import Squares, noise

from vision_peft.data.check.contact_sheet import CLASSES, COLUMNS, TILE, draw_sheet
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.datasets.folder import Folder


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
