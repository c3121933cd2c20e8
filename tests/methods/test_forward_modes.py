"""Forward passes besides those of training: in every gradient mode, under torch's counter, on no image at all."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from support.families import attach, images, tiny
from support.matrix import METHODS, fits
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

FAMILIES = ("vit", "swin", "frames")
FITTING = {method: [family for family in FAMILIES if fits(method, family)] for method in METHODS}
CASES = [  # a method as it is by default on all of them, its other settings on one
    (method, family)
    for method, families in FITTING.items()
    for family in (families if method == type(method)() else families[:1])
]
every_case = pytest.mark.parametrize(
    ("method", "family"), [pytest.param(*case, id=f"{case[0]!r}-{case[1]}") for case in CASES]
)


def count_flops(model: Any, x: torch.Tensor, mode: AbstractContextManager[Any]) -> tuple[int, torch.Tensor]:
    with mode, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        y = model(x)
    return counter.get_total_flops(), y


@every_case
def test_operations_are_counted_and_outputs_equal_in_every_gradient_mode(method, family):
    model = attach(tiny(family), method).eval()
    x = images(model)
    flops, expected = count_flops(model, x, nullcontext())
    assert flops > 0
    for mode in (torch.no_grad(), torch.inference_mode()):
        counted, y = count_flops(model, x, mode)
        assert counted == flops
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)  # an LSTM has another kernel without gradients


NO_SWIN = [case for case in CASES if case[1] != "swin"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_timm_gives_no_logits_for_an_empty_batch_but_for_swin_which_takes_none(family, training):
    plain = tiny(family).train(training)
    nothing = images(plain)[:0]
    if family == "swin":
        with pytest.raises(RuntimeError):
            plain(nothing)
    else:
        assert plain(nothing).shape == (0, 5)


@pytest.mark.parametrize(("method", "family"), [pytest.param(*case, id=f"{case[0]!r}-{case[1]}") for case in NO_SWIN])
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_no_logits_as_in_timm(method, family, training):
    model = attach(tiny(family), method).train(training)
    assert model(images(model)[:0]).shape == (0, 5)
