"""A picture of a data set: a row of samples for every class, the splits side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vision_peft.data.config import SPLITS
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.printable import printable
from vision_peft.safe_files import replacing

CLASSES = 40  # rows
COLUMNS = {"train": 6, "val": 3, "test": 3}  # samples a class
TILE = 96  # pixels a side
_GAP, _BETWEEN, _MARGIN, _LABEL = 4, 20, 20, 210
_INK, _PALE, _GROUND, _PAPER = "#1a1a1a", "#767676", "#e9e9ec", "#ffffff"


def draw_sheet(datasets: Mapping[str, ImageDataset], title: str, file: str | Path) -> Path:
    """Write the PNG `file` with samples of the first `CLASSES` classes of `datasets` (by split); gives its path.

    The samples of a class are evenly spaced in the order of the split, the same every time. A large image is scaled
    down to its tile, a small one enlarged by a whole number without smoothing; both keep their shape. A video shows
    four of its frames. What cannot be decoded is crossed out. Raises ValueError where there is no split to draw.
    """
    shown = {split: datasets[split] for split in SPLITS if split in datasets and split in COLUMNS}
    shown = shown or dict(datasets)
    if not shown:
        raise ValueError("there is nothing to draw: no split of the data set can be read")
    classes = next(iter(shown.values())).classes
    rows = min(len(classes), CLASSES)
    left = _place_columns(shown)
    top, pitch = _MARGIN + 84, TILE + _GAP
    width = max(left.values()) + COLUMNS.get(list(shown)[-1], 6) * pitch - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, top + rows * pitch - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    large, plain, small = _load_font(20), _load_font(15), _load_font(13)
    counts = " / ".join(f"{len(dataset):,} {split}" for split, dataset in shown.items())
    draw.text((_MARGIN, _MARGIN), _cut(printable(title), large, width - 2 * _MARGIN), _INK, large)
    note = f"{len(classes):,} classes, {counts} {next(iter(shown.values())).what}s"
    note += f"; only the first {rows} classes are shown" if rows < len(classes) else ""
    draw.text((_MARGIN, _MARGIN + 28), _cut(note, small, width - 2 * _MARGIN), _PALE, small)
    for split in shown:
        draw.text((left[split], top - 24), split, _INK, plain)
    places = {split: _index_by_label(dataset) for split, dataset in shown.items()}
    for label in range(rows):
        y = top + label * pitch
        _draw_label(draw, y, classes[label], {split: len(places[split].get(label, [])) for split in shown})
        for split, dataset in shown.items():
            for column, index in enumerate(_space_evenly(places[split].get(label, []), COLUMNS.get(split, 6))):
                sheet.paste(_draw_tile(dataset, index), (left[split] + column * pitch, y))
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


def _index_by_label(dataset: ImageDataset) -> dict[int, list[int]]:
    """List the indices of the images of every label."""
    places: dict[int, list[int]] = {}
    for index, label in enumerate(dataset.labels):
        places.setdefault(label, []).append(index)
    return places


def _space_evenly(indices: Sequence[int], count: int) -> list[int]:
    if len(indices) <= count:
        return list(indices)
    return [indices[round(place * (len(indices) - 1) / (count - 1))] for place in range(count)]


def _draw_label(draw: ImageDraw.ImageDraw, y: int, name: str, counts: Mapping[str, int]) -> None:
    plain, small = _load_font(15), _load_font(13)
    room = _LABEL - 12
    lines = _wrap(printable(name), plain, room, most=3)
    below = _wrap(", ".join(f"{count:,} {split}" for split, count in counts.items()), small, room, most=2)
    y += (TILE - 19 * len(lines) - 17 * len(below)) // 2
    for line in lines:
        draw.text((_MARGIN, y), line, _INK, plain)
        y += 19
    for line in below:
        draw.text((_MARGIN, y), line, _PALE, small)
        y += 17


def _draw_tile(dataset: ImageDataset, index: int) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), _GROUND)
    try:
        image = dataset.image(index)
    except ImageDecodeError:
        draw = ImageDraw.Draw(tile)
        for ends in ((8, 8, TILE - 9, TILE - 9), (8, TILE - 9, TILE - 9, 8)):
            draw.line(ends, "#b00020", 3)
        return tile
    longest = max(image.size)
    if longest > TILE:
        size = tuple(max(1, round(side * TILE / longest)) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    else:
        factor = TILE // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return tile


def _wrap(text: str, font: ImageFont.FreeTypeFont, room: int, most: int) -> list[str]:
    """Wrap `text` in at most `most` lines of `room` pixels, broken at spaces, underscores and hyphens if any."""
    lines: list[str] = []
    while text and len(lines) < most - 1 and font.getlength(text) > room:
        fits = next(size for size in range(len(text), 0, -1) if font.getlength(text[:size]) <= room or size == 1)
        broken = max((text.rfind(mark, 1, fits) + 1 for mark in " _-"), default=0) or fits
        lines.append(text[:broken].rstrip())
        text = text[broken:].lstrip()
    return [*lines, _cut(text, font, room)] if text else lines


def _cut(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"


def _load_font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # for its font, which has more alphabets than PIL's own

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
