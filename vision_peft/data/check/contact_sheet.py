"""A picture of a dataset: a row of samples for every class, the splits side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vision_peft.data.check.target_facts import group_items
from vision_peft.data.check.tiles import INK, PALE, PAPER, cut, draw_tile, load_font, wrap
from vision_peft.data.config import SPLITS
from vision_peft.data.dataset import ImageDataset
from vision_peft.printable import printable
from vision_peft.safe_files import replacing

CLASSES = 40  # rows
COLUMNS = {"train": 6, "val": 3, "test": 3}  # samples a class
TILE = 96  # pixels a side
_GAP, _BETWEEN, _MARGIN, _LABEL = 4, 20, 20, 210


def draw_sheet(datasets: Mapping[str, ImageDataset], title: str, file: str | Path) -> Path:
    """Write the PNG `file` with samples of the first `CLASSES` classes of `datasets` (by split); gives its path.

    Of numbers the rows are ranges of the first of them.

    The samples of a class are evenly spaced in the order of the split, the same every time. A large image is scaled
    down to its tile, a small one enlarged by a whole number without smoothing; both keep their shape. A video shows
    four of its frames. What cannot be decoded is crossed out. Raises ValueError where there is no split to draw.
    """
    shown = {split: datasets[split] for split in SPLITS if split in datasets and split in COLUMNS}
    shown = shown or dict(datasets)
    if not shown:
        raise ValueError("nothing to draw: no split of the dataset can be read")
    classes, places = group_items(shown)
    rows = min(len(classes), CLASSES)
    left = _place_columns(shown)
    top, pitch = _MARGIN + 84, TILE + _GAP
    width = max(left.values()) + COLUMNS.get(list(shown)[-1], 6) * pitch - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, top + rows * pitch - _GAP + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, plain, small = load_font(20), load_font(15), load_font(13)
    counts = " / ".join(f"{len(dataset):,} {split}" for split, dataset in shown.items())
    draw.text((_MARGIN, _MARGIN), cut(printable(title), large, width - 2 * _MARGIN), INK, large)
    note = f"{len(classes):,} classes, {counts} {next(iter(shown.values())).what}s"
    note += f"; only the first {rows} classes are shown" if rows < len(classes) else ""
    draw.text((_MARGIN, _MARGIN + 28), cut(note, small, width - 2 * _MARGIN), PALE, small)
    for split in shown:
        draw.text((left[split], top - 24), split, INK, plain)
    for label in range(rows):
        y = top + label * pitch
        _draw_label(draw, y, classes[label], {split: len(places[split].get(label, ())) for split in shown})
        for split, dataset in shown.items():
            for column, index in enumerate(_space_evenly(places[split].get(label, ()), COLUMNS.get(split, 6))):
                sheet.paste(draw_tile(dataset, index, TILE), (left[split] + column * pitch, y))
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as opened:
        sheet.save(opened, "PNG")
    return file


def _place_columns(shown: Mapping[str, ImageDataset]) -> dict[str, int]:
    """Return where the columns of each split begin."""
    left, x = {}, _MARGIN + _LABEL
    for split in shown:
        left[split] = x
        x += COLUMNS.get(split, 6) * (TILE + _GAP) - _GAP + _BETWEEN
    return left


def _space_evenly(indices: Sequence[int] | np.ndarray, count: int) -> list[int]:
    if len(indices) <= count:
        return [int(index) for index in indices]
    return [int(indices[round(place * (len(indices) - 1) / (count - 1))]) for place in range(count)]


def _draw_label(draw: ImageDraw.ImageDraw, y: int, name: str, counts: Mapping[str, int]) -> None:
    plain, small = load_font(15), load_font(13)
    room = _LABEL - 12
    lines = wrap(printable(name), plain, room, most=3)
    below = wrap(", ".join(f"{count:,} {split}" for split, count in counts.items()), small, room, most=2)
    y += (TILE - 19 * len(lines) - 17 * len(below)) // 2
    for line in lines:
        draw.text((_MARGIN, y), line, INK, plain)
        y += 19
    for line in below:
        draw.text((_MARGIN, y), line, PALE, small)
        y += 17
