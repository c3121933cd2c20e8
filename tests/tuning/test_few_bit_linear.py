"""Weights of a few bits: the codebook, the straight-through gradient, packing, the head of one bit."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from support.onnx_files import run_as_onnx
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.few_bit_linear import FewBitLinear, codebook
from vision_peft.tuning.known_heads import head_kind
from vision_peft.tuning.packed_codes import pack_codes, packed_size, unpack_codes


def layer(bits: int, rows: int = 6, columns: int = 10) -> FewBitLinear:
    torch.manual_seed(0)
    made = FewBitLinear(columns, rows, bits)
    with torch.no_grad():
        made.weight.copy_(0.3 * torch.randn(rows, columns) + 0.1)  # type: ignore[union-attr]
    return made


def test_the_codes_are_those_of_the_source():
    assert codebook(1) == pytest.approx((-0.6744897365570068, 0.6744897365570068), abs=1e-7)
    assert codebook(2) == pytest.approx(
        (-1.2657203674316406, -0.3777541518211365, 0.3777541518211365, 1.2657203674316406), abs=1e-7
    )


def test_every_code_is_the_median_of_what_is_nearest_to_it():
    numbers = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0))
    codes = torch.tensor(codebook(4))
    nearest = torch.bucketize(numbers, (codes[1:] + codes[:-1]) / 2)
    for number, code in enumerate(codes):
        assert abs(numbers[nearest == number].median() - code) < 0.01


def nearest_by_hand(w: Tensor, bits: int) -> Tensor:
    mean, std = w.mean(), w.std(correction=1)
    z = (w - mean) / (std + 1e-5)
    codes = torch.tensor(codebook(bits))
    return codes[(z.unsqueeze(-1) - codes).abs().argmin(-1)] * std + mean


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_weight_is_the_nearest_code_times_the_deviation_plus_the_mean(bits):
    made = layer(bits)
    x = torch.randn(3, 10)
    torch.testing.assert_close(made(x), x @ nearest_by_hand(made.weight.detach(), bits).T)  # type: ignore[union-attr]


def test_a_number_between_two_codes_takes_the_middle():
    made = FewBitLinear(3, 1, 1)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[-1.0, 0.0, 1.0]]))  # type: ignore[union-attr]
    torch.testing.assert_close(made.quantised(), torch.tensor([[-0.67449, 0.0, 0.67449]]), atol=1e-5, rtol=0)


def test_the_gradient_passes_the_codes_as_if_they_were_not_there_and_the_mean_and_the_deviation_as_they_are():
    made, g = layer(2), torch.randn(6, 10)
    (made.quantised() * g).sum().backward()
    w: Any = made.weight
    w64 = w.detach().double()
    mean, std, n = w64.mean(), w64.std(), w64.numel()
    q = (nearest_by_hand(w.detach(), 2).double() - mean) / std
    z = (w64 - mean) / (std + 1e-5)
    d_std = (w64 - mean) / (std * (n - 1))  # of std by each w
    outer = (g.double() * q).sum() - (g.double() * std * z).sum() / (std + 1e-5)
    mean_part = g.double().sum() - (g.double() * std / (std + 1e-5)).sum()
    expected = g.double() * std / (std + 1e-5) + outer * d_std + mean_part / n
    torch.testing.assert_close(w.grad.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bits", "count"), [(1, 16), (1, 13), (2, 7), (4, 3), (4, 4)])
def test_codes_lie_in_bytes_from_the_lowest_bits_on_and_come_back(bits, count):
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(0))
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack_codes(packed, bits, count).long(), codes)
    assert int(packed[0]) == sum(int(code) << (bits * i) for i, code in enumerate(codes[: 8 // bits]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packing_keeps_the_function_and_quantises_once_only(bits):
    made = layer(bits)
    x, expected = torch.randn(3, 10), made.quantised().detach()
    packed = made.pack()
    assert packed is made
    assert {name: t.numel() for name, t in made.state_dict().items()} == {
        "codes": -(-60 * bits // 8),
        "mean": 1,
        "std": 1,
    }
    torch.testing.assert_close(made.quantised(), expected)
    before = made.quantised().detach()
    assert torch.equal(made.pack().quantised(), before)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(made)))(x), made(x))
    made(x).sum().backward()
    assert made.mean.grad is not None
    assert made.codes.grad is None


def test_a_head_of_one_bit_has_no_bias_and_is_stored_packed(tmp_path):
    model: Any = tiny("vit")
    vp.replace_head(model, "bi_linear", 8)
    vp.attach(model, vp.BiAdaptFormer(bottleneck=4))
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    torch.testing.assert_close(
        expected,
        model.forward_head(model.forward_features(x), pre_logits=True) @ nearest_by_hand(model.head.weight, 1).T,
    )
    assert vp.count_parameters(model).head == 8 * 32
    vp.save_adapter(model, tmp_path / "packed")
    vp.save_adapter(model, tmp_path / "latent", keep_reparametrization=True)
    for folder, kind, sizes in (
        ("packed", "bi_linear_packed", {"codes": 32, "mean": 1, "std": 1}),
        ("latent", "bi_linear", {"weight": 256}),
    ):
        bare: Any = tiny("vit")
        bare.reset_classifier(0)
        fresh: Any = vp.load_adapter(bare, tmp_path / folder)
        assert head_kind(fresh) == kind
        assert {name: t.numel() for name, t in fresh.head.state_dict().items()} == sizes
        torch.testing.assert_close(fresh.eval()(x), expected, rtol=0, atol=1e-5)
    vp.bake(model)
    assert head_kind(model) == "bi_linear_packed"
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
    vp.detach(model)
    assert torch.equal(model(x), tiny("vit")(x))


@pytest.mark.parametrize("kind", ["bi_linear", "bi_linear_packed"])
def test_a_head_of_one_bit_merges_into_a_linear_layer(kind):
    model: Any = tiny("vit")
    vp.replace_head(model, kind, 8)
    vp.attach(model, vp.BiLoRA(rank=4))
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    vp.merge(model)
    assert type(model.head) is torch.nn.Linear
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_of_equal_numbers_is_their_mean():
    made = FewBitLinear(4, 2, 1)
    with torch.no_grad():
        made.weight.fill_(0.25)  # type: ignore[union-attr]
    assert torch.equal(made.quantised(), torch.full((2, 4), 0.25))


def test_the_deviation_in_front_of_the_codes_has_a_small_number_added():
    made = FewBitLinear(4, 1, 2)
    edge = (codebook(2)[2] + codebook(2)[3]) / 2
    with torch.no_grad():  # numbers of a deviation of 1e-5, of which the largest lies 1.5 edges from the mean
        made.weight.copy_(torch.tensor([[-1.5 * edge, -0.5, 0.5, 1.5 * edge]]))  # type: ignore[union-attr]
        made.weight.mul_(1e-5 / made.weight.std())  # type: ignore[union-attr, operator]
    numbers = made.quantised() / made.weight.std()  # type: ignore[union-attr]
    torch.testing.assert_close(numbers.abs(), torch.full((1, 4), codebook(2)[2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_packed_layer_is_written_as_onnx(bits: int, tmp_path: Path) -> None:
    """Of the plain tests the only one that exports a layer of this kind; `pytest -m matrix` has the methods with it."""
    model, x = layer(bits).pack(), torch.randn(2, 10)
    torch.testing.assert_close(run_as_onnx(model, x, tmp_path), model(x))
