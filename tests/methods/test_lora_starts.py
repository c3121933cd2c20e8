"""LoRA that starts from the frozen weight (PiSSA, OLoRA) or from two random factors (orthogonal)."""

import copy
from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import record

OF_WEIGHT = ["pissa", "olora"]


def principal_part(init: str, weight: Tensor, rank: int, scaling: float) -> Tensor:
    """What is taken off the weight, in double precision."""
    if init == "olora":
        Q, R = torch.linalg.qr(weight.double())
        return scaling * Q[:, :rank] @ R[:rank]
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank]


def residual_model(init: str, family: str, rank: int, scaling: float, name: str = "attn.qkv") -> Any:
    """A plain tiny model over whose weights the residuals are written, as HF peft does."""
    plain = tiny(family)
    for key, module in plain.named_modules():
        if key.endswith(name):
            weight: Any = module.weight
            weight.data -= principal_part(init, weight.data, rank, scaling).float()
    return plain


@pytest.mark.parametrize("init", OF_WEIGHT)
@pytest.mark.parametrize("family", ["vit", "beit", "swin"])
def test_outputs_and_gradients_are_those_of_an_update_on_the_residual(init, family):
    model = vp.attach(tiny(family), vp.LoRA(rank=3, alpha=6, targets=("qkv",), init=init))
    vp.restore_last_block(model)  # which rounds as the plain one does
    x = images(model)
    torch.testing.assert_close(model(x), tiny(family)(x), rtol=0, atol=1e-6 if family == "beit" else 0)  # its bypass
    randomise_tuned(model)
    reference = vp.attach(residual_model(init, family, 3, 2.0), vp.LoRA(rank=3, alpha=6, targets=("qkv",)))
    vp.load_tuned(reference, vp.tuned_state_dict(model))
    torch.testing.assert_close(model(x), reference(x), rtol=1e-5, atol=1e-5)
    for each in (model, reference):
        each(x).square().sum().backward()
    for (name, ours), (_, theirs) in zip(vp.tuned_parameters(model), vp.tuned_parameters(reference), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm(), name


@pytest.mark.parametrize("init", OF_WEIGHT)
def test_a_and_b_start_as_the_part_that_is_taken_off(init):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=3, alpha=6, targets=("fc1", "patch_embed"), init=init))
    for name in ("blocks.1.mlp.fc1", "patch_embed.proj"):
        layer: Any = model.get_submodule(name)
        part = principal_part(init, layer.weight.detach().flatten(1), 3, 2.0)
        torch.testing.assert_close(2 * layer.lora.B @ layer.lora.A.flatten(1), part.float(), rtol=1e-4, atol=1e-5)
        if init == "pissa":  # the root of the singular values on either side
            torch.testing.assert_close(layer.lora.A.flatten(1).norm(dim=1), layer.lora.B.norm(dim=0))
        else:
            torch.testing.assert_close(layer.lora.B.T @ layer.lora.B, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", OF_WEIGHT)
def test_the_backbone_stays_what_it_was(init):
    model = tiny("vit")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, expected, fingerprint = images(model), model(images(model)), record.fingerprint(model)
    vp.attach(model, vp.LoRA(rank=3, targets=("qkv", "proj"), init=init))
    assert record.fingerprint(model) == fingerprint
    randomise_tuned(model)
    heads = {name: tensor for name, tensor in vp.tuned_state_dict(model).items() if name.startswith("head")}
    with vp.disabled(model):
        plain = tiny("vit")
        plain.load_state_dict(heads, strict=False)
        assert torch.equal(model(x), plain(x))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items() if name not in heads)
    vp.detach(model)
    model.load_state_dict({name: before[name] for name in heads}, strict=False)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("init", OF_WEIGHT)
def test_an_adapter_holds_a_and_b_only_and_takes_the_residual_from_the_original_weights(init, tmp_path):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=3, targets=("q", "v"), init=init))
    vp.attach(model, vp.FullFineTune())  # moves W, of which A and B once were a part
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    state = vp.tuned_state_dict(model)
    assert {name.rpartition(".")[2] for name in state if ".lora." in name} == {"A", "B"}
    x = images(model)
    assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path)(x), model(x))


@pytest.mark.parametrize("targets", [("q", "v"), ("qkv", "fc1"), ("patch_embed",)])
@pytest.mark.parametrize("init", OF_WEIGHT)
@pytest.mark.parametrize("family", ["vit", "eva02_base"])
def test_a_whole_state_dict_computes_the_same_over_what_were_other_weights(init, targets, family):
    method = vp.LoRA(rank=3, targets=targets, init=init)
    model = vp.attach(tiny(family), method)
    vp.attach(model, vp.FullFineTune())
    randomise_tuned(model)
    other = tiny(family)
    for parameter in other.parameters():
        parameter.data.mul_(1.5).add_(0.1)
    vp.attach(other, method)
    other.load_state_dict(model.state_dict())
    x = images(model)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("init", OF_WEIGHT)
def test_a_state_dict_of_what_trains_and_one_without_a0_and_b0_still_load_strictly_enough(init):
    method = vp.LoRA(rank=3, init=init)
    model = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    whole = model.state_dict()
    before_they_were_stored = {name: t for name, t in whole.items() if not name.endswith(("A0", "B0"))}
    assert len(before_they_were_stored) < len(whole)
    x = images(model)
    for state, strict in ((before_they_were_stored, True), (vp.tuned_state_dict(model), False)):
        other = vp.attach(tiny("vit"), method)
        assert not other.load_state_dict(state, strict=strict).unexpected_keys
        assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("init", OF_WEIGHT)
def test_merging_and_unmerging_are_exact_and_a_copy_goes_on(init):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=3, alpha=6, targets=("qkv",), init=init))
    randomise_tuned(model)
    x = images(model)
    expected, twin = model(x), copy.deepcopy(model)
    layer: Any = model.get_submodule("blocks.0.attn.qkv")
    part = principal_part(init, layer.weight.detach(), 3, 2.0).float()
    wanted = layer.weight.detach() - part + 2 * (layer.lora.B @ layer.lora.A).detach()
    vp.merge(model)
    torch.testing.assert_close(layer.weight, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    vp.unmerge(vp.merge(twin, reversible=True))
    assert torch.equal(twin(x), expected)


@pytest.mark.parametrize("init", OF_WEIGHT)
def test_separate_q_k_and_v_share_the_factors_of_their_weights_side_by_side(init):
    model = vp.attach(tiny("eva02_base"), vp.LoRA(rank=3, alpha=3, targets=("qkv",), init=init))
    attn: Any = model.get_submodule("blocks.0.attn")
    layers = [attn.q_proj, attn.k_proj, attn.v_proj]
    part = principal_part(init, torch.cat([layer.weight.detach() for layer in layers]), 3, 1.0).float()
    product = torch.cat([layer.lora.B for layer in layers]) @ layers[0].lora.A
    torch.testing.assert_close(product, part, rtol=1e-4, atol=1e-5)
    x = images(model)
    assert torch.equal(model(x), tiny("eva02_base")(x))
    randomise_tuned(model)
    reference = vp.attach(tiny("eva02_base"), vp.LoRA(rank=3, alpha=3, targets=("qkv",)))
    vp.load_tuned(reference, vp.tuned_state_dict(model))
    for i in range(2):
        attn = reference.get_submodule(f"blocks.{i}.attn")
        layers = [attn.q_proj, attn.k_proj, attn.v_proj]
        weights = torch.cat([layer.weight.detach() for layer in layers])
        for layer, rows in zip(layers, principal_part(init, weights, 3, 1.0).float().chunk(3), strict=True):
            layer.weight.data -= rows
    torch.testing.assert_close(model(x), reference(x), rtol=1e-5, atol=1e-5)


def test_dropout_leaves_what_is_taken_off_alone():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, alpha=2, targets=("proj",), init="pissa", dropout=0.5))
    randomise_tuned(model)
    layer: Any = model.get_submodule("blocks.0.attn.proj")
    residual = layer.weight - principal_part("pissa", layer.weight.detach(), 2, 1.0).float()
    x = torch.randn(2, 4, 32)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    expected = x @ residual.T + layer.bias + dropped @ layer.lora.A.T @ layer.lora.B.T
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_orthogonal_factors_are_random_and_their_product_is_zero():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=4, targets=("fc1",), init="orthogonal"))
    lora: Any = model.get_submodule("blocks.0.mlp.fc1.lora")
    assert abs(lora.A.std() / (0.1 / 2**0.5) - 1) < 0.3
    assert abs(lora.B.std() / (0.1 / 2**0.5) - 1) < 0.3
    assert (lora.B @ lora.A).abs().max() < 1e-7
    assert torch.linalg.matrix_rank(lora.A) == torch.linalg.matrix_rank(lora.B) == 2


def test_the_exact_factorisation_says_which_weights_it_cannot_take():
    model = tiny("vit")
    model.blocks[1].attn.qkv.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"init='pissa' factorises the frozen weights, and one of them holds NaN"):
        vp.attach(model, vp.LoRA(rank=2, init="pissa"))
    assert record.find(model) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"init": "orthogonal", "rank": 3}, "wanted an even rank, got 3"),
        ({"init": "orthogonal", "rank_pattern": {"q": 5}}, "wanted an even rank, got 5"),
        ({"init": "pissa", "targets": ("proj_output",)}, "init='pissa' starts from a weight or its input"),
        ({"init": "eva", "targets": ("q", "patch_embed")}, "reads tokens, which the patch embedding makes"),
    ],
)
def test_starts_that_cannot_be_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.LoRA(**fields)


def test_a_wide_rank_is_refused_with_the_layer():
    with pytest.raises(ValueError, match=r"rank=33 is .* convolution from 192 to 32 channels \(patch_embed.proj\)"):
        vp.attach(tiny("vit"), vp.LoRA(rank=33, targets=("patch_embed",)))
