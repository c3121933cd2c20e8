"""The timm VisionTransformer that a foreign file's backbone tensors describe."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm, RmsNorm
from torch import Tensor, nn

from vision_peft.backbones.bounds import MAX_DEPTH
from vision_peft.backbones.frames import frame_wise
from vision_peft.backbones.internvideo2 import InternVideo2
from vision_peft.backbones.plain_vit import build_vit
from vision_peft.backbones.tubelet import videomae_form
from vision_peft.printable import name_some

# How a backbone sees clips: not at all; as one sequence of tubelets in VideoMAE's form; frame by frame with the mean
# over time of the normed features, or with the norm of the mean; as InternVideo2 does.
CLIPS = ("none", "tubelets", "frames", "frames_mean_first", "internvideo2")


def build(
    state: Mapping[str, Tensor],
    *,
    clips: str,
    arguments: Mapping[str, Any],
    num_classes: int,
    num_heads: int,
    img_size: int | tuple[int, int] | None,
    num_frames: int | None,
) -> nn.Module:
    """Build it and load ``state`` into it, all but the head.

    Args:
        state: timm-keyed tensors.
        clips: one of CLIPS.
        arguments: further ones of the VisionTransformer, which no tensor tells.
        num_classes: of the head, which stays fresh.
        num_heads: attention heads.
        img_size: pixels; None where positions tell.
        num_frames: of a clip; None for image models.

    Raises:
        ValueError: the tensors do not fit together or what is given here.
    """
    settings = describe(state, clips=clips, num_heads=num_heads, img_size=img_size)
    settings |= {"num_classes": num_classes, "norm_layer": partial(LayerNorm, eps=1e-6)}
    build_one: Any = build_vit
    if clips == "internvideo2":
        tubelet_size = state["patch_embed.proj.weight"].shape[2]
        settings |= {"num_frames": _frames(num_frames), "tubelet_size": tubelet_size}
        settings["norm_layer"], build_one = partial(RmsNorm, eps=1e-6), InternVideo2
        del settings["global_pool"]
    elif clips == "tubelets":
        settings |= videomae_form(_frames(num_frames), state["patch_embed.proj.weight"].shape[2])
    elif clips == "none" and num_frames is not None:
        raise ValueError(f"this file holds an image model: build it without num_frames={num_frames}")
    with torch.device("meta"):  # what does not fit takes no memory
        _check_fit(build_one(**{**settings, **arguments}), state)
    model = build_one(**{**settings, **arguments})
    model.load_state_dict(state, strict=False)
    if clips.startswith("frames"):
        frame_wise(model, _frames(num_frames), mean_first=clips == "frames_mean_first")
    return model


def describe(
    state: Mapping[str, Tensor], *, clips: str, num_heads: int, img_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer that the tensors tell, and what is given here; see ``build``."""
    needed = {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} | (set() if clips == "tubelets" else {"pos_embed"})
    if absent := needed - state.keys():
        raise ValueError(f"the tensors do not reveal the architecture: missing {sorted(absent)}")
    patch = state["patch_embed.proj.weight"]
    dim = patch.shape[0]
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"num_heads must divide the width {dim} of the backbone; got {num_heads}")
    return {
        "img_size": img_size or _square(state, patch.shape[-1]),
        "patch_size": (patch.shape[-2], patch.shape[-1]),
        "in_chans": patch.shape[1],
        "embed_dim": dim,
        "depth": _count_blocks(state),
        "num_heads": num_heads,
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in state else None,
        "pre_norm": "norm_pre.weight" in state,
        "global_pool": "avg" if "fc_norm.weight" in state else "token",
    }


def _count_blocks(state: Mapping[str, Tensor]) -> int:
    """Count the blocks that there are tensors of."""
    numbers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    if numbers != {str(number) for number in range(len(numbers))} or len(numbers) > MAX_DEPTH:
        raise ValueError(
            f"the tensors do not reveal the depth: wanted blocks 0, 1, 2, ... without a gap, at most {MAX_DEPTH}; "
            f"got {name_some(sorted(numbers))}"
        )
    return len(numbers)


def _check_fit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of the tensors with those of a model without storage, but for its head."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = [name for name in wanted if name not in state and not name.startswith("head.")]
    unexpected = [name for name in state if name not in wanted]
    other = [
        f"{name} is {tuple(tensor.shape)}, wanted {tuple(wanted[name])}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if missing or unexpected or other:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": other}
        words = ", ".join(f"{what} {name_some(names)}" for what, names in found.items() if names)
        raise ValueError(f"backbone tensors do not fit: {words}")


def _square(state: Mapping[str, Tensor], patch: int) -> int:
    """Pixels of the square image that the positions (those of one class token included) are for."""
    if "pos_embed" not in state:
        raise ValueError(
            "this file has no position embeddings, so its size is unknown: give img_size= (pixels) and num_frames="
        )
    positions = state["pos_embed"].shape[1] - 1
    side = int(positions**0.5)
    if side * side != positions:
        raise ValueError(f"{positions} positions are no square image: give img_size=(height, width)")
    return side * patch


def _frames(num_frames: int | None) -> int:
    if num_frames is None:
        raise ValueError("this file holds a video model and does not say how long its clips are: give num_frames=")
    return num_frames
