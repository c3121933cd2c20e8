"""What layers of one forward hand on to later ones: of its own thread, and in the backward pass of its own forward."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from support.families import randomise_tuned
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

WIDE, HIGH = (32, 64), (64, 32)
METHODS = [
    vp.LST(reduction=4),
    vp.DTL(beta=3.0),
    vp.DTL(kernel=3, beta=3.0),
    vp.Convpass(bottleneck=4, dropout=0.0),
    vp.Mona(width=4, dropout=0.0),
    vp.PTuning(tokens=2, encoder="none", positions="interleaved"),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=repr)
VPT = vp.VPT(tokens=2, dropout=0.0)


def tuned_vit(*methods: vp.Method) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=2,
        num_classes=5,
        dynamic_img_size=True,
        no_embed_class=True,
    )
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model)
    return model


def pictures(size: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def run_in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    (answer,) = found  # nothing where the thread failed
    return answer


@contextmanager
def another_forward_behind(module: Any, model: Any, x: Tensor) -> Iterator[list[Tensor]]:
    """Let another thread run the whole model each time that this one has run ``module``; gives its outputs."""
    mine, others = threading.get_ident(), []

    def run(*_: Any) -> None:
        if threading.get_ident() == mine:
            others.append(run_in_thread(lambda: model(x)))

    hook = module.register_forward_hook(run)
    try:
        yield others
    finally:
        hook.remove()


@every_method
def test_a_thread_does_not_see_what_the_forward_of_another_one_noted(method):
    model = tuned_vit(method).eval()
    mine, other = pictures(WIDE, 1), pictures(HIGH, 2)
    expected, of_other = model(mine), model(other)
    assert expected.shape == of_other.shape
    for module in (model.patch_embed, model.blocks[0], model.blocks[1]):
        with another_forward_behind(module, model, other) as others:
            assert torch.equal(model(mine), expected)
        assert [torch.equal(each, of_other) for each in others] == [True]


def gradients(model: Any, backward: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    """Of two crops of different shape whose forwards both come before the backward pass."""
    model.zero_grad()
    loss = model(pictures(WIDE, 1)).square().sum() + 3 * model(pictures(HIGH, 2)).square().sum()
    backward(loss)
    return {name: p.grad.clone() for name, p in vp.tuned_parameters(model) if p.grad is not None}


@pytest.mark.parametrize("where", [lambda loss: loss.backward(), lambda loss: run_in_thread(loss.backward)])
@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
@pytest.mark.parametrize(
    "methods",
    [*((method,) for method in METHODS), *((method, VPT) for method in METHODS[1:5]), (vp.LoRA(rank=2), METHODS[0])],
    ids=repr,
)
def test_two_crops_of_different_shape_have_the_same_gradients_where_blocks_are_recomputed(methods, part, where):
    model = vp.train_mode(tuned_vit(*methods))
    expected = gradients(model, lambda loss: loss.backward())
    vp.set_recompute(model, part)
    torch.testing.assert_close(gradients(model, where), expected)


@every_method
def test_copies_compute_the_same_and_share_nothing(method):
    model = tuned_vit(method).eval()
    mine, other = pictures(WIDE, 1), pictures(HIGH, 2)
    expected = model(mine)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            model.patch_embed(other)
        assert torch.equal(twin(mine), expected)


def test_blocks_that_run_again_leave_no_features_behind():
    model: Any = vp.train_mode(tuned_vit(vp.LoRA(rank=2), vp.LST(reduction=4)))
    vp.set_recompute(model, "block")
    loss = model(pictures(WIDE, 1)).square().sum()

    def run() -> int:
        loss.backward()
        return len(model.norm.lst_taps.features)

    assert run_in_thread(run) <= 1
    assert len(model.norm.lst_taps.features) == len(blocks(model))
