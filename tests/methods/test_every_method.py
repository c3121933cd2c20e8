"""What every method promises on every family of backbones. A new method is in the matrix by existing."""

import copy
import functools
import pickle
import re
from typing import Any

import pytest
import torch
from support.families import ALL, attach, four_sizes, images, randomise_tuned, tiny
from support.matrix import (
    every_case,
    every_compiled_case,
    every_refusal,
    lacks_bias,
    merge_refusal,
    parametrize_stacks,
    refusal,
    standardises,
)
from torch import nn
from torch._dynamo.exc import Unsupported

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.attach import attach_for_loading
from vision_peft.tuning.backbone import classifier_names


@functools.cache
def untouched(family: str) -> tuple[Any, torch.Tensor, list[str]]:
    """A model that no refused method may change, what it says of its images, and the names in its state."""
    model = tiny(family)
    return model, model(images(model)), list(model.state_dict())


@every_refusal
def test_a_pair_that_does_not_fit_is_refused_at_attach_and_leaves_the_model_alone(method, family):
    model, expected, names = untouched(family)
    with pytest.raises(ValueError, match=re.escape(refusal(method, model) or "fits")):
        attach(model, method)
    assert list(model.state_dict()) == names
    assert not list(graft.grafts(model))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model(images(model)), expected)


@every_case
def test_identity_at_start_where_promised(method, family):
    model = tiny(family).double()
    x = images(model).double()
    expected = model(x)
    attach(model, method)
    difference = (model.eval()(x) - expected).abs().max()
    if method.starts_as_identity:
        assert difference < 1e-12
    else:
        assert difference > 1e-9


@every_case
def test_every_tuned_tensor_gets_a_gradient_and_no_frozen_one(method, family):
    model = attach(tiny(family), method)
    randomise_tuned(model)
    vp.train_mode(model)
    torch.manual_seed(0)
    model(images(model, batch=4)).square().sum().backward()
    tuned = dict(vp.tuned_parameters(model))
    silent = _silent(tuned, family)
    assert silent == (_silent_in_timm(family) if isinstance(method, vp.FullFineTune) else set())
    assert [n for n, p in model.named_parameters() if n not in tuned and p.grad is not None] == []


def _silent_in_timm(family: str) -> set[str]:
    # timm's own models hold parameters that no output depends on (a mask token, say): full training cannot move them.
    plain = tiny(family)
    plain(images(plain, batch=4)).square().sum().backward()
    return _silent(dict(plain.named_parameters()), family)


def _silent(parameters: dict[str, nn.Parameter], family: str) -> set[str]:
    # Where outputs depend on a parameter by rounding only, its gradient may be zero or not.
    silent = {n for n, p in parameters.items() if p.grad is None or not p.grad.abs().max() > 0}
    return {name for name in silent if not name.endswith(ALL[family].felt_by_rounding)}


@every_case
def test_pretrained_keys_stay_and_detach_is_exact(method, family):
    model = tiny(family)
    x, modules, before = images(model), dict(model.named_modules()), dict(model.state_dict())
    classes = {name: type(module) for name, module in modules.items()}
    attributes = {name: set(vars(module)) for name, module in modules.items()}
    expected = model(x)
    attach(model, method)
    assert set(before) <= set(model.state_dict())
    model(x)
    vp.detach(model)
    assert list(model.state_dict()) == list(before)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert all(modules[name] is module for name, module in model.named_modules())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(x), expected)


@every_case
def test_a_saved_adapter_gives_the_same_outputs_on_a_fresh_backbone(method, family, tmp_path):
    model = attach(tiny(family), method)
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    fresh = vp.load_adapter(tiny(family), tmp_path)
    x = images(model)
    exact = method.baked() == method  # else the folder holds constants, computed once by another kernel
    torch.testing.assert_close(fresh.eval()(x), model.eval()(x), rtol=0, atol=0 if exact else 1e-5)


@every_case
def test_merge_gives_a_plain_model_with_the_same_outputs_and_a_way_back_or_says_why_not(method, family):
    model = attach(tiny(family), method)
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    kinds = {kind for _, module in graft.grafts(model) for kind in graft.kinds(module)}
    reason = merge_refusal(model)
    if reason is not None:
        never = any(kind.fold is graft.Graft.fold for kind in kinds)
        assert never or lacks_bias(model, reason) or standardises(model, reason)
        assert reason.startswith(f"cannot merge {type(method).__name__}: ")
        assert torch.equal(model(x), expected)
        return
    twin, trained = copy.deepcopy(model), [name for name, _ in vp.tuned_parameters(model)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    vp.merge(model)
    plain = tiny(family, seed=3)
    if (left := method.merged()) is not None:
        attach_for_loading(plain, left)
    plain.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-5)
    assert _same(vp.merge(twin, reversible=True).state_dict(), model.state_dict())
    assert _same(vp.unmerge(twin).state_dict(), before)
    assert torch.equal(twin(x), expected)
    assert [name for name, _ in vp.tuned_parameters(twin)] == trained


def _same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(other) and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


@every_case
def test_copies_checkpointing_and_intermediates_agree(method, family):
    model: Any = attach(tiny(family), method)
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    features, intermediates = model.forward_intermediates(four_sizes(x))
    torch.testing.assert_close(model.forward_head(features), expected)
    assert all(feature.shape[0] == len(x) and feature.ndim == 4 for feature in intermediates)
    gradients = _gradients(model, x)
    model.set_grad_checkpointing(True)
    for name, gradient in _gradients(model, x).items():  # own autograd functions run plain operations in checkpointing
        largest = float(gradients[name].abs().max())
        torch.testing.assert_close(gradient, gradients[name], atol=1e-5 * max(1.0, largest), rtol=1.3e-6)
    model.set_grad_checkpointing(False)


def _gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in vp.tuned_parameters(model) if p.grad is not None}


@every_compiled_case
def test_a_compiled_model_gives_the_same_outputs_after_bake_where_the_method_asks_for_it(method, family):
    model: Any = attach(tiny(family), method)
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    if method.bake_before_compile is not None:
        with pytest.raises(Unsupported, match=method.bake_before_compile):
            torch.compile(model, fullgraph=True, backend="eager")(x)
        vp.bake(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)


STACKS = [
    (vp.LoRA(rank=2, targets=("q", "k", "v")), vp.VPT(tokens=3)),
    (vp.VPT(tokens=3), vp.LoRA(rank=2, targets=("q", "k", "v"))),
    (vp.VPT(tokens=3), vp.AdaptFormer(bottleneck=16)),
    (vp.SSF(), vp.VPT(tokens=3)),
    (vp.LoRA(rank=2, targets=("q", "v"), dora=True), vp.Houlsby(bottleneck=4, sigma=0.1)),
    (vp.AdaptFormer(bottleneck=16, form="sequential"), vp.LoRA(rank=2, targets=("fc1", "proj"))),
]


every_stack = parametrize_stacks(STACKS)


@every_stack
def test_methods_stack_in_any_order_and_all_learn(first, second, family):
    model = tiny(family)
    x = images(model, batch=4)
    expected = model(x)
    attach(attach(model, first), second)
    randomise_tuned(model)
    model(x).square().sum().backward()
    silent = [n for n, p in vp.tuned_parameters(model) if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    swapped = attach(attach(tiny(family), second), first)
    vp.load_tuned(swapped, vp.tuned_state_dict(model))
    torch.testing.assert_close(swapped(x), model(x), rtol=1e-5, atol=1e-5)
    vp.detach(model)
    heads = tuple(f"{name}." for name in classifier_names(model))
    vp.load_tuned(model, {n: t for n, t in tiny(family).state_dict().items() if n.startswith(heads)}, head="load")
    assert torch.equal(model(x), expected)
