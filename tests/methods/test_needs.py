"""What methods need of a backbone: missing where the backbone is seen to lack it, and nobody asks for more."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.block_inputs import recorded_calls
from support.families import ALL, attach, images, tiny
from support.matrix import METHODS, every_refusal, refusal
from timm.models.xcit import XCA

import vision_peft as vp
from vision_peft.backbones.frames import frame_wise
from vision_peft.tuning.blocks import blocks, branches
from vision_peft.tuning.families import family_of_block

T = 3
ON_CLIPS = ["beit"]  # families that lack something else than frames once they see clips, frame by frame


def create(name: str) -> tuple[Any, torch.Tensor]:
    """A tiny model with a batch that fits it; of the families on clips for names that end so."""
    family = name.removesuffix(" on clips")
    model = tiny(family)
    x = images(model)
    if family != name:
        return frame_wise(model, T), x.unsqueeze(2).repeat(1, 1, T, 1, 1)
    return model, x


looked_at = functools.cache(create)  # for tests that look at a model and leave it as it is


def holds_blocks(model: Any, x: torch.Tensor) -> bool:
    return any(hasattr(m, "attns") or (hasattr(m, "attn") and hasattr(m, "mlp")) for m in model.modules())


def watch_block(model: Any, x: torch.Tensor) -> torch.Tensor:
    """What enters the first block; of a model without blocks its images."""
    if not holds_blocks(model, x):
        return x
    seen: list[torch.Tensor] = []
    hook = blocks(model)[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    hook.remove()
    return seen[0]


def keeps_width(model: Any, x: torch.Tensor) -> bool:
    """Whether what leaves every block has the form of what entered it."""
    if not holds_blocks(model, x):
        return False
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model(x)
    return all(args[0].shape == (y[0] if isinstance(y, tuple) else y).shape for _, args, _, y in calls)


def sees_a_sequence(model: Any, x: torch.Tensor) -> bool:
    return watch_block(model, x).ndim == 3 and keeps_width(model, x)


def sees_a_grid(model: Any, x: torch.Tensor) -> bool:
    return holds_blocks(model, x) and (watch_block(model, x).ndim == 4 or keeps_width(model, x))


def sees_swins_maps_or_a_sequence(model: Any, x: torch.Tensor) -> bool:
    return "swin" in type(model).__module__ or sees_a_sequence(model, x)


def tells_tokens_from_patches(model: Any, x: torch.Tensor) -> bool:
    """Whether timm's own forward knows tokens ahead of the patches in the sequence that its blocks see."""
    known = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    return sees_a_sequence(model, x) and known


def has_one_grid(model: Any, x: torch.Tensor) -> bool:
    """Whether images of one batch have their patches at the same places."""
    return sees_a_grid(model, x) and "patch_coord" not in inspect.signature(model.forward).parameters


def has_positions_to_take(model: Any, x: torch.Tensor) -> bool:
    return sees_a_sequence(model, x) and has_one_grid(model, x)


def averages_values_of_tokens(model: Any, x: torch.Tensor) -> bool:
    """Whether attention has a weight for every token, and not for every channel."""
    return holds_blocks(model, x) and not any(isinstance(module, XCA) for module in model.modules())


def has_one_attention_a_block(model: Any, x: torch.Tensor) -> bool:
    return holds_blocks(model, x) and hasattr(blocks(model)[0], "attn")


def ends_in_the_norm(model: Any, x: torch.Tensor) -> bool:
    """Whether no class token joins behind the last block: one that is there is felt in what that block gives."""
    if not holds_blocks(model, x):
        return False
    if getattr(model, "cls_token", None) is None:
        return True
    given = []
    hook, kept = blocks(model)[-1].register_forward_hook(lambda *call: given.append(call[2])), model.cls_token.clone()
    with torch.no_grad():
        model(x)
        model.cls_token.add_(1)
        model(x)
        model.cls_token.copy_(kept)
    hook.remove()
    before, after = (y[0] if isinstance(y, tuple) else y for y in given)
    return not torch.equal(before, after)


def embeds_by_one_layer(model: Any, x: torch.Tensor) -> bool:
    if not holds_blocks(model, x):
        return False
    embed: Any = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    return embed is not None and bool(list(embed.proj.parameters(recurse=False)))


def sees_single_frames(model: Any, x: torch.Tensor) -> bool:
    return x.ndim == 5 and len(watch_block(model, x)) == x.shape[0] * x.shape[2]


def attends_over_any_length(model: Any, x: torch.Tensor) -> bool:
    if not holds_blocks(model, x):
        return False
    attention, tokens, given = branches(blocks(model)[0], "attn")[0].layer, watch_block(model, x), []
    hook = attention.register_forward_pre_hook(lambda *call: given.extend(call[2].items()), with_kwargs=True)
    model(x)
    hook.remove()
    if any(name.startswith("shared") and value is not None for name, value in given):
        return False  # a bias that all blocks share
    try:
        return attention(torch.randn(2, 3, tokens.shape[-1])).shape[1] == 3
    except (RuntimeError, ValueError, TypeError):
        return False


def norms_come_first(model: Any, x: torch.Tensor) -> bool:
    """Whether what enters the first block is what its first norm reads."""
    if not holds_blocks(model, x):
        return False
    tokens, read = watch_block(model, x), []
    hook = (
        family_of_block(blocks(model)[0])
        .norms(blocks(model)[0])[0]
        .register_forward_pre_hook(lambda _, args: read.append(args[0]))
    )
    model(x)
    hook.remove()
    return torch.equal(read[0].reshape(tokens.shape), tokens)


def doubles_with_its_weights(model: Any, x: torch.Tensor) -> bool:
    """Whether every layer gives twice as much, but for its bias, with twice its weight."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    with torch.no_grad(), recorded_calls(layers) as calls:
        model(x)
    right = True
    for layer, (given, *_), _, _ in calls:
        x = torch.randn_like(given)  # what was given may have been written over since
        zero, twice = copy.deepcopy(layer), copy.deepcopy(layer)
        zero.weight.data.zero_()
        twice.weight.data.mul_(2)
        with torch.no_grad():
            right &= torch.allclose(twice(x) - zero(x), 2 * (layer(x) - zero(x)), atol=1e-4)
    return right


def enters_by_a_convolution(model: Any, x: torch.Tensor) -> bool:
    """Whether the first layer with weights that is called is a convolution of all channels of the image."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    with torch.no_grad(), recorded_calls(layers) as calls:
        model(x)
    first = calls[0][0]
    return not isinstance(first, torch.nn.Linear) and first.groups == 1 and first.in_channels == x.shape[1]


# Need -> what can be seen from outside of a backbone that has it.
SEEN: dict[str, Callable[[Any, torch.Tensor], bool]] = {
    "transformer blocks": holds_blocks,
    "blocks that keep their width": keeps_width,
    "patches on a grid": has_one_grid,
    "side blocks that see the same tokens": sees_swins_maps_or_a_sequence,
    "a sequence that input prompts can join": tells_tokens_from_patches,
    "positions that input tokens can take": has_positions_to_take,
    "attention that extra keys and values can join": averages_values_of_tokens,
    "one attention and one MLP a block": has_one_attention_a_block,
    "patches embedded by one layer": embeds_by_one_layer,
    "weights in floating point": lambda model, x: all(p.is_floating_point() for p in model.parameters()),
    "a final norm right behind the blocks": ends_in_the_norm,
    "one grid of patches in the sequence": sees_a_sequence,
    "frames of clips, one by one": sees_single_frames,
    "attention without a position bias": attends_over_any_length,
    "norms in front of attention and MLP": norms_come_first,
    "layers that use their weights as they are": doubles_with_its_weights,
    "a convolution that images enter": enters_by_a_convolution,
}
NEEDS = {need.name: need for method in METHODS for need in method.needs}


def test_every_need_is_looked_at_here():
    assert set(NEEDS) == set(SEEN)


@pytest.mark.parametrize("name", [*ALL, *(f"{family} on clips" for family in ON_CLIPS)])
@pytest.mark.parametrize("need", NEEDS.values(), ids=str)
def test_a_need_is_missing_exactly_where_the_backbone_is_seen_to_lack_it(need, name):
    model, x = looked_at(name)
    assert (need.missing(model) is None) == SEEN[need.name](model, x)


def check_that_it_cannot_work(method: vp.Method, model: Any, x: torch.Tensor) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError, RuntimeError, AssertionError)):
        tune_and_run(method, model, x)


def tune_and_run(method: vp.Method, model: Any, x: torch.Tensor) -> None:
    model.requires_grad_(False)
    method.attach(model)  # past the check of its needs
    model(x)


@every_refusal
def test_a_method_is_refused_only_where_it_cannot_work(method, family):
    check_that_it_cannot_work(method, *create(family))


@pytest.mark.parametrize("family", ON_CLIPS)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_on_clips_too(method, family):
    model, x = create(f"{family} on clips")
    if refusal(method, model) is None:
        attach(model, method)(x)
    else:
        check_that_it_cannot_work(method, model, x)
