"""Where the class token and prompts of a tuned model look, and where those of the frozen model did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vision_peft.tuning import record
from vision_peft.tuning.backbone import frames_in_batch
from vision_peft.tuning.blocks import blocks, branches
from vision_peft.tuning.disable import disabled
from vision_peft.tuning.families import family_of
from vision_peft.tuning.families.flat import FlatFamily
from vision_peft.tuning.families.late_class_token import LateClassTokenFamily
from vision_peft.tuning.graft import original
from vision_peft.tuning.head_maps import find_windows
from vision_peft.tuning.short_block import whole_last_block


@dataclass(frozen=True)
class Look:
    """Where one token, or the mean over some, looks in one block; the mean over heads.

    Attributes:
        patches: rows x columns, the share of attention that each patch gets.
        on_itself: share of the class token, with registers and a distillation token where there are any.
        on_prompts: share of prompts and prefixes.
    """

    patches: Tensor
    on_itself: float
    on_prompts: float


@dataclass(frozen=True)
class Looks:
    """Of one image: the class token of the frozen model and of the tuned one, and the prompts where tokens are any."""

    frozen: Look
    tuned: Look
    prompts: Look | None


def check_class_token(model: Any) -> None:
    """Raise ValueError unless attention of a class token can be shown."""
    name = type(model).__name__.partition("[")[0]
    if frames_in_batch(model) != 1 or getattr(getattr(model, "patch_embed", None), "num_frames", None):
        raise ValueError("attention can be shown for image models only, and this one takes clips")
    if find_windows(model) is not None:
        raise ValueError("this model looks at an image through windows, so that no one token looks at the whole image")
    family, embed = family_of(model), getattr(model, "patch_embed", None)
    late = isinstance(family, LateClassTokenFamily)
    if late or getattr(model, "cls_token", None) is None or not isinstance(family, FlatFamily):
        raise ValueError(
            f"this {name} has no class token in its blocks: they attend inside windows, or it pools over patches, or "
            "the token comes behind them, so that no one token looks at the whole image for the answer"
        )
    if any(len(branches(block, "attn")) != 1 for block in blocks(model)) or not hasattr(embed, "grid_size"):
        raise ValueError(f"this {name} has several attentions in a block, or no grid of patches to draw them on")


@torch.no_grad()
def read_attention(model: Any, images: Tensor, block: int = -1) -> list[Looks]:
    """Return where the class token of each image looks in a block, frozen and tuned.

    Args:
        model: tuned, of images, with a class token; left as it was.
        images: B 3 H W, prepared.
        block: its number; negative ones count from the last.

    Raises:
        ValueError: no class token, clips, no such block, or weights that a method trained in place and whose values
            before are not kept.
    """
    check_class_token(model)
    count = len(blocks(model))
    if not -count <= block < count:
        raise ValueError(f"there are {count} blocks, 0 to {count - 1}; got {block}")
    device = next(model.parameters()).device
    inputs = images.to(device)
    grid = tuple(model.patch_embed.grid_size)
    own = original(model, "num_prefix_tokens")
    prompts = model.num_prefix_tokens - own  # tokens at the input
    with whole_last_block(model):
        tuned = _attend(model, inputs, block)
    tuning = record.find(model)
    if tuning is None or not tuning.methods:
        frozen = tuned
    else:
        with disabled(model):
            frozen = _attend(model, inputs, block)
    found = []
    for before, after in zip(frozen, tuned, strict=True):
        length = len(after)
        of_prompts = _look(after[own : own + prompts].mean(0), length, own, grid) if prompts else None
        looks = _look(before[0], len(before), own, grid), _look(after[0], length, own, grid)
        found.append(Looks(*looks, of_prompts))
    return found


def _look(weights: Tensor, queries: int, own: int, grid: tuple[int, int]) -> Look:
    """Divide the attention of one query over its keys.

    Prompts of a block and prefixes stand in front of all other keys, prompts at the input between the model's `own`
    tokens and the patches.
    """
    in_front = len(weights) - queries
    patches = weights[len(weights) - grid[0] * grid[1] :]
    on_itself = float(weights[in_front : in_front + own].sum())
    return Look(patches.reshape(grid).cpu(), on_itself, float(weights.sum() - patches.sum()) - on_itself)


def _attend(model: Any, images: Tensor, block: int) -> Tensor:
    """Return the attention of one block: B queries keys, the mean over heads."""
    with _WatchAttention() as watched:
        (branch,) = branches(blocks(model)[block], "attn")
        attention: nn.Module = branch.layer
        before = attention.register_forward_pre_hook(lambda *_: watched.start())
        behind = attention.register_forward_hook(lambda *_: watched.stop())
        try:
            model.eval()(images)
        finally:
            before.remove()
            behind.remove()
    if watched.weights is None:
        raise ValueError(f"attention of class {type(attention).__name__} does not show its weights")
    return watched.weights.float().mean(1)


class _WatchAttention(TorchFunctionMode):
    """Keeps the weights of the attention that is computed between `start` and `stop`, whichever way it is computed.

    timm calls torch's fused attention, which gives no weights, so that they are computed from what it is given; or, on
    models and machines without it, takes a softmax itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor | None = None  # B heads queries keys
        self._watching = False

    def start(self) -> None:
        self._watching = True

    def stop(self) -> None:
        self._watching = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        if self._watching and func is F.scaled_dot_product_attention:
            self.weights = _weigh(*args[:2], *args[3:4], **given)
        elif self._watching and func in (Tensor.softmax, torch.softmax, F.softmax) and result.ndim == 4:
            self.weights = result
        return result


def _weigh(q: Tensor, k: Tensor, attn_mask: Tensor | None = None, scale: float | None = None, **_: Any) -> Tensor:
    """Return softmax(q kT scale + mask), as `scaled_dot_product_attention` computes it."""
    scores = q.float() @ k.float().transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)
