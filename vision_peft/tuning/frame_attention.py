"""Image ViTs that see clips frame by frame: blocks work on ((B T) N C), the frames of a clip next to each other."""

from typing import Any

import torch
from torch import Tensor

from vision_peft.tuning.families import family_of, family_of_block
from vision_peft.tuning.needs import Need


def frames(model: Any) -> int:
    """Return the frames T of a clip that ``model`` folds into the batch of its blocks.

    Raises:
        ValueError: the model takes single images, or its tokens span frames and positions of the whole clip.
    """
    embed: Any = getattr(model, "patch_embed", None)
    count, tubelet = getattr(embed, "num_frames", None), getattr(embed, "tubelet_size", None)
    name = type(model).__name__
    if count is None:
        raise ValueError(
            f"this {name} sees single images, and the method works on the frames of a clip: give "
            "backbone.num_frames=8 and videos, such as data=moving_digits; in Python create_backbone(..., num_frames=8)"
        )
    if tubelet is not None:
        raise ValueError(
            f"this {name} sees a clip as one sequence of tubelets, and the method works on an image model that sees it "
            f"frame by frame: give backbone.tubelet_size=null backbone.num_frames={count}; in Python "
            f"create_backbone(..., num_frames={count}) without tubelet_size"
        )
    return count


def check_temporal_attention(model: Any) -> None:
    """Check that a block's attention can be called on a sequence of frames.

    Raises:
        ValueError: its position bias is for the patches of an image.
    """
    if not family_of(model).attention_takes_frames:
        raise ValueError(
            f"attention of {type(model).__name__} has a position bias for the patches of an image and none for frames: "
            "it cannot be reused over time; take a ViT without one (ViT, CLIP, DINOv2, DINOv3, EVA-02)"
        )


FRAMES = Need("frames of clips, one by one", frames)
ATTENTION_OVER_TIME = Need("attention without a position bias", check_temporal_attention)


def attend_over_time(block: Any, n: Tensor, num_frames: int) -> Tensor:
    """Run the block's own attention (and LayerScale) over the frames of every position; ``n`` is ((B T) N C).

    Rotary embeddings are left out: all frames of a position would turn by one angle, and scores depend on differences
    of angles only.
    """
    N = n.shape[1]
    y = n.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)  # (B N) T C
    y = family_of_block(block).after_attn(block, block.attn(y))
    return y.unflatten(0, (-1, N)).transpose(1, 2).flatten(0, 1)


def shift_channels(z: Tensor, num_frames: int, steps: list[tuple[int, int]]) -> Tensor:
    """Give groups of channels of ``z`` ((B T) N C), from the first on, the values that they have in other frames.

    Args:
        z: keys or values, say.
        num_frames: T.
        steps: of each group, how many channels and of how many frames before (below 0: after); frames that have none
            so far away keep their own.
    """
    z = z.unflatten(0, (-1, num_frames))
    groups = []
    for channels, step in steps:
        part, z = z.tensor_split([channels], dim=-1)
        kept = part[:, :step] if step > 0 else part[:, step:]
        groups.append(torch.cat([kept, part[:, :-step]] if step > 0 else [part[:, -step:], kept], dim=1))
    return torch.cat([*groups, z], dim=-1).flatten(0, 1)
