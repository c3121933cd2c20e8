"""Answer every pixel of images: masks as PNG with a palette, depths as PNG of 16 bits, and pictures of both."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.item_names import to_nfc
from vision_peft.inference.predictor import Predictor
from vision_peft.safe_files import replacing
from vision_peft.tasks.depth import Depth
from vision_peft.tasks.overlays import LEGEND, colour_classes, colour_depths, lay_over, write_legend
from vision_peft.tasks.segmentation import Segmentation
from vision_peft.tasks.upsample import find_classes
from vision_peft.tuning.head_maps import reads_maps

MILLIMETRES = 1000  # of a value of 1 metre in a file of depths
_DEEPEST = 65535


def answers_maps(model: Any) -> bool:
    """Whether a model answers for every pixel."""
    return reads_maps(model)


@torch.no_grad()
def find_mask(predictor: Predictor, item: Any) -> tuple[Image.Image, np.ndarray]:
    """Return an image, upright, and its mask of classes (H W, uint8) or depths in metres (H W, float32).

    Of an image with bands the picture is of those that are shown, `Preparation.draw`.
    """
    prepare, task = predictor.prepare, _task(predictor)
    seen = prepare.read(item)
    image = prepare.draw(seen)
    size = (image.height, image.width)
    with predictor.compute.autocast():
        found = predictor.model(prepare.transform(seen)[None].to(predictor.compute.device))
    answers: Tensor = found.float().cpu()
    if isinstance(task, Depth):
        return image, task.find_depths(answers, size)[0].numpy()
    return image, find_classes(answers[0], size).byte().numpy()


def write_masks(predictor: Predictor, paths: Sequence[str], folder: Path, overlays: bool) -> Iterator[tuple[str, str]]:
    """Write `folder/NAME.png`, and `folder/overlays/NAME.png`, for every image; yield what cannot be read, and why.

    Images of one name in several folders get numbers behind it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if overlays:
        (folder / "overlays").mkdir(exist_ok=True)
    task, seen = _task(predictor), dict[str, int]()
    for path in paths:
        try:
            image, mask = find_mask(predictor, path)
        except ImageDecodeError as error:
            yield path, error.cause
            continue
        name = to_nfc(Path(path).stem)
        seen[name.lower()] = number = seen.get(name.lower(), 0) + 1
        file = f"{name}.png" if number == 1 else f"{name}-{number}.png"
        _save(_as_file(task, mask), folder / file)
        if overlays:
            _save(_draw(task, image, mask), folder / "overlays" / file)
    if overlays and isinstance(task, Segmentation):
        write_legend(folder / "overlays" / LEGEND, [*zip(task.classes, task.colours, strict=True)])


def _task(predictor: Predictor) -> Segmentation | Depth:
    task = predictor.task
    if not isinstance(task, Segmentation | Depth):
        raise ValueError(f"the head answers for every pixel, and the adapter is of a task of {task.kind}")
    return task


def _as_file(task: Segmentation | Depth, mask: np.ndarray) -> Image.Image:
    if isinstance(task, Depth):
        return Image.fromarray((mask * MILLIMETRES).round().clip(0, _DEEPEST).astype(np.uint16))
    image = Image.fromarray(mask, "P")
    image.putpalette([part for colour in task.colours for part in colour])
    return image


def _draw(task: Segmentation | Depth, image: Image.Image, mask: np.ndarray) -> Image.Image:
    if isinstance(task, Depth):
        return Image.fromarray(colour_depths(mask, max(float(mask.min()), 1e-6), float(mask.max())))
    return lay_over(image, colour_classes(mask, task.colours))


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as file:
        image.save(file, "PNG")
