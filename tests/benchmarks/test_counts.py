"""Operations and bytes against figures worked out by hand."""

from typing import Any

import pytest
import timm
import torch
from support.families import attach, images, tiny
from support.saved_bytes import count_saved_bytes
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.benchmarks.counts import (
    StorageWatch,
    count_block_elements,
    count_flops,
    count_resident_bytes,
    measure_backward,
    measure_saved_bytes,
)
from vision_peft.benchmarks.plain_loop import make_floor, train_all

B, N, D, DEPTH, CLASSES, PATCH = 3, 5, 32, 2, 10, 16


def create_vit() -> Any:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=D, depth=DEPTH, num_heads=2, num_classes=CLASSES
    )


def batch() -> Tensor:
    return torch.randn(B, 3, 32, 32)


PRODUCTS = 2 * B * N * 12 * D * D * DEPTH  # qkv, proj, fc1, fc2
ATTENTION = 4 * B * N * N * D * DEPTH  # scores and their sums of values
PATCHES = 2 * B * (N - 1) * D * 3 * PATCH * PATCH
HEAD = 2 * B * D * CLASSES


def test_operations_of_a_forward_pass_are_those_of_its_products() -> None:
    with torch.no_grad():
        assert count_flops(lambda: create_vit()(batch())) == PRODUCTS + ATTENTION + PATCHES + HEAD


@pytest.mark.parametrize(
    ("change", "products", "patches"),
    [(make_floor, 2, 1), (train_all, 3, 2)],  # gradients of the inputs; those of the weights too
)
def test_operations_of_a_step(change: Any, products: int, patches: int) -> None:
    # Attention's backward is five products of the size of one of its forward's two: the scores again, and four more.
    model = change(create_vit())
    flops = count_flops(lambda: model(batch()).sum().backward())
    assert flops == products * PRODUCTS + 3.5 * ATTENTION + patches * PATCHES + 3 * HEAD


def test_a_method_whose_gradient_starts_at_the_first_block_counts_no_less_than_the_floor() -> None:
    floor, tuned = make_floor(create_vit()), vp.attach(create_vit(), vp.BitFit())
    steps = [count_flops(lambda model=model: model(batch()).sum().backward()) for model in (floor, tuned)]
    assert steps[1] <= steps[0]


class Layers(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(7, 11), act, nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x))).sum()


HIDDEN = 4 * B * 11  # bytes of the hidden layer


@pytest.mark.parametrize(
    ("act", "second_trains", "expected"),
    [
        (nn.ReLU(), True, HIDDEN),  # its output, which the second layer saves as well
        (nn.GELU(), True, 2 * HIDDEN),  # its input; its output for the second layer
        (nn.GELU(), False, HIDDEN),
        (nn.Identity(), False, 0),
    ],
)
def test_saved_bytes_are_counted_once_and_without_weights_and_inputs(
    act: nn.Module, second_trains: bool, expected: int
) -> None:
    model, x = Layers(act), torch.randn(B, 7)
    model.fc2.weight.requires_grad_(second_trains)
    assert measure_saved_bytes(lambda: model(x)) == expected


@pytest.mark.parametrize("method", [vp.AdaptFormer(), vp.LoRA(), vp.VPT(), vp.BitFit(), vp.FullFineTune()])
def test_saved_bytes_are_those_that_autograd_packs(method: vp.Method) -> None:
    model = attach(tiny("vit"), method).train()
    x = images(model)
    torch.manual_seed(0)
    packed = count_saved_bytes(model, x)
    torch.manual_seed(0)
    assert measure_saved_bytes(lambda: model(x).sum()) == packed


def test_inputs_of_blocks_that_are_computed_again_count() -> None:
    model = train_all(create_vit())
    x = batch()
    whole = measure_saved_bytes(lambda: model(x).sum())
    model.set_grad_checkpointing(True)
    again = measure_saved_bytes(lambda: model(x).sum())
    assert 4 * B * N * D * DEPTH <= again < whole / 3


def test_the_peak_is_of_what_is_alive_at_once() -> None:
    size = 4 * 1000
    with StorageWatch() as watch:
        a = torch.ones(1000)
        b = a + 1  # two
        del a
        c = b * 2  # two
        view = c[:10]
        del b, c
        d = torch.cat([view, view])  # `view` keeps all of c
    assert watch.peak == 2 * size
    assert watch.count_alive() == size + 4 * 20
    assert watch.count_alive(without=[d]) == size


def test_the_peak_of_a_step_holds_the_gradients() -> None:
    model, x = nn.Linear(1000, 1000, bias=False), torch.randn(2, 1000)
    saved, peak = measure_backward(lambda: model(x).sum())
    assert saved == 0
    assert 4 * 1000 * 1000 <= peak < 4 * 1000 * 1000 + 4 * 4 * 1000


def test_what_lies_in_memory_is_the_model_with_its_optimiser() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10, affine=False))
    model.append(model[0])  # shares its weight
    optimizer = torch.optim.AdamW(model.parameters())
    assert count_resident_bytes(model, optimizer) == 4 * (100 + 20) + 8
    model(torch.randn(3, 10)).sum().backward()
    optimizer.step()
    assert count_resident_bytes(model, optimizer) == 4 * (3 * 100 + 20) + 8 + 4  # two moments and the step


def test_the_elements_of_blocks_are_those_of_their_tokens() -> None:
    model = create_vit()
    assert count_block_elements(model, lambda: model(batch())) == B * N * D * DEPTH
    assert not any(block._forward_pre_hooks for block in model.blocks)
