"""Functions that keep less for the backward pass: their gradients against autograd's own, and what they keep."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import images, randomise_tuned, tiny
from support.saved_bytes import count_saved_bytes
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vision_peft as vp
from vision_peft.methods import houlsby
from vision_peft.tuning import autograd_functions
from vision_peft.tuning.autograd_functions import add_adapted, is_recorded, narrow_linear, scale_and_shift, widen

B, N, D, R = 2, 3, 4, 2


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def of_norm(h: Tensor, scale: Tensor | None, shift: Tensor | None, A: Tensor, c: Tensor | None = None) -> Tensor:
    """A small matrix on a layer norm, which something else reads too."""
    x = F.layer_norm(h, h.shape[-1:], scale, shift)
    return narrow_linear(x, A, c) + x.sum()


def dropped_norm(h: Tensor, scale: Tensor, shift: Tensor, A: Tensor) -> Tensor:
    torch.manual_seed(0)  # one mask for every call
    return narrow_linear(F.layer_norm(h, h.shape[-1:], scale, shift), A, dropout=nn.Dropout(0.4))


def of_gelu(u: Tensor, A: Tensor, approximate: str = "none") -> Tensor:
    return narrow_linear(F.gelu(u, approximate=approximate), A)


def bottleneck(
    hidden: Tensor, weight: Tensor, bias: Tensor, scale: Any, activate: Callable[[Tensor], Tensor], p: float
) -> Tensor:
    torch.manual_seed(0)  # one mask for every call
    return widen(hidden, activate, nn.Dropout(p), weight, bias, scale)


def quick_gelu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)


h, A, c = numbers(B, N, D), numbers(R, D, seed=1), numbers(R, seed=2)
scale, shift = numbers(D, seed=3), numbers(D, seed=4)
hidden, up, up_bias = numbers(B, N, R, seed=5), numbers(D, R, seed=6), numbers(D, seed=7)
wide = numbers(B, N, 3 * D, seed=8)

CASES: dict[str, tuple[str, Callable[..., Tensor], tuple[Any, ...]]] = {
    "scale_and_shift": ("_ScaleAndShift", scale_and_shift, (h, scale, shift)),
    "scale alone": ("_ScaleAndShift", partial(scale_and_shift, h.detach()), (scale, shift.detach())),
    "norm": ("_NarrowLinear", of_norm, (h, scale, shift, A, c)),
    "norm without a shift": ("_NarrowLinear", lambda h, s, A: of_norm(h, s, None, A), (h, scale, A)),
    "norm without weights": ("_NarrowLinear", lambda h, A: of_norm(h, None, None, A), (h, A)),
    "norm and dropout": ("_NarrowLinear", dropped_norm, (h, scale, shift, A)),
    "GELU": ("_NarrowLinear", of_gelu, (h, A)),
    "GELU by tanh": ("_NarrowLinear", partial(of_gelu, approximate="tanh"), (h, A)),
    "GELU in tiles": ("_NarrowLinear", of_gelu, (wide, A)),
    "ReLU": ("_RunTwice", partial(bottleneck, activate=torch.relu, p=0.0), (hidden, up, up_bias, None)),
    "dropout": ("_RunTwice", partial(bottleneck, activate=F.gelu, p=0.4), (hidden, up, up_bias, scale)),
    "one scale": ("_RunTwice", partial(bottleneck, activate=quick_gelu, p=0.0), (hidden, up, up_bias, numbers(1))),
    "add_adapted": (
        "_AddAdapted",
        lambda x, y, down, down_bias, up, up_bias: add_adapted(x, y, down, down_bias, F.gelu, up, up_bias),
        (h, numbers(B, N, D, seed=9), A, c, up, up_bias),
    ),
    "all dropped": ("_RunTwice", partial(bottleneck, activate=F.gelu, p=1.0), (hidden, up, up_bias, None)),
}


def names(node: Any, seen: set[Any] | None = None) -> set[str]:
    """The names of all nodes of a graph."""
    seen = set() if seen is None else seen
    if node is None or node in seen:
        return set()
    seen.add(node)
    return {node.name()}.union(*(names(following, seen) for following, _ in node.next_functions))


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case):
    name, function, arguments = CASES[case]
    assert f"{name}Backward" in names(function(*arguments).grad_fn)
    assert torch.autograd.gradcheck(function, arguments)


@pytest.mark.parametrize("case", ["scale_and_shift", "norm", "GELU", "ReLU", "add_adapted"])
def test_a_second_derivative_is_refused(case):
    _, function, arguments = CASES[case]
    trained = [argument for argument in arguments if argument is not None]
    with pytest.raises(RuntimeError, match="attached methods have first derivatives alone, and create_graph=True asks"):
        torch.autograd.grad(function(*arguments).sum(), trained, create_graph=True)


def small_case(dtype: torch.dtype = torch.float32) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """All functions one behind the other, and their arguments."""

    def run(h: Tensor, scale: Tensor, shift: Tensor, A: Tensor, up: Tensor, c: Tensor, up_bias: Tensor) -> Tensor:
        x = F.layer_norm(scale_and_shift(h, scale, shift), h.shape[-1:])
        y = widen(narrow_linear(x, A), F.gelu, None, up)
        if not is_recorded(h):
            return h + (y + F.linear(F.gelu(F.linear(y, A, c)), up, up_bias))
        return add_adapted(h, y, A, c, F.gelu, up, up_bias)

    return run, [tensor.detach().to(dtype).requires_grad_() for tensor in (h, scale, shift, A, up, c, up_bias)]


def differentiate(run: Callable[..., Tensor], arguments: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run(*arguments).square().sum(), arguments)


def test_under_checkpointing_they_are_recomputed_with_the_rest_and_keep_nothing():
    run, arguments = small_case()
    runs: list[int] = []

    def noted(*given: Tensor) -> Tensor:
        runs.append(len(given))
        return run(*given)

    again: Any = partial(checkpoint, noted, use_reentrant=False)
    for one, other in zip(differentiate(run, arguments), differentiate(again, arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert len(runs) == 2  # forward and backward: nothing that is to be recomputed was asked for before


def test_dropout_keeps_its_share_and_scales_it():
    torch.manual_seed(0)
    eye = torch.eye(100).requires_grad_()
    read = F.layer_norm(torch.randn(20, 100).requires_grad_(), (100,))
    dropout = nn.Dropout(0.2)
    for out, whole in (
        (widen(read, torch.sigmoid, dropout, eye), torch.sigmoid(read)),
        (narrow_linear(read, eye, dropout=dropout), read),
    ):
        kept = out != 0
        assert 0.75 < kept.float().mean() < 0.85
        torch.testing.assert_close(out[kept], whole[kept] / 0.8)
    assert widen(read, torch.sigmoid, nn.Dropout(1.0), eye).abs().max() == 0
    torch.testing.assert_close(narrow_linear(read, eye, dropout=dropout.eval()), read)


def test_functional_transforms_and_compiled_code_take_the_plain_operations():
    run, arguments = small_case()
    expected = differentiate(run, arguments)
    of_sum = torch.func.grad(lambda *given: run(*given).square().sum(), argnums=tuple(range(7)))
    found = of_sum(*(argument.detach() for argument in arguments))
    compiled = differentiate(torch.compile(run, backend="aot_eager", fullgraph=True), arguments)
    for one, other, third in zip(expected, found, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one, third, rtol=1e-5, atol=1e-6)


def test_under_autocast_gradients_are_those_of_the_plain_operations_to_its_precision():
    run, arguments = small_case()
    expected = differentiate(run, arguments)

    def in_bfloat16(*given: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run(*given)

    for one, other in zip(expected, differentiate(in_bfloat16, arguments), strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.03 * one.norm()


def test_nothing_is_recorded_where_nothing_trains():
    run, arguments = small_case()
    plain = run(*(argument.detach() for argument in arguments))
    assert plain.grad_fn is None
    torch.testing.assert_close(plain, run(*arguments))


# Kept numbers, on a tiny ViT of two blocks: 17 tokens of 32 channels, hidden layers of 128

IMAGES, TOKENS, WIDTH = 2, 17, 32
EACH = 2 * IMAGES * TOKENS  # tokens of both blocks


def count_kept(method: vp.Method | None) -> int:
    """Numbers of four bytes that a forward pass keeps; None: of a frozen backbone, with a gradient to all tokens."""
    model: Any = tiny("vit_avg").requires_grad_(False)  # a last block like the first
    if method is None:
        model.head.requires_grad_(True)
    else:
        vp.train_mode(vp.attach(model, method))
    model.pos_embed.requires_grad_(True)  # so that the first block keeps what the second does
    return count_saved_bytes(model, torch.randn(IMAGES, 3, 32, 32)) // 4


BEYOND: list[tuple[vp.Method, int]] = [  # what is kept beyond a frozen backbone
    (vp.BitFit(), 0),
    (vp.LoRA(rank=2), EACH * 2 * 2),  # A x of q and v
    (vp.LoRA(rank=2, dropout=0.1), EACH * 2 * (2 + WIDTH // 4)),  # and a byte a number for what is dropped
    (vp.LoRA(rank=2, targets=("all-linear",)), EACH * 4 * 2),  # A x of qkv, proj, fc1 and fc2
    # Behind U and in front of V, for tiles 1 + 3, 1 + 1, 1 + 4 and 4 + 1; cores of fc2 in another order.
    (vp.FacT(rank=2, dropout=0.0), EACH * 16 * 2 + 2 * 4 * 2 * 2),
    (vp.AdaptFormer(bottleneck=4), EACH * (4 + 1)),  # hidden numbers, and a byte each for what is dropped
    (vp.AdaptFormer(bottleneck=4, scale="learnable", dropout=0.0), EACH * 4),
    (
        vp.AdaptFormer(bottleneck=4, input="block_norm", dropout=0.0),
        EACH * (4 + 2),
    ),  # the norm runs twice: its statistics
    (vp.AdapterPlus(bottleneck=4, drop_path=0.0), EACH * (WIDTH + 4)),  # the block's output and hidden numbers
    (vp.Houlsby(bottleneck=4), EACH * 2 * 4 + IMAGES * TOKENS * WIDTH),  # no norm keeps what is averaged
    (vp.RepAdapter(bottleneck=4, dropout=0.0), EACH * 2 * 4),
    (vp.VPT(tokens=3), 2 * (IMAGES * 2 * 3 * WIDTH + 2 * 3)),  # keys and values of prompts, statistics of their norm
    (vp.PrefixTuning(tokens=3, hidden=None), 2 * IMAGES * 2 * 3 * WIDTH),
    # Outputs of proj, fc2 and the patches; weights and biases of five norms.
    (vp.SSF(), EACH * 2 * WIDTH + IMAGES * (TOKENS - 1) * WIDTH + 5 * 2 * WIDTH),
]


@pytest.mark.parametrize(("method", "beyond"), BEYOND, ids=[repr(method) for method, _ in BEYOND])
def test_a_method_keeps_what_it_must_and_no_more(method, beyond):
    assert count_kept(method) - count_kept(None) == beyond


@pytest.mark.parametrize("method", [method for method, _ in BEYOND], ids=repr)
def test_gradients_of_a_method_are_those_of_the_plain_operations(method, monkeypatch):
    model = vp.attach(tiny("vit"), method).eval()  # nothing drops out
    randomise_tuned(model)
    x = images(model)
    trained = [parameter for _, parameter in vp.tuned_parameters(model)]
    found = torch.autograd.grad(model(x).square().sum(), trained)
    for module in (autograd_functions, houlsby):
        monkeypatch.setattr(module, "is_recorded", lambda *tensors: False)
    expected = torch.autograd.grad(model(x).square().sum(), trained)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()


def test_an_adapter_under_drop_path_or_in_bfloat16_keeps_what_it_read():
    model: Any = vp.attach(tiny("vit"), vp.Houlsby(bottleneck=4))
    assert "_AddAdaptedBackward" in names(model(images(model)).grad_fn)
    assert "_AddAdaptedBackward" not in names(model.bfloat16()(images(model).bfloat16()).grad_fn)
    dropping: Any = tiny("vit")
    for block in dropping.blocks:
        block.drop_path1, block.drop_path2 = DropPath(0.5), DropPath(0.5)
    vp.attach(dropping, vp.Houlsby(bottleneck=4)).train()
    assert "_AddAdaptedBackward" not in names(dropping(images(dropping)).grad_fn)


def test_a_bypass_keeps_five_times_its_hidden_numbers_at_most():
    kept = count_kept(vp.Convpass(bottleneck=4, dropout=0.0)) - count_kept(None)
    assert EACH * 2 * 3 * 4 < kept < EACH * 2 * 5 * 4


def test_a_matrix_on_tiles_of_a_norm_keeps_the_norm():
    def run(h: Tensor, A: Tensor) -> Tensor:
        return narrow_linear(F.layer_norm(h, h.shape[-1:]), A)

    assert "_NarrowLinearBackward" not in names(run(wide, A).grad_fn)
    assert torch.autograd.gradcheck(run, (wide, A))


def test_what_is_overwritten_is_not_kept():
    def add_in_place(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        y = scale_and_shift(h, scale, shift, overwritten=True)
        y += 1
        return y

    assert torch.autograd.gradcheck(add_in_place, (h, scale, shift))
