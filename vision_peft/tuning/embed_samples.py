"""Start values from images: the patch tokens of samples as they enter the first block."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vision_peft.tuning.backbone import frames_in_batch
from vision_peft.tuning.families import flat_family_of
from vision_peft.tuning.graft import original
from vision_peft.tuning.input_tokens import carried_positions, prompt_insertion_module

_PATCHES_PER_IMAGE = 4


class Samples(NamedTuple):
    """What is kept of the samples, on the CPU."""

    means: dict[int, Tensor]  # label -> mean patch token of each of its images (k D), by label
    patches: Tensor  # single patch tokens (M D), drawn at random from all images


@torch.no_grad()
def embed_samples(model: Any, batches: Iterable[Any], per_class: int, *, with_positions: bool = True) -> Samples:
    """Embed the first ``per_class`` images of every class; all batches are read.

    Args:
        model: a flat timm vision transformer (ViT, EVA, BEiT).
        batches: (images B C H W, labels B) and whatever else a loader adds.
        per_class: images of every class that are used.
        with_positions: see ``patch_tokens``.

    Raises:
        ValueError: no batches, or batches of another kind.
    """
    like = next(model.parameters())
    means: dict[int, list[Tensor]] = {}
    patches: list[Tensor] = []
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) < 2 or not all(isinstance(t, Tensor) for t in batch[:2]):
            raise ValueError(f"samples must be batches of (images, labels) tensors; got {type(batch).__name__}")
        images, labels = batch[:2]
        wanted = []
        for row, label in enumerate(labels.tolist()):
            if len(means.setdefault(int(label), [])) < per_class:
                means[int(label)].append(torch.empty(0))
                wanted.append((row, int(label), len(means[int(label)]) - 1))
        if not wanted:
            continue
        tokens = patch_tokens(model, images[[row for row, _, _ in wanted]].to(like), with_positions).float().cpu()
        for (_, label, place), own in zip(wanted, tokens, strict=True):
            means[label][place] = own.mean(0)
            patches.append(own[torch.randperm(len(own))[:_PATCHES_PER_IMAGE]])
    if not means:
        raise ValueError("samples hold no batch: wanted a loader over some images of every class")
    return Samples({label: torch.stack(means[label]) for label in sorted(means)}, torch.cat(patches))


@torch.no_grad()
def patch_tokens(model: Any, images: Tensor, with_positions: bool = True) -> Tensor:
    """Patch tokens (B N D) of ``images`` as they enter the first block, positions and pre-norm included.

    Of clips (B C T H W) they are those of all frames. Without positions they are the bare content of the patches: as
    they are before positions join them, and so before the pre-norm.
    """
    if images.ndim == 5:
        images = images.flatten(1, 2)  # timm's forward_intermediates takes four sizes
    seen: list[Any] = []
    modes = {module: module.training for module in model.modules()}
    family = flat_family_of(model)
    source = prompt_insertion_module(model) if with_positions else family.patch_embedding(model)
    handle = source.register_forward_hook(lambda module, args, tokens: seen.append(tokens))
    try:
        model.eval()
        model.forward_intermediates(images, indices=[0], stop_early=True, output_fmt="NLC", intermediates_only=True)
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    frames = frames_in_batch(model)
    if with_positions:
        prompts = model.num_prefix_tokens - original(model, "num_prefix_tokens")
        patches = seen[0][: len(images) * frames, family.tokens_ahead(model) + prompts :]
    else:
        patches = seen[0].flatten(1, -2)  # a grid where sizes are dynamic
        for positions in carried_positions(model):
            patches = patches - positions
    return patches.unflatten(0, (len(images), frames)).flatten(1, 2)
