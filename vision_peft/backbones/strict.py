"""Builds a timm model and loads a source into it so that every tensor has to match, then says what came of it.

The model is built with the head that the weights have; the head that was asked for comes afterwards. (A loader that
lets missing keys pass trains random blocks without a word: AdaptFormer's issue 35 with the official MAE file.) timm
itself converts, resamples positions and adapts patches.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any

import timm
from timm.layers.activations import QuickGELU
from torch import Tensor, nn

from vision_peft.backbones import sources
from vision_peft.backbones.skip_draws import build_to_load
from vision_peft.backbones.sources import Source

_log = logging.getLogger(__name__)

_CONVERTER_ERRORS = (RuntimeError, AttributeError, AssertionError, IndexError)  # timm's, on other depths and shapes


class UnknownArgument(ValueError):
    """An argument that a timm model does not take."""


def build(name: str, **arguments: Any) -> nn.Module:
    """``timm.create_model``, with ``UnknownArgument`` for one that the model does not take."""
    try:
        return timm.create_model(name, **arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UnknownArgument(f"timm's {name} does not take this argument: {error}") from error


def from_source(name: str, source: Source, origin: str, config: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    """Build timm's ``name`` with the weights of ``source`` and their head; ``config`` goes to its pretrained_cfg.

    Raises:
        ValueError: the tensors do not fit the model, with their names.
    """
    known = timm.get_pretrained_cfg(name)
    classes = _keep_linear_head(source, (known and known.classifier) or "head")
    if source.is_clip and source.projection:
        classes = source.state[source.projection[0]].shape[-1]  # timm makes it the head
    overlay = {**config, "url": None, "hf_hub_id": None, "num_classes": classes}
    model: Any = _load(name, source, origin, overlay, arguments)
    names = set(model.state_dict())
    if "siglip" in name:  # the family that timm loads without strictness unless it pools by attention
        _check_names(name, source, origin, names)
    sources.account_for_timm(source, names)
    model.pretrained_cfg.pop("state_dict")  # timm would keep a copy of all weights there
    return model


def from_video_source(
    name: str, source: Source, origin: str, config: dict[str, Any], arguments: dict[str, Any]
) -> nn.Module:
    """``from_source`` for a model of tubelets, which timm's converters do not know: the tensors go in as they are.

    Raises:
        ValueError: the tensors do not fit the model, with their names.
    """
    classes = _keep_linear_head(source, "head")
    overlay = {**config, "url": None, "hf_hub_id": None, "num_classes": classes}
    model = build(name, num_classes=classes, pretrained_cfg_overlay=overlay, **arguments)
    _start_fc_norm(name, source, arguments)
    try:
        model.load_state_dict(source.state)
    except RuntimeError as error:
        raise misfit(f"{origin} ({source.name})", name, error, source.state) from error
    return model


def report(model: Any, source: Source, origin: str, num_classes: int) -> None:
    """Log whose weights ``model`` has, what of them is used, dropped and resampled, and what of the model is fresh.

    Args:
        model: with the head of the weights.
        source: what was loaded.
        origin: file or name, for the message.
        num_classes: of the head that the model gets.
    """
    if model.num_classes not in (0, num_classes):
        if source.projection:
            reason = f"the projection to {model.num_classes} dimensions (wanted: {num_classes} classes)"
            source.drop(", ".join(source.projection), len(source.projection), reason)
        else:
            heads = [key for key in source.state if key.startswith(("head.", "head_dist.", "head/"))]
            reason = f"its head of {model.num_classes} classes is dropped (wanted: {num_classes})"
            source.drop("head", len(heads) or 2, reason, alarm=True)  # .npz: kernel and bias
    if num_classes and model.num_classes != num_classes:
        source.fresh.append(f"head of {num_classes} classes")
    source.notes += _positions(model, source)
    if source.is_clip:
        _check_activation(model, source)
    _log.log(logging.WARNING if source.alarm else logging.INFO, "%s: %s", origin, source.report())


def misfit(origin: str, name: str, error: Exception, state: dict[str, Tensor] | None = None) -> ValueError:
    """Error for weights that do not fit, with timm's details cut to a readable length and a hint where one is known."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    details = [line if len(line) <= 300 else f"{line[:300]} ..." for line in lines[1:] or lines]
    if len(details) > 6:
        details[6:] = [f"and {len(details) - 6} more lines like these"]
    if "fc_norm" in str(error) and any("fc_norm." in key for key in state or ()):
        details.append("(The file has the fc_norm of average pooling: give global_pool='avg'.)")
    elif "fc_norm" in str(error):
        details.append("(With global_pool='avg' timm uses a fresh fc_norm; fc_norm=False keeps the pretrained norm.)")
    if "visual.ln_pre.weight" in (state or ()) and "_clip_" not in name:
        details.append("(CLIP's image tower wants its own architecture, such as vit_base_patch16_clip_quickgelu_224.)")
    return ValueError("\n  ".join([f"{origin} does not fit {name}:", *details]))


def _load(name: str, source: Source, origin: str, overlay: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    def build_and_load() -> nn.Module:
        state = dict(source.state)  # timm's converters take tensors out of it
        return build(name, pretrained=True, pretrained_cfg_overlay={**overlay, "state_dict": state}, **arguments)

    def attempt() -> nn.Module:
        return build_to_load(build_and_load)

    try:
        try:
            return attempt()
        except _CONVERTER_ERRORS:
            if not _start_fc_norm(name, source, arguments):
                raise
        return attempt()
    except _CONVERTER_ERRORS as error:
        raise misfit(f"{origin} ({source.name})", name, error, source.state) from error


def _start_fc_norm(name: str, source: Source, arguments: dict[str, Any]) -> bool:
    """Exchange the file's last norm for a fresh fc_norm where the model has that one and the file does not."""
    norm, fc_norm = ("visual.ln_post.", "visual.fc_norm.") if source.is_clip else ("norm.", "fc_norm.")
    unused = [key for key in source.state if key.startswith(norm)]
    if not unused or f"{fc_norm}weight" in source.state:
        return False
    fresh = build(name, num_classes=0, **arguments).state_dict()
    if "norm.weight" in fresh or "fc_norm.weight" not in fresh:
        return False
    for key in unused:
        del source.state[key]
    for kind in ("weight", "bias"):
        source.state[f"{fc_norm}{kind}"] = fresh[f"fc_norm.{kind}"]
    source.start_fc_norm(f"{norm}*", len(unused))
    return True


def _check_names(name: str, source: Source, origin: str, names: set[str]) -> None:
    pooling = [key for key in source.state if key.startswith("attn_pool.") and key not in names]
    missing, unknown = sorted(names - source.state.keys()), sorted(source.state.keys() - names - set(pooling))
    if missing or unknown:
        lines = [f"Missing key(s): {', '.join(missing)}"] * bool(missing)
        lines += [f"Unexpected key(s): {', '.join(unknown)}"] * bool(unknown)
        error = RuntimeError("\n".join(lines))
        raise misfit(f"{origin} ({source.name})", name, error, source.state)
    if pooling:
        source.drop("attn_pool", len(pooling), "the model pools in another way", alarm=True)


def _keep_linear_head(source: Source, classifier: str | Iterable[str]) -> int:
    classes, left_out = _split_head(source.state, classifier)
    if left_out:
        source.drop(", ".join(left_out), len(left_out), "the head is not one linear layer", alarm=True)
    return classes


def _split_head(state: dict[str, Tensor], classifier: str | Iterable[str]) -> tuple[int, list[str]]:
    """Count the classes of the head in ``state``; remove a head of another form and return its names."""
    names = {classifier} if isinstance(classifier, str) else set(classifier)
    names |= {name.removesuffix(".fc") for name in names}  # old Swin files say "head", which timm's filter renames
    keys = {key for key in state if key.startswith(tuple(f"{name}." for name in names))}
    linear = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    weights = sorted(key for key in keys if key.endswith(".weight"))
    if keys <= linear and len(keys) == 2 * len(weights):
        return (len(state[weights[0]]) if weights else 0), []
    for key in keys:
        state.pop(key)
    return 0, sorted(keys)


def _positions(model: Any, source: Source) -> list[str]:
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None or source.positions is None:
        return []
    ahead = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    if "register_tokens" in source.state:
        ahead = 1  # of the class token, which timm adds to that token
    count = source.positions.shape[-2] - ahead
    side = math.isqrt(max(count, 0))
    if side * side != count or count == grid[0] * grid[1]:  # timm, too, takes the grid of a file for a square
        return []
    return [f"positions: resampled from {side} x {side} to {grid[0]} x {grid[1]}"]


def _check_activation(model: Any, source: Source) -> None:
    quick = any(isinstance(module, QuickGELU) for module in model.modules())
    if source.own_of_openai and not quick:
        source.alarm = True
        source.notes.append(
            "OpenAI trained its models with QuickGELU, but this architecture computes GELU: take the one with "
            "_clip_quickgelu_ in its name for the published results"
        )
    elif not source.own_of_openai:
        used = "QuickGELU" if quick else "GELU"
        source.notes.append(f"the file does not say whether it was trained with GELU or QuickGELU; used: {used}")
