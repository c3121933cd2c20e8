"""Masks and depths as pictures: colours of classes, over the image they belong to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vision_peft.data.check.tiles import INK, PALE, PAPER, cut, load_font
from vision_peft.printable import printable
from vision_peft.safe_files import replacing

Colour = tuple[int, int, int]
LARGEST = 512  # pixels of the long side of an example
_SMALLEST = 140  # as many are shown of a smaller one, each pixel several times
_SHARE = 0.55  # of the colour over the image
_GAP = 4  # pixels between pictures
_GREY = (127, 127, 127)
_HEADING, _LETTERS, _SQUARE, _LINE = (
    20,
    12,
    12,
    18,
)  # pixels: a line of headings, its letters, a colour, a line of names
_LEGEND_WIDTH = 720  # pixels of a legend by itself
LEGEND = "class-colours.png"  # beside overlays
MOST_NAMED = 40  # classes in a legend
LONGEST_NAME = 30  # letters of one of them
HEADINGS = ("image", "true", "predicted")


def make_palette(classes: int, given: Sequence[Colour] | None = None) -> list[Colour]:
    """Return a colour for each class: those given, or else the first of PASCAL VOC's, bits of the number spread."""
    palette = [*(given or ())][:classes]
    for number in range(len(palette), classes):
        bits, colour = number + 1, [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                colour[channel] |= (bits >> channel & 1) << (7 - place)
            bits >>= 3
        palette.append((colour[0], colour[1], colour[2]))
    return palette


def colour_classes(mask: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Return the colours (H W 3) of a mask of classes (H W); what is no class is grey."""
    table = np.full((256, 3), _GREY, np.uint8)
    table[: len(palette)] = palette
    return table[mask]


def colour_depths(depths: np.ndarray, nearest: float, farthest: float) -> np.ndarray:
    """Return the colours (H W 3) of depths from near (bright) to far (dark); 0, no measurement, is grey."""
    from matplotlib import colormaps

    span = max(np.log(farthest / nearest), 1e-6)
    place = 1 - np.log(np.clip(depths, nearest, farthest) / nearest) / span
    colours: Any = colormaps["magma"](place)
    return np.where(depths[..., None] > 0, (colours[..., :3] * 255).astype(np.uint8), np.uint8(_GREY[0]))


def lay_over(image: Image.Image, colours: np.ndarray) -> Image.Image:
    """Return the image with colours (H W 3) over it."""
    below = image.convert("RGB").resize((colours.shape[1], colours.shape[0]))
    return Image.blend(below, Image.fromarray(colours), _SHARE)


def draw_rows(
    path: Path,
    rows: Sequence[Sequence[Image.Image]],
    headings: Sequence[str] = (),
    legend: Sequence[tuple[str, Colour]] = (),
) -> None:
    """Write pictures as PNG, row by row, on white: in each the image, what is true, what was predicted.

    Args:
        path: the file.
        rows: of pictures, as many in each.
        headings: of the columns; none where it is empty.
        legend: names and colours of the classes, below; of many the first, see `draw_legend`.
    """
    factor = max(1, _SMALLEST // max(max(each.size) for row in rows for each in row))
    rows = [
        [each.resize((each.width * factor, each.height * factor), Image.Resampling.NEAREST) for each in row]
        for row in rows
    ]
    columns = [max(row[column].width for row in rows) for column in range(len(rows[0]))]
    width = sum(columns) + _GAP * (len(columns) - 1)
    key = draw_legend(legend, width) if legend else None
    above, below = _HEADING if headings else 0, key.height + _GAP if key else 0
    height = sum(max(each.height for each in row) for row in rows) + _GAP * (len(rows) - 1)
    sheet, top = Image.new("RGB", (width, above + height + below), PAPER), above
    draw, font = ImageDraw.Draw(sheet), load_font(_LETTERS)
    for column, heading in enumerate(headings):
        left = sum(columns[:column]) + _GAP * column
        draw.text((left + 2, 3), cut(heading, font, columns[column] - 4), INK, font)
    for row in rows:
        left = 0
        for column, each in enumerate(row):
            sheet.paste(each, (left, top))
            left += columns[column] + _GAP
        top += max(each.height for each in row) + _GAP
    if key:
        sheet.paste(key, (0, sheet.height - key.height))
    with replacing(path) as file:
        sheet.save(file, "PNG")


def draw_legend(legend: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    """Draw the colours of classes with their names, in columns, `width` pixels wide; of very many the first.

    How many more there are stands at the end.
    """
    font = load_font(_LETTERS)
    shown = [(printable(name, LONGEST_NAME), colour) for name, colour in legend[:MOST_NAMED]]
    cells: list[tuple[str, Colour | None]] = [*shown]
    if len(legend) > len(shown):
        cells.append((f"{len(legend) - len(shown)} more", None))
    longest = max(font.getlength(name) for name, _ in cells)
    columns = max(1, min(len(cells), int(width // (longest + _SQUARE + 3 * _GAP))))
    room, lines = width // columns, -(-len(cells) // columns)
    picture = Image.new("RGB", (width, lines * _LINE + _GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    for place, (name, colour) in enumerate(cells):
        x, y = place // lines * room + 2, place % lines * _LINE + _GAP
        if colour is not None:
            draw.rectangle((x, y, x + _SQUARE - 1, y + _SQUARE - 1), colour, PALE)
        text = cut(name, font, room - _SQUARE - 3 * _GAP)
        draw.text((x + _SQUARE + _GAP, y - 2), text, PALE if colour is None else INK, font)
    return picture


def write_legend(path: Path, legend: Sequence[tuple[str, Colour]]) -> None:
    """Write the colours of classes with their names as a PNG of its own, beside overlays of any size."""
    with replacing(path) as file:
        draw_legend(legend, _LEGEND_WIDTH).save(file, "PNG")


def thin(mask: np.ndarray) -> np.ndarray:
    """Leave out rows and columns of a mask (H W) until its long side is at most `LARGEST`."""
    step = -(-max(mask.shape) // LARGEST)
    return mask[::step, ::step]


class Examples:
    """A few of many masks, the same ones whatever the order in which they come: true and predicted, by item."""

    def __init__(self, most: int = 6) -> None:
        self.most = most
        self.kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, item: int, true: np.ndarray, predicted: np.ndarray) -> None:
        """Offer the masks (H W) of an item."""
        self.kept[item] = thin(true), thin(predicted)
        if len(self.kept) > self.most:
            del self.kept[max(self.kept, key=_scatter)]


def _scatter(item: int) -> int:
    """Return a number that spreads items evenly."""
    return item * 2654435761 % 2**32
