"""A picture of a search: queries and the nearest of the gallery to each, framed by whether the class is the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from vision_peft.data.check.tiles import INK, PALE, PAPER, cut, draw_tile, load_font
from vision_peft.data.dataset import ImageDataset
from vision_peft.inference.montage import RIGHT, WRONG
from vision_peft.printable import printable
from vision_peft.safe_files import replacing

MOST = 12  # queries in one picture
NEIGHBOURS = 5
_SIDE, _GAP, _MARGIN, _CAPTION, _FRAME = 132, 12, 24, 22, 4


class Shown(NamedTuple):
    """An image of the picture: its place in the dataset, its class where that is known, and how near it is."""

    place: int
    label: str | None
    cosine: float | None = None  # to the query; None: the query itself


def draw_neighbours(
    queries: ImageDataset,
    gallery: ImageDataset,
    rows: Sequence[tuple[Shown, Sequence[Shown]]],
    title: str,
    note: str,
    file: Path,
) -> Path:
    """Write the PNG `file`: in each row a query and, behind it, the nearest of the gallery; gives its path.

    The frame of a neighbour is green where its class is that of the query, and red where it is another; there is none
    where one of the two classes is not known. Under a neighbour stand its class and the cosine.
    """
    columns = 1 + max((len(found) for _, found in rows), default=0)
    pitch, tall = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
    width, top = max(2 * _MARGIN + columns * pitch + _GAP, 560), _MARGIN + 62
    sheet = Image.new("RGB", (width, top + len(rows) * tall - _GAP + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, plain, small = load_font(20), load_font(13), load_font(12)
    draw.text((_MARGIN, _MARGIN - 6), cut(printable(title), large, width - 2 * _MARGIN), INK, large)
    draw.text((_MARGIN, _MARGIN + 24), cut(printable(note), small, width - 2 * _MARGIN), PALE, small)
    for number, (query, found) in enumerate(rows):
        y = top + number * tall
        for column, shown in enumerate((query, *found)):
            x = _MARGIN + column * pitch + (2 * _GAP if column else 0)
            dataset = gallery if column else queries
            sheet.paste(draw_tile(dataset, dataset.first_item(shown.place), _SIDE), (x, y))
            colour = INK
            if column and shown.label is not None and query.label is not None:
                colour = RIGHT if shown.label == query.label else WRONG
                box = (x - _FRAME, y - _FRAME, x + _SIDE + _FRAME - 1, y + _SIDE + _FRAME - 1)
                draw.rectangle(box, outline=colour, width=_FRAME)
            near = "" if shown.cosine is None else f"{shown.cosine:.2f}"
            name = Path(dataset.path(dataset.first_item(shown.place))).name if shown.label is None else shown.label
            room = _SIDE - 6 - plain.getlength(near)
            draw.text((x, y + _SIDE + 5), cut(printable(name), plain, int(room)), colour, plain)
            draw.text((x + _SIDE - plain.getlength(near), y + _SIDE + 5), near, PALE, plain)
    with replacing(file) as opened:
        sheet.save(opened, "PNG")
    return file
