"""What models of clips share: the shapes they take, and which of timm's models can become one."""

from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vision_peft.backbones.skip_draws import SkipDraws
from vision_peft.backbones.strict import build
from vision_peft.printable import printable

MAX_FRAMES = 4096
INFLATE = ("average", "centre")


def as_clip(x: Tensor, channels: int, num_frames: int) -> Tensor:
    """View ``x`` as clips (B C T H W).

    It may come folded to (B C·T H W), as timm's Mixup and ``forward_intermediates`` need it (``clip.flatten(1, 2)``).

    Raises:
        ValueError: another number of channels or frames, or single images.
    """
    if x.ndim == 5 and x.shape[1:3] == (channels, num_frames):
        return x
    if x.ndim == 4 and x.shape[1] == channels * num_frames:
        return x.unflatten(1, (channels, num_frames))
    raise ValueError(
        f"wanted clips of shape (B, {channels}, {num_frames}, H, W), or folded to (B, {channels * num_frames}, H, W); "
        f"got {tuple(x.shape)}"
    )


def check_frames(num_frames: int | None, tubelet_size: int | None, inflate: str | None) -> None:
    """Accept numbers of frames that fit together.

    Raises:
        ValueError: they do not, or another way to inflate.
    """
    if inflate is not None and inflate not in INFLATE:
        raise ValueError(f"inflate must be one of {', '.join(map(repr, INFLATE))}; got {inflate!r}")
    if num_frames is None and (tubelet_size is not None or inflate is not None):
        raise ValueError("tubelet_size and inflate are for clips: give num_frames, the length of a clip, as well.")
    if tubelet_size is None and inflate is not None:
        raise ValueError("inflate is for tubelets: give tubelet_size as well. Without, frames are encoded one by one.")
    for name, value in (("num_frames", num_frames), ("tubelet_size", tubelet_size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a whole number above 0; got {value!r}")
        if value is not None and value > MAX_FRAMES:
            raise ValueError(f"{name} must be at most {MAX_FRAMES}; got {printable(value)}")
    if num_frames is not None and tubelet_size is not None and num_frames % tubelet_size:
        choices = [n for n in (num_frames - num_frames % tubelet_size, num_frames + -num_frames % tubelet_size) if n]
        raise ValueError(
            f"num_frames {num_frames} is not a multiple of tubelet_size {tubelet_size}: frames would be cut off. Take "
            f"{' or '.join(map(str, choices))}."
        )


def check_family(name: str, arguments: dict[str, Any], *, tubelets: bool) -> None:
    """Accept an architecture that can become a model of clips, before any weights are fetched.

    Raises:
        ValueError: it is of another class, or its patches are not one convolution of fixed size.
    """
    with SkipDraws(), torch.device("meta"):  # as in bounds.py: draws on the meta device are slow
        model = build(name, num_classes=0, **arguments)
    if tubelets:
        wanted, kinds = "tubelets need a timm model of class VisionTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP)", "vit"
        fits = type(model) is VisionTransformer
    else:
        wanted, kinds = "frame-wise encoding needs a timm model of class VisionTransformer or Eva", "vit or eva"
        fits = type(model) in (VisionTransformer, Eva)
    if not fits:
        hint = " Leave tubelet_size out to encode its frames one by one." if tubelets and type(model) is Eva else ""
        raise ValueError(f"{name} is of class {type(model).__name__}: {wanted}.{hint}")
    embed: Any = model.patch_embed
    if type(embed) is not PatchEmbed:
        raise ValueError(f"{name} embeds patches by {type(embed).__name__}: clips need timm's PatchEmbed ({kinds}).")
    if tubelets and (embed.dynamic_img_pad or not embed.strict_img_size):
        raise ValueError(
            f"{name} resizes positions at every forward: tubelets need a fixed size, give dynamic_img_size=False (and "
            "no dynamic_img_pad)."
        )
