"""A picture of predictions: every image with what the model says of it, wrong answers framed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from vision_peft.data.check.tiles import INK, PALE, PAPER, cut, draw_tile, load_font
from vision_peft.data.dataset import ImageDataset
from vision_peft.printable import printable
from vision_peft.safe_files import replacing

MOST = 60  # images in one picture
_SIDE, _GAP, _MARGIN, _CAPTION = 132, 12, 24, 40
WRONG, RIGHT = "#c1121f", "#2a7f3f"
_FRAME = 4  # pixels


class Tile(NamedTuple):
    """One image of a montage."""

    place: int  # of the file in the dataset
    label: str
    probability: float | None  # of it; None where an answer is not one name
    truth: str | None

    @property
    def is_wrong(self) -> bool:
        """Whether the answer is known to be another."""
        return self.truth is not None and self.truth != self.label


def choose_places(count: int, most: int = MOST) -> list[int]:
    """Return the places of at most `most` of `count` files, evenly spread."""
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]


def draw_montage(dataset: ImageDataset, tiles: Sequence[Tile], title: str, note: str, file: Path) -> Path:
    """Write the PNG `file`: images in rows, under each the label and how sure the model is; gives its path.

    A wrong answer has a red frame and, below, what is true; where truths are known a right one has a green line under
    the image. Of a video four frames are shown.
    """
    columns = min(max(len(tiles), 1), 10, max(4, round((1.6 * len(tiles)) ** 0.5)))
    rows = -(-len(tiles) // columns)
    lines = 3 if any(tile.is_wrong for tile in tiles) else 2
    pitch, tall = _SIDE + _GAP, _SIDE + 18 * lines + 8 + _GAP
    width = max(2 * _MARGIN + columns * pitch - _GAP, 560)
    top = _MARGIN + 62
    sheet = Image.new("RGB", (width, top + rows * tall - _GAP + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, plain, small = load_font(20), load_font(14), load_font(12)
    draw.text((_MARGIN, _MARGIN - 6), cut(printable(title), large, width - 2 * _MARGIN), INK, large)
    draw.text((_MARGIN, _MARGIN + 24), cut(printable(note), small, width - 2 * _MARGIN), PALE, small)
    for number, tile in enumerate(tiles):
        x, y = _MARGIN + number % columns * pitch, top + number // columns * tall
        sheet.paste(draw_tile(dataset, dataset.first_item(tile.place), _SIDE), (x, y))
        if tile.is_wrong:
            box = (x - _FRAME, y - _FRAME, x + _SIDE + _FRAME - 1, y + _SIDE + _FRAME - 1)
            draw.rectangle(box, outline=WRONG, width=_FRAME)
        elif tile.truth is not None:
            draw.rectangle((x, y + _SIDE, x + _SIDE - 1, y + _SIDE + 2), fill=RIGHT)
        below = y + _SIDE + 8
        sure = "" if tile.probability is None else f"{100 * tile.probability:.0f} %"
        room = _SIDE - 6 - plain.getlength(sure)
        draw.text((x, below), cut(printable(tile.label), plain, int(room)), WRONG if tile.is_wrong else INK, plain)
        draw.text((x + _SIDE - plain.getlength(sure), below), sure, PALE, plain)
        name = printable(Path(dataset.path(dataset.first_item(tile.place))).name)
        if tile.is_wrong:
            draw.text((x, below + 18), cut(f"true: {printable(tile.truth)}", small, _SIDE), INK, small)
            below += 18
        draw.text((x, below + 18), cut(name, small, _SIDE), PALE, small)
    with replacing(file) as opened:
        sheet.save(opened, "PNG")
    return file
