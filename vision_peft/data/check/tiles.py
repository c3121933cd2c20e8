"""What pictures of data are made of: tiles with an image each, and text that fits."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError

INK, PALE, GROUND, PAPER = "#1a1a1a", "#767676", "#e9e9ec", "#ffffff"


def draw_tile(dataset: ImageDataset, index: int, side: int) -> Image.Image:
    """Draw the image of an item, or four frames of a video, into a square of `side` pixels.

    A large image is scaled down, a small one enlarged by a whole number without smoothing; both keep their shape. What
    cannot be decoded is crossed out.
    """
    tile = Image.new("RGB", (side, side), GROUND)
    try:
        image = dataset.picture(index)
    except ImageDecodeError:
        draw = ImageDraw.Draw(tile)
        for ends in ((8, 8, side - 9, side - 9), (8, side - 9, side - 9, 8)):
            draw.line(ends, "#b00020", 3)
        return tile
    longest = max(image.size)
    if longest > side:
        width, height = (max(1, round(own * side / longest)) for own in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    else:
        factor = side // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return tile


def wrap(text: str, font: ImageFont.FreeTypeFont, room: int, most: int) -> list[str]:
    """Wrap `text` in at most `most` lines of `room` pixels, broken at spaces, underscores and hyphens if any."""
    lines: list[str] = []
    while text and len(lines) < most - 1 and font.getlength(text) > room:
        fits = next(size for size in range(len(text), 0, -1) if font.getlength(text[:size]) <= room or size == 1)
        broken = max((text.rfind(mark, 1, fits) + 1 for mark in " _-"), default=0) or fits
        lines.append(text[:broken].rstrip())
        text = text[broken:].lstrip()
    return [*lines, cut(text, font, room)] if text else lines


def cut(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """Shorten `text` to `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of `size` pixels that pictures are written in."""
    import matplotlib  # for its font, which has more alphabets than PIL's own

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
