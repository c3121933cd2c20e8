"""A picture of attention: each image, where the frozen class token looks, where the tuned one does, and the change."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

from vision_peft.data.check.tiles import INK, PALE, PAPER, cut, load_font
from vision_peft.inference.attention_maps import Look, Looks, check_class_token, read_attention
from vision_peft.inference.predictor import Predictor
from vision_peft.inference.prepare import Item
from vision_peft.printable import printable
from vision_peft.safe_files import replacing
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.head_maps import reads_maps

_SIDE, _GAP, _MARGIN, _HEAD, _CAPTION = 224, 14, 24, 96, 58
_STRENGTH = 0.72  # of the colours over the grey image


def draw_looks(model: Any, images: Sequence[Item], block: int, title: str, file: Path) -> Path:
    """Write the PNG `file` with the attention of a tuned model in a block on images; gives its path.

    Raises:
        ValueError: as `read_attention`; ImageDecodeError for an image.
    """
    check_class_token(model)
    predictor = Predictor(model)
    prepare = predictor.prepare
    inputs = torch.stack([prepare(image) for image in images])
    looks = read_attention(model, inputs, block)
    said = [""] * len(images)
    if predictor.names_classes and not reads_maps(model):
        task = predictor.task
        answers = task.name_answers(predictor.logits([*images]), 1)
        said = [printable(task.say(named), 40) for named in answers]
        if task.ranks_names:
            said = [f"{words} {100 * named[0][1]:.0f} %" for words, named in zip(said, answers, strict=True)]
    mean, std = (torch.tensor(prepare.settings[key]).view(-1, 1, 1) for key in ("mean", "std"))
    seen = inputs * std + mean
    if prepare.bands is not None:
        seen = torch.stack([_to_tensor(prepare.draw(image)) for image in seen])
    count = len(blocks(model))
    note = f"attention of the class token in block {block % count} of 0 to {count - 1}, mean over heads"
    names = [str(image) if isinstance(image, str | Path) else "" for image in images]
    return draw_attention(seen, looks, names, said, title, note, file)


def _to_tensor(picture: Image.Image) -> Tensor:
    return to_dtype(to_image(picture), torch.float32, scale=True)


def draw_attention(
    images: Tensor,
    looks: Sequence[Looks],
    names: Sequence[str],
    notes: Sequence[str],
    title: str,
    note: str,
    file: Path,
) -> Path:
    """Write the PNG `file`: a row for each image; gives its path.

    Args:
        images: B 3 H W in 0..1, as the model saw them.
        looks: of each.
        names: of each, for the caption.
        notes: a second line of each caption, what the model says.
        title: of the picture.
        note: below it.
        file: to write.
    """
    with_prompts = any(each.prompts is not None for each in looks)
    heads = ["image", "frozen", "tuned", "tuned - frozen", *(["prompts, tuned"] if with_prompts else [])]
    pitch, tall = _SIDE + _GAP, _SIDE + _CAPTION
    sheet = Image.new("RGB", (2 * _MARGIN + len(heads) * pitch - _GAP, _HEAD + len(looks) * tall + _MARGIN), PAPER)
    draw, large, plain, small = ImageDraw.Draw(sheet), load_font(20), load_font(15), load_font(12)
    room = sheet.width - 2 * _MARGIN
    draw.text((_MARGIN, 16), cut(printable(title), large, room), INK, large)
    draw.text((_MARGIN, 44), cut(printable(note), small, room), PALE, small)
    for column, head in enumerate(heads):
        draw.text((_MARGIN + column * pitch, _HEAD - 24), head, INK, plain)
    for row, (image, each, name, said) in enumerate(zip(images, looks, names, notes, strict=True)):
        y = _HEAD + row * tall
        picture = _as_picture(image)
        most = max(float(look.patches.max()) for look in (each.frozen, each.tuned))
        tiles = [
            (picture, [printable(Path(name).name), said]),
            (_paint(picture, each.frozen.patches / most, "inferno"), _describe(each.frozen)),
            (_paint(picture, each.tuned.patches / most, "inferno"), _describe(each.tuned)),
            (_paint_change(picture, each), _describe_change(each)),
        ]
        if each.prompts is not None:
            own = each.prompts.patches / each.prompts.patches.max()
            tiles.append((_paint(picture, own, "inferno"), _describe(each.prompts)))
        for column, (tile, lines) in enumerate(tiles):
            x = _MARGIN + column * pitch
            sheet.paste(tile, (x, y))
            for number, line in enumerate(lines):
                draw.text((x, y + _SIDE + 6 + 17 * number), cut(line, small, _SIDE), PALE if number else INK, small)
    with replacing(file) as opened:
        sheet.save(opened, "PNG")
    return file


def _describe(look: Look) -> list[str]:
    patches, itself, prompts = (100 * share for share in (float(look.patches.sum()), look.on_itself, look.on_prompts))
    shares = f"patches {patches:.0f} %, class token {itself:.0f} %"
    if prompts > 1e-4:
        shares = f"patches {patches:.0f}, class {itself:.0f}, prompts {prompts:.0f} %"
    tokens = look.patches / look.patches.sum()
    focus = float((-tokens * tokens.clamp_min(1e-12).log()).sum().exp())
    return [shares, f"spread over {focus:.0f} of {tokens.numel()} patches"]


def _describe_change(looks: Looks) -> list[str]:
    frozen, tuned = (look.patches / look.patches.sum() for look in (looks.frozen, looks.tuned))
    moved = 50 * float((tuned - frozen).abs().sum())
    return [f"{moved:.0f} % of the attention has moved", "red: more, blue: less"]


def _as_picture(image: Tensor) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    longest = max(pixels.shape[:2])
    size = tuple(max(1, round(side * _SIDE / longest)) for side in (pixels.shape[1], pixels.shape[0]))
    scaled = Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (_SIDE, _SIDE), PAPER)
    tile.paste(scaled, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return tile


def _paint(picture: Image.Image, values: Tensor, colours: str, alpha: Tensor | None = None) -> Image.Image:
    """Lay `values` (rows x columns, 0..1) over a grey picture in a colour map of matplotlib."""
    import matplotlib

    painted = np.asarray(matplotlib.colormaps[colours](_enlarge(values).numpy()))[..., :3] * 255
    strength: Any = _STRENGTH if alpha is None else _STRENGTH * _enlarge(alpha).numpy()[..., None]
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32)
    return Image.fromarray((grey * (1 - strength) + painted * strength).round().astype(np.uint8))


def _paint_change(picture: Image.Image, looks: Looks) -> Image.Image:
    frozen, tuned = (look.patches / look.patches.sum() for look in (looks.frozen, looks.tuned))
    change = tuned - frozen
    scaled = change / change.abs().max().clamp_min(1e-12)
    return _paint(picture, 0.5 + scaled / 2, "RdBu_r", scaled.abs().sqrt())


def _enlarge(values: Tensor) -> Tensor:
    """Scale a map of patches to the tile, smoothly, within 0..1; of an oblong image it fills what the image does."""
    rows, columns = values.shape
    longest = max(rows, columns)
    height, width = (max(1, round(side * _SIDE / longest)) for side in (rows, columns))
    scaled = F.interpolate(values[None, None].float(), (height, width), mode="bicubic", align_corners=False)[0, 0]
    tile = torch.zeros(_SIDE, _SIDE)
    top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
    tile[top : top + height, left : left + width] = scaled.clamp(0, 1)
    return tile
