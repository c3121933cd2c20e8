"""Answer every pixel of images: masks as PNG with a palette, depths as PNG of 16 bits, and pictures of both.

Depths are in millimetres. Those of an image that are not all within the 1 to 65,535 of such a PNG are a TIFF of floats.
A table says which file is of which image.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.item_names import to_nfc
from vision_peft.inference.predictor import Predictor
from vision_peft.printable import for_csv
from vision_peft.safe_files import replacing, write_file
from vision_peft.tasks.depth import Depth
from vision_peft.tasks.overlays import LEGEND, colour_classes, colour_depths, lay_over, write_legend
from vision_peft.tasks.segmentation import Segmentation
from vision_peft.tasks.upsample import find_classes
from vision_peft.tuning.head_maps import reads_maps

MILLIMETRES = 1000  # of a value of 1 metre in a file of depths
TABLE = "masks.csv"
FLOATS = ".tif"  # of depths that a PNG cannot hold
_DEEPEST, _UNIT = 65535, "depth in millimetres"
_DESCRIPTION = 270  # the tag ImageDescription of a TIFF


class MaskFile(NamedTuple):
    """What was written for one image, by names in the folder."""

    path: str  # of the image
    mask: str
    overlay: str  # "" where none was asked for


@dataclass
class WrittenMasks:
    """What became of images: the files of those that were answered, and why others were not, by their paths."""

    files: list[MaskFile] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def answers_maps(model: Any) -> bool:
    """Whether a model answers for every pixel."""
    return reads_maps(model)


@torch.no_grad()
def find_mask(predictor: Predictor, item: Any) -> tuple[Image.Image, np.ndarray]:
    """Return an image, upright, and its mask of classes (H W, uint8) or depths in metres (H W, float32).

    Of an image with bands the picture is of those that are shown, `Preparation.draw`.

    Raises:
        ImageDecodeError: an image that cannot be decoded.
        FloatingPointError: an output of the model that is NaN or infinite.
    """
    prepare, task = predictor.prepare, _task(predictor)
    seen = prepare.read(item)
    image = prepare.draw(seen)
    size = (image.height, image.width)
    with predictor.compute.autocast():
        found = predictor.model(prepare.transform(seen)[None].to(predictor.compute.device))
    answers: Tensor = found.float().cpu()
    if not answers.isfinite().all():
        raise FloatingPointError("the output of the model is NaN or infinite")
    if isinstance(task, Depth):
        return image, task.find_depths(answers, size)[0].numpy()
    return image, find_classes(answers[0], size).byte().numpy()


def write_masks(predictor: Predictor, paths: Sequence[str], folder: Path, overlays: bool) -> WrittenMasks:
    """Write `folder/NAME.png`, and `folder/overlays/NAME.png`, for every image, and `TABLE`, a row a file.

    Images of one name in several folders get numbers behind it. `LEGEND` says the colours of overlays.
    Depths that do not fit into a PNG go to `NAME.tif`.
    The table is written even where something ends the work: it has the files that are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if overlays:
        (folder / "overlays").mkdir(exist_ok=True)
    task, names, written = _task(predictor), _Names(), WrittenMasks()
    if overlays and isinstance(task, Segmentation):
        write_legend(folder / "overlays" / LEGEND, [*zip(task.classes, task.colours, strict=True)])
        names.choose(Path(LEGEND).stem)
    try:
        for path in paths:
            try:
                image, mask = find_mask(predictor, path)
            except (ImageDecodeError, FloatingPointError) as error:
                written.failures[path] = error.cause if isinstance(error, ImageDecodeError) else str(error)
                continue
            name = names.choose(to_nfc(Path(path).stem))
            file = _save_mask(task, mask, folder, name)
            overlay = f"overlays/{name}.png" if overlays else ""
            if overlays:
                _save(_draw(task, image, mask), folder / overlay)
            written.files.append(MaskFile(path, file, overlay))
    finally:
        write_file(folder / TABLE, _as_table(written.files))
    return written


class _Names:
    """Names of files, each of which is given once, whatever the case of its letters."""

    def __init__(self) -> None:
        self.given = set[str]()
        self.last = dict[str, int]()  # number behind a name

    def choose(self, name: str) -> str:
        """Return `name`, or where it was given already the first of `name-2`, `name-3`, ... that was not."""
        key, chosen = name.casefold(), name
        while chosen.casefold() in self.given:
            self.last[key] = number = self.last.get(key, 1) + 1
            chosen = f"{name}-{number}"
        self.given.add(chosen.casefold())
        return chosen


def _as_table(files: Sequence[MaskFile]) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(MaskFile._fields)
    rows.writerows([for_csv(cell) for cell in file] for file in files)
    return text.getvalue()


def _task(predictor: Predictor) -> Segmentation | Depth:
    task = predictor.task
    if not isinstance(task, Segmentation | Depth):
        raise ValueError(f"the head answers for every pixel, and the adapter is of a task of {task.kind}")
    return task


def _save_mask(task: Segmentation | Depth, mask: np.ndarray, folder: Path, name: str) -> str:
    """Write a mask or depths; return the name of the file."""
    if not isinstance(task, Depth):
        image = Image.fromarray(mask, "P")
        image.putpalette([part for colour in task.colours for part in colour])
        _save(image, folder / f"{name}.png")
        return f"{name}.png"
    values = mask * np.float32(MILLIMETRES)
    whole = values.round()
    if whole.min() >= 1 and whole.max() <= _DEEPEST:  # 0 is no measurement
        text = PngInfo()
        text.add_text("Description", _UNIT)
        _save(Image.fromarray(whole.astype(np.uint16)), folder / f"{name}.png", pnginfo=text)
        return f"{name}.png"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[_DESCRIPTION] = _UNIT
    with replacing(folder / f"{name}{FLOATS}") as file:
        Image.fromarray(values).save(file, "TIFF", tiffinfo=tags)
    return f"{name}{FLOATS}"


def _draw(task: Segmentation | Depth, image: Image.Image, mask: np.ndarray) -> Image.Image:
    if isinstance(task, Depth):
        return Image.fromarray(colour_depths(mask, max(float(mask.min()), 1e-6), float(mask.max())))
    return lay_over(image, colour_classes(mask, task.colours))


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    with replacing(path) as file:
        image.save(file, "PNG", **options)
