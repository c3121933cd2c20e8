"""VPT against what the official code does: prompts inserted as tokens into every block, or once at the input."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from support.families import FLAT, MORE, images, randomise_tuned, tiny
from support.matrix import fits
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vision_peft as vp
from vision_peft.tuning.backbone import frames_in_batch
from vision_peft.tuning.blocks import blocks, branches
from vision_peft.tuning.input_tokens import prompt_insertion_module
from vision_peft.tuning.short_block import restore_last_block

TAKES_DEEP = [family for family in [*FLAT, *MORE] if fits(vp.VPT(), family)]
every_deep_family = pytest.mark.parametrize("family", TAKES_DEEP)
every_flat_family = pytest.mark.parametrize("family", [f for f in [*FLAT, *MORE] if fits(vp.VPT(deep=False), f)])
P = 3  # prompts


def pad_bias(bias: Tensor, at: int = 1) -> Tensor:
    """Zero bias (... N N) from and to prompts that sit behind ``at`` tokens, mostly the class token."""
    N = bias.shape[-1]
    old = [*range(at), *range(P + at, N + P)]
    padded = bias.new_zeros(*bias.shape[:-2], N + P, N + P)
    rows = torch.tensor(old)
    padded[..., rows[:, None], rows] = bias
    return padded


def attentions(model: Any) -> list[tuple[str, Any]]:
    """Every attention in a block, with its name."""
    names = {module: name for name, module in model.named_modules()}
    found = [branch.layer for block in blocks(model) for branch in branches(block, "attn")]
    return [(names[attn], attn) for attn in found]


def make_room(model: Any, at: int) -> None:
    """Let attention of ``model`` take prompts behind its first ``at`` tokens."""
    for _, attn in attentions(model):
        if hasattr(attn, "num_prefix_tokens"):
            attn.num_prefix_tokens += P  # rotary embeddings turn patches only
        if getattr(attn, "relative_position_bias_table", None) is not None:
            attn._get_rel_pos_bias = lambda own=attn._get_rel_pos_bias: pad_bias(own())
        if getattr(attn, "rel_pos", None) is not None:
            attn.rel_pos.get_bias = lambda own=attn.rel_pos.get_bias: pad_bias(own(), at)


@contextmanager
def inserted(model: Any, prompts: Callable[[int, int], Tensor]):
    """Within the context every block works on [prefix tokens, its prompts, patches]; prompts(block, B) is B P D."""
    handles, at = [], model.num_prefix_tokens

    def insert(i: int) -> Callable[..., Any]:
        def hook(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            (x,) = args
            for name in {"shared_rel_pos_bias", "shared_rel_pos"} & set(kwargs):
                if kwargs[name] is not None:
                    kwargs = {**kwargs, name: pad_bias(kwargs[name], at)}
            return (torch.cat([x[:, :at], prompts(i, len(x)), x[:, at:]], dim=1),), kwargs

        return hook

    def drop(block: nn.Module, args: Any, y: Tensor) -> Tensor:
        return torch.cat([y[:, :at], y[:, at + P :]], dim=1)

    for i, block in enumerate(blocks(model)):
        handles += [
            block.register_forward_pre_hook(insert(i), with_kwargs=True),
            block.register_forward_hook(drop),
        ]
    make_room(model, at)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, tensors))


@every_deep_family
@pytest.mark.parametrize("project", [None, 8])
def test_deep_prompts_equal_insertion_into_every_block_and_so_do_their_gradients(family, project):
    method = vp.VPT(tokens=P, project=project)
    model = vp.attach(tiny(family), method)
    randomise_tuned(model)
    x = images(model)
    named = dict(vp.tuned_parameters(model))
    logits = model(x)
    own = gradients(logits.square().sum(), list(named.values()))

    plain = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if "prompt" not in n})
    state = {name: named[name].detach().clone().requires_grad_() for name in named}
    for name, tensor in state.items():
        if "prompt" not in name:
            module, _, leaf = name.rpartition(".")
            plain.get_submodule(module).register_parameter(leaf, nn.Parameter(tensor.detach().clone()))

    def prompts(i: int, batch: int) -> Tensor:
        p = state[[name for name in named if name.endswith("attn.prompts")][i]]
        if project is not None:
            (first,) = {name.rpartition(".")[0] for name in named if "prompt_project" in name}
            p = F.linear(p, state[f"{first}.weight"], state[f"{first}.bias"])
        return p.expand(batch, -1, -1)

    with inserted(plain, prompts):
        expected = plain(x)
        wanted = [state[name] if "prompt" in name else plain.get_parameter(name) for name in named]
        theirs = gradients(expected.square().sum(), wanted)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    for name, gradient, reference in zip(named, own, theirs, strict=True):
        error = (gradient - reference).norm() / reference.norm()
        assert error < 1e-4, f"{name}: relative error of the gradient {error:.1e}"


@pytest.mark.parametrize("family", [name for name in TAKES_DEEP if name != "vit_parallel"])  # a mask each attention
def test_prompt_dropout_draws_a_mask_for_every_image_as_the_official_code_does(family):
    model = vp.attach(tiny(family), vp.VPT(tokens=P, dropout=0.5))
    randomise_tuned(model)
    x = images(model, batch=3)
    masks: list[Tensor] = []
    for block in blocks(model):
        block.attn.prompt_dropout.register_forward_hook(lambda module, args, y: masks.append(y.detach() != 0))
    vp.train_mode(model)
    logits = model(x)
    assert [mask.shape for mask in masks] == [(3 * frames_in_batch(model), P, 32)] * 2
    assert not torch.equal(masks[0][0], masks[0][1])
    assert not torch.equal(masks[0], masks[1])

    plain = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if "prompt" not in n})

    def prompts(i: int, batch: int) -> Tensor:
        return model.get_parameter(f"blocks.{i}.attn.prompts") * masks[i] / 0.5

    with inserted(plain, prompts):
        torch.testing.assert_close(logits, plain(x), rtol=1e-5, atol=1e-5)


def test_a_projection_for_two_attentions_is_kept_once(tmp_path):
    model = vp.attach(tiny("vit_parallel"), vp.VPT(tokens=P, project=8))
    vp.save_adapter(model, tmp_path / "adapter")
    fresh = vp.load_adapter(tiny("vit_parallel"), tmp_path / "adapter")
    assert torch.equal(fresh(images(fresh)), model(images(model)))
    assert sum("prompt_project" in name for name in model.state_dict()) == 2  # weight and bias


def test_without_training_prompt_dropout_does_nothing():
    torch.manual_seed(0)
    model = vp.attach(tiny("vit"), vp.VPT(tokens=P, dropout=0.5)).eval()
    state = vp.tuned_state_dict(model)
    other = vp.attach(tiny("vit"), vp.VPT(tokens=P))
    vp.load_tuned(other, state)
    assert torch.equal(model(images(model)), other(images(model)))


@every_flat_family
@pytest.mark.parametrize("project", [None, 8])
def test_shallow_prompts_equal_concatenation_at_the_input(family, project):
    model = vp.attach(tiny(family), vp.VPT(tokens=P, deep=False, project=project))
    randomise_tuned(model)
    x = images(model)
    expected = _concatenated(model, family, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def _concatenated(model: Any, family: str, x: Tensor) -> Tensor:
    plain: Any = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if "prompt" not in n})
    module: Any = prompt_insertion_module(model)
    prompts, at = module.prompt_project(module.prompts), plain.num_prefix_tokens
    ahead = 0 if "relpos" in family else at  # there the class token joins behind the prompts, and in front of them
    prompt_insertion_module(plain).register_forward_hook(
        lambda module, args, y: torch.cat([y[:, :ahead], prompts.expand(len(y), -1, -1), y[:, ahead:]], dim=1)
    )
    make_room(plain, at)
    if getattr(plain, "rel_pos_bias", None) is not None:
        plain.rel_pos_bias.register_forward_hook(lambda module, args, y: pad_bias(y))
    if getattr(plain, "shared_rel_pos", None) is not None:
        plain.shared_rel_pos.get_bias = lambda own=plain.shared_rel_pos.get_bias: pad_bias(own(), at)
    tokens = plain.forward_features(x)
    return plain.forward_head(torch.cat([tokens[:, :at], tokens[:, at + P :]], dim=1))  # prompts are not pooled


def test_shallow_prompts_with_average_pooling_are_not_averaged():
    model: Any = vp.attach(tiny("vit_avg"), vp.VPT(tokens=P, deep=False))
    tokens = model.forward_features(images(model))
    assert tokens.shape[1] == 16 + 1 + P
    torch.testing.assert_close(model.pool(tokens), tokens[:, 1 + P :].mean(1))


def test_shallow_dropout_draws_a_mask_for_every_image():
    model = vp.attach(tiny("vit"), vp.VPT(tokens=P, deep=False, dropout=0.5))
    drawn: list[Tensor] = []
    dropout: Any = prompt_insertion_module(model).prompt_dropout
    dropout.register_forward_hook(lambda module, args, y: drawn.append(y.detach() != 0))
    vp.train_mode(model)(images(model, batch=3))
    assert drawn[0].shape == (3, P, 32)
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_shallow_prompts_need_a_fixed_image_size_where_positions_are_resized():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2, dynamic_img_size=True
    )
    with pytest.raises(ValueError, match="create it with a fixed img_size"):
        vp.attach(model, vp.VPT(deep=False))
    vp.attach(model, vp.VPT(deep=True))
    assert model(torch.zeros(1, 3, 48, 64)).shape == (1, 1000)


def test_shallow_prompts_are_refused_where_pooling_would_average_them():
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        embed_dim=32,
        depth=1,
        num_heads=2,
        global_pool="avg",
        pool_include_prefix=True,
    )
    with pytest.raises(ValueError, match="prompts would be averaged"):
        vp.attach(model, vp.VPT(deep=False))


def test_deep_prompts_on_swin_are_keys_and_values_in_every_window():
    model = vp.attach(tiny("swin"), vp.VPT(tokens=P))
    widths = [block.attn.prompts.shape for block in blocks(model)]
    assert widths == [(P, 16), (P, 16), (P, 32), (P, 32)]
    x = images(model)
    before = model(x)
    with torch.no_grad():
        for block in blocks(model):
            block.attn.prompts.mul_(10)
    assert not torch.allclose(model(x), before)


def test_prompts_start_within_the_xavier_bound_of_the_official_code():
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    vp.attach(model, vp.VPT(tokens=50))
    bound = (6 / (3 * 16 * 16 + 768)) ** 0.5
    prompts = model.get_parameter("blocks.0.attn.prompts")
    assert prompts.abs().max() <= bound
    assert abs(prompts.std().item() / (bound / 3**0.5) - 1) < 0.02  # 38,400 uniform draws


@pytest.mark.parametrize("fields", [{"tokens": 0}, {"tokens": -1}, {"dropout": 1.0}, {"dropout": -0.1}, {"project": 0}])
def test_impossible_fields_are_refused_by_name(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} must"):
        vp.VPT(**fields)


def test_fifty_deep_prompts_on_vit_base_cost_at_most_two_percent_of_the_forward_flops():
    B, N, D, L, tokens = 16, 197, 768, 12, 50
    model = timm.create_model("vit_base_patch16_224", num_classes=100).eval()
    bare = flops(model, B)
    restore_last_block(vp.attach(model, vp.VPT(tokens=tokens)))
    with_prompts = flops(model, B)
    projection = 2 * tokens * D * 3 * D  # once a batch
    attention = 2 * 2 * B * N * tokens * D  # QKᵀ and the weighted sum of values
    assert with_prompts - bare == L * (projection + attention)
    assert with_prompts <= 1.02 * bare


def flops(model: nn.Module, batch: int) -> int:
    on_meta = copy.deepcopy(model).to("meta")  # counts, computes nothing
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention counts as zero
        on_meta(torch.empty(batch, 3, 224, 224, device="meta"))
    return counter.get_total_flops()
