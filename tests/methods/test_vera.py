"""VeRA: two vectors for each layer beside shared random matrices."""

from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from support.peft_golden import by_our_names, golden_model, read_golden
from torch import nn

import vision_peft as vp
from vision_peft.tuning import graft

OFFICIAL = {"peft_vera_qkv": ("qkv",), "peft_vera_all": ("all-linear",)}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_shared_matrices_are_those_of_hf_peft_bit_for_bit(name, shared):
    golden = read_golden(shared / "golden" / name)
    model = vp.attach(golden_model(golden), vp.VeRA(rank=8, targets=OFFICIAL[name], seed=7))
    layer: Any = model.get_submodule("blocks.1.attn.qkv")
    assert torch.equal(layer.vera_shared[0].A, golden["vera_A"])
    assert torch.equal(layer.vera_shared[0].B, golden["vera_B"])
    assert set(by_our_names(golden, "grad/")) == {name for name, _ in vp.tuned_parameters(model)}


def dense(layer: Any) -> torch.Tensor:
    A, B = layer.vera_shared[0].A, layer.vera_shared[0].B
    rows, columns = layer.weight.shape
    return torch.diag(layer.vera.b) @ B[:rows] @ torch.diag(layer.vera.d) @ A[:, :columns]


@pytest.mark.parametrize("family", ["vit", "swin", "eva02_base"])
def test_every_layer_takes_its_rows_and_columns(family):
    model = vp.attach(tiny(family), vp.VeRA(rank=6, targets=("all-linear",)))
    randomise_tuned(model)
    layers: dict[str, Any] = {name: m for name, m in model.named_modules() if hasattr(m, "vera_shared")}
    widest = max(m.in_features for m in layers.values()), max(m.out_features for m in layers.values())
    (shared,) = {m.vera_shared[0] for m in layers.values()}
    assert (shared.A.shape, shared.B.shape) == ((6, widest[0]), (widest[1], 6))
    for layer in layers.values():
        x = torch.randn(2, layer.in_features)
        expected = x @ (layer.weight + dense(layer)).T
        torch.testing.assert_close(layer(x), expected if layer.bias is None else expected + layer.bias)
    assert (shared.A.abs().max() <= (6 / widest[0]) ** 0.5) & (shared.B.abs().max() <= 1)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


def test_it_starts_with_d_at_its_value_and_b_at_zero_and_the_seed_draws_the_rest():
    model, other = (vp.attach(tiny("vit"), vp.VeRA(rank=4, seed=seed, d_initial=0.3)) for seed in (0, 1))
    layer, another = model.get_submodule("blocks.0.attn.qkv"), other.get_submodule("blocks.0.attn.qkv")
    assert (layer.vera.d == 0.3).all()  # pyright: ignore
    assert (layer.vera.b == 0).all()  # pyright: ignore
    assert not torch.equal(layer.vera_shared[0].A, another.vera_shared[0].A)  # pyright: ignore


@pytest.mark.parametrize("stored", [False, True])
def test_an_adapter_stores_the_shared_matrices_or_draws_them_again(stored, tmp_path):
    model = vp.attach(tiny("vit"), vp.VeRA(rank=4, seed=5, save_projection=stored))
    randomise_tuned(model)
    if stored:  # not what the seed gives: the file has to hold them
        model.get_submodule("blocks.0.attn.qkv").vera_shared[0].A.mul_(2)  # pyright: ignore
    vp.save_adapter(model, tmp_path)
    names = {name.rpartition("qkv.")[2] for name in vp.tuned_state_dict(model) if "vera" in name}
    assert names == {"vera.d", "vera.b", *({"vera_projections.A", "vera_projections.B"} if stored else set())}
    assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path)(images(model)), model(images(model)))
    counts = vp.count_parameters(model)
    assert counts.trained == counts.stored == 2 * (96 + 4)


def test_dropout_acts_on_the_input_of_a():
    model = vp.attach(tiny("vit"), vp.VeRA(rank=4, targets=("fc1",), dropout=0.5))
    randomise_tuned(model)
    layer: Any = model.get_submodule("blocks.0.mlp.fc1")
    x = torch.randn(2, 4, 32)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(y, x @ layer.weight.T + layer.bias + dropped @ dense(layer).T)


def test_chosen_blocks_share_matrices_of_their_own_size():
    model = vp.attach(tiny("swin"), vp.VeRA(rank=4, targets=("fc2",), blocks="first 2"))
    layers: list[Any] = [module for _, module in graft.grafts(model)]
    assert len(layers) == 2
    assert layers[1].vera_shared[0].A.shape == (4, layers[0].in_features)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rank": 0}, "rank must be a number above 0"),
        ({"d_initial": 0.0}, "wanted another start value of d"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
        ({"dropout": 1}, r"dropout must lie in \[0, 1\)"),
        ({"targets": ("v",)}, "targets must be one of 'qkv'"),
        ({"targets": ("all-linear", "fc1")}, "all-linear includes all other targets"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.VeRA(**fields)
