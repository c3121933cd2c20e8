"""What `vision-peft predict --masks FOLDER` does: answers for every pixel."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vision_peft.printable import show

if TYPE_CHECKING:
    from vision_peft.inference.find_inputs import Inputs
    from vision_peft.inference.predictor import Predictor


def check_masks(options: argparse.Namespace, predictor: "Predictor", files: Sequence[str]) -> Path | None:
    """Return the folder that masks go to, None where the model answers whole images."""
    from vision_peft.inference.predict_masks import answers_maps

    others = [f"--{name}" for name in files if getattr(options, name)]
    if not answers_maps(predictor.model):
        if options.masks:
            raise ValueError("--masks is for models of segmentation or depth; this one answers for whole images")
        return None
    if not options.masks or others:
        extra = f", not {', '.join(others)}" if others else ""
        raise ValueError(f"this model answers for every pixel: give --masks FOLDER{extra}")
    folder = Path(options.masks)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--masks {folder} is a file: wanted a folder")
    if folder.is_dir() and any(folder.iterdir()) and not options.overwrite:
        raise FileExistsError(f"--masks {folder} holds files already: --overwrite replaces those of the same name")
    return folder


def write_masks(folder: Path, predictor: "Predictor", inputs: "Inputs") -> dict[str, str]:
    """Write a mask and an overlay for every input; return why some could not be read, by their paths."""
    from vision_peft.inference import predict_masks
    from vision_peft.tasks.depth import Depth

    written = predict_masks.write_masks(predictor, inputs.paths, folder, overlays=True)
    show(
        f"wrote {len(written.files):,} masks to {folder}, and overlays to {folder / 'overlays'}; "
        f"{folder / predict_masks.TABLE} says which is of which image"
    )
    floats = sum(file.mask.endswith(predict_masks.FLOATS) for file in written.files)
    if isinstance(predictor.task, Depth):
        more = f"; {floats:,} that do not fit into 1 to 65,535 are TIFF of floats" if floats else ""
        show(f"depths are in millimetres, PNG of 16 bits{more}")
    return written.failures
