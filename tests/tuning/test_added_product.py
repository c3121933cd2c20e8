"""Low-rank updates that are added in place: the same function and gradients, and no copy of what they are added to."""

import copy
from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import low_rank_layers
from vision_peft.tuning.added_product import add_product


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def add_two(x: Tensor, hidden: Tensor, one: Tensor, other: Tensor) -> Tensor:
    y = x.exp()  # keeps its output only for what reads it, which is `x.exp() + 0`
    return add_product(add_product(y + 0, hidden, one, 0.7, 1), hidden, other, -2.0, 4) * y


def test_gradients_are_those_of_finite_differences():
    arguments = numbers(5, 8), numbers(5, 2, seed=1), numbers(3, 2, seed=2), numbers(4, 2, seed=3)
    assert torch.autograd.gradcheck(add_two, arguments)
    x, hidden, one, other = arguments
    expected = x.exp()
    expected = torch.cat([expected[:, :1], expected[:, 1:4] + 0.7 * hidden @ one.T, expected[:, 4:]], 1)
    expected = torch.cat([expected[:, :4], expected[:, 4:] - 2.0 * hidden @ other.T], 1) * x.exp()
    torch.testing.assert_close(add_two(*arguments), expected)


def test_a_second_derivative_is_refused():
    arguments = numbers(5, 8), numbers(5, 2, seed=1), numbers(3, 2, seed=2), numbers(4, 2, seed=3)
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        torch.autograd.grad(add_two(*arguments).sum(), arguments, create_graph=True)


def test_it_is_written_where_it_lies():
    y = torch.zeros(3, 4)
    assert add_product(y, torch.ones(3, 2), torch.ones(2, 2), 1.0, 2) is y
    assert y.tolist() == [[0, 0, 2, 2]] * 3


METHODS = {
    "q and v": vp.LoRA(rank=2),
    "one A": vp.LoRA(rank=2, targets=("qkv",), dropout=0.3),
    "all linear": vp.LoRA(rank=2, targets=("all-linear",)),
    "keys": vp.LoRA(rank=2, targets=("k",), dropout=0.3),
    "experts": vp.LoRA(rank=3, expert_dropout=0.4),
    "DoRA": vp.LoRA(rank=2, dora=True),
    "PiSSA": vp.LoRA(rank=2, init="pissa"),
}


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    out = model(x)
    trained = [parameter for _, parameter in vp.tuned_parameters(model)]
    return [out, *torch.autograd.grad(out.square().sum(), trained, allow_unused=True)]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("family", ["vit", "beit", "rope_gqa"])
def test_a_model_is_the_same_as_with_plain_sums(method, family, monkeypatch):
    model: Any = vp.attach(tiny(family).double(), method)
    randomise_tuned(model)
    if method.dropout or method.expert_dropout:  # whose numbers for the last block are drawn in another order
        vp.restore_last_block(model)
    x = images(model).double()
    found = run(model.train(), x)
    monkeypatch.setattr(low_rank_layers, "adds_in_place", lambda *_: False)
    for one, other in zip(found, run(model, x), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_under_another_graft_a_hook_or_a_compiler_is_summed():
    model: Any = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    qkv = model.blocks[0].attn.qkv
    x = torch.randn(2, 5, qkv.in_features)
    assert "_AddProduct" in name_of(qkv(x))
    hooked = copy.deepcopy(qkv)
    kept: list[Tensor] = []
    hooked.register_forward_hook(lambda module, given, output: kept.append(output))
    assert "_AddProduct" not in name_of(hooked(x))
    vp.attach(model, vp.SSF())  # which keeps its output for the backward pass
    assert "_AddProduct" not in name_of(qkv(x))
    run(model, images(model))
    alone: Any = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    compiled: Any = torch.compile(alone.blocks[0].attn.qkv, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), alone.blocks[0].attn.qkv(x))


def test_under_autocast_it_is_added_in_the_type_of_the_layer():
    model: Any = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    randomise_tuned(model)
    qkv = model.blocks[0].attn.qkv
    x = torch.randn(2, 5, qkv.in_features, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        y = qkv(x)
    assert y.dtype == torch.bfloat16
    assert "_AddProduct" in name_of(y)
    torch.testing.assert_close(y.float(), qkv(x), rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert qkv.lora["q"].B.grad.dtype == torch.float32


def name_of(y: Tensor) -> str:
    """The operations that made `y`, the last four."""
    names, node = "", y.grad_fn
    for _ in range(4):
        if node is None:
            break
        names, node = names + node.name(), next((inner for inner, _ in node.next_functions if inner), None)
    return names
