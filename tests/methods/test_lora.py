"""LoRA against HF peft and against the dense update of the weights."""

import copy
from typing import Any

import pytest
import timm
import torch
from families import FAMILIES, images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.methods.lora import LowRank
from vision_peft.tuning.timm_blocks import blocks, linears

SLICES = [("q",), ("k",), ("v",), ("q", "v"), ("q", "k", "v"), ("v", "k", "q")]
BYPASSED = ["beit", "beit_shared_bias", "eva02_tiny", "dinov3_qkvb"]  # timm reads qkv.weight there without calling qkv


def test_a_shared_a_over_qkv_equals_hf_peft_in_outputs_and_gradients():
    peft: Any = pytest.importorskip("peft")
    plain = tiny("vit")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv"], lora_dropout=0.0, init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(plain), config)
    model = vp.attach(plain, vp.LoRA(rank=4, alpha=6, targets=("qkv",)))
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    for i in range(2):
        layer: Any = theirs.base_model.model.blocks[i].attn.qkv
        for ours, reference in (("A", layer.lora_A), ("B", layer.lora_B)):
            pairs.append((model.get_parameter(f"blocks.{i}.attn.qkv.lora.{ours}"), reference["default"].weight))
    with torch.no_grad():
        for ours, reference in pairs:
            assert ours.shape == reference.shape
            ours.copy_(reference)
    x = images(model)
    logits, expected = model(x), theirs(x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for ours, reference in pairs:
        assert (ours.grad - reference.grad).norm() / reference.grad.norm() < 1e-5  # pyright: ignore


def dense_reference(family: str, model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A plain model whose weights hold W + (α / r) B A, and those weights (leaves that gather gradients)."""
    plain = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if ".lora." not in n})
    state, weights = model.state_dict(), {}
    for name in {n.split(".lora.")[0] for n in state if ".lora." in n}:
        linear: Any = plain.get_submodule(name)
        update = torch.zeros_like(linear.weight)
        lora = {n.removeprefix(f"{name}.lora."): t for n, t in state.items() if n.startswith(f"{name}.lora.")}
        if "B" in lora:
            shared = name.replace("k_proj", "q_proj").replace("v_proj", "q_proj")
            update = lora["B"] @ lora.get("A", state.get(f"{shared}.lora.A")) * SCALE
        else:
            for s in {n.split(".")[0] for n in lora}:
                update.chunk(3)["qkv".index(s)].copy_(lora[f"{s}.B"] @ lora[f"{s}.A"] * SCALE)
        with torch.no_grad():
            linear.weight += update
        weights[name] = linear.weight
    return plain, weights


SCALE = 3 / 2  # alpha / rank


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [*SLICES, ("proj",), ("fc1", "fc2"), ("qkv", "proj")], ids="+".join)
def test_outputs_equal_the_dense_update_of_the_weights(family, targets):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, targets=targets))
    randomise_tuned(model)
    x = images(model)
    plain, weights = dense_reference(family, model)
    assert weights
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", [*BYPASSED, "vit", "dinov3", "swin"])
@pytest.mark.parametrize("targets", [("qkv",), ("q", "k", "v")], ids="+".join)
def test_gradients_equal_those_of_the_dense_weight_also_where_timm_bypasses_qkv(family, targets):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, targets=targets))
    randomise_tuned(model)
    x = images(model)
    plain, weights = dense_reference(family, model)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for name, weight in weights.items():
        lora: Any = model.get_submodule(f"{name}.lora")
        gradient: Any = weight.grad
        shared = targets == ("qkv",)
        updates = [(lora, gradient)] if shared else zip(lora.values(), gradient.chunk(3), strict=True)
        for update, g in updates:  # dL/dB = (α/r) G Aᵀ and dL/dA = (α/r) Bᵀ G
            assert (update.B.grad - SCALE * g @ update.A.T).norm() < 1e-4 * update.B.grad.norm()
            assert (update.A.grad - SCALE * update.B.T @ g).norm() < 1e-4 * update.A.grad.norm()
            assert update.B.grad.abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [("q", "v"), ("k", "proj", "fc1", "fc2")], ids="+".join)
def test_merge_writes_the_dense_update_into_the_weights(family, targets):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, targets=targets))
    randomise_tuned(model)
    _, weights = dense_reference(family, model)
    bypassed = [block.attn for block in blocks(model)]
    vp.merge(model)
    for name, weight in weights.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight)
    assert not any(vars(attn).get("qkv_bias_separate") for attn in bypassed)


@pytest.mark.parametrize("family", BYPASSED)
def test_detach_gives_timms_bypass_back(family):
    model = tiny(family)
    flags = [block.attn.qkv_bias_separate for block in blocks(model)]
    vp.attach(model, vp.LoRA(rank=2))
    assert all(block.attn.qkv_bias_separate for block in blocks(model))
    vp.detach(model)
    assert [block.attn.qkv_bias_separate for block in blocks(model)] == flags


SEPARATE = pytest.mark.parametrize("family", ["eva02_base", "rope_gqa"])  # q, k and v are layers of their own


@SEPARATE
@pytest.mark.parametrize("dora", [False, True])
def test_separate_projections_with_one_shared_a_are_the_fused_layer_cut_into_three(family, dora):
    model = vp.attach(tiny(family), vp.LoRA(rank=3, alpha=4.5, targets=("qkv",), dora=dora))
    randomise_tuned(model)
    x, state, reference = torch.randn(2, 5, 32), {n: t.clone() for n, t in model.state_dict().items()}, tiny(family)
    for i, (tuned, plain) in enumerate(zip(blocks(model), blocks(reference), strict=True)):
        names = [f"blocks.{i}.attn.{letter}_proj" for letter in "qkv"]
        weight = torch.cat([state[f"{name}.weight"] for name in names])
        A, B = state[f"{names[0]}.lora.A"], torch.cat([state[f"{name}.lora.B"] for name in names])
        fused = weight + SCALE * B @ A
        if dora:
            lengths = torch.cat([state[f"{name}.lora.magnitude"] for name in names])
            fused = decomposed(weight, A, B, lengths, SCALE)
        assert (fused - weight).abs().max() > 1e-2
        projections: list[Any] = [getattr(tuned.attn, f"{letter}_proj") for letter in "qkv"]
        bias = torch.cat([torch.zeros(p.out_features) if p.bias is None else p.bias for p in projections])
        outputs = torch.cat([projection(x) for projection in projections], dim=-1)
        torch.testing.assert_close(outputs, x @ fused.T + bias, rtol=1e-5, atol=1e-5)
        sizes = [projection.out_features for projection in projections]
        for letter, rows in zip("qkv", fused.split(sizes), strict=True):
            getattr(plain.attn, f"{letter}_proj").weight.data.copy_(rows)
    reference.head.load_state_dict(model.get_submodule("head").state_dict())
    batch = images(model)
    expected = model(batch)
    torch.testing.assert_close(reference(batch), expected, rtol=1e-5, atol=1e-5)
    vp.merge(model)
    for merged, plain in zip(blocks(model), blocks(reference), strict=True):
        for letter in "qkv":
            weights = [getattr(block.attn, f"{letter}_proj").weight for block in (merged, plain)]
            torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-5)


@SEPARATE
def test_gradients_with_one_shared_a_are_those_of_the_fused_weight(family):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, targets=("qkv",)))
    randomise_tuned(model)
    x = images(model)
    plain, weights = dense_reference(family, model)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for i in range(2):
        names = [f"blocks.{i}.attn.{letter}_proj" for letter in "qkv"]
        A = model.get_parameter(f"{names[0]}.lora.A")
        B: Any = [model.get_parameter(f"{name}.lora.B") for name in names]
        gradient = torch.cat([weights[name].grad for name in names])  # pyright: ignore
        found = torch.cat([b.grad for b in B])
        torch.testing.assert_close(found, SCALE * gradient @ A.detach().T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(A.grad, SCALE * torch.cat(B).detach().T @ gradient, rtol=1e-3, atol=1e-4)


@SEPARATE
def test_the_shared_a_is_one_parameter_that_is_counted_and_stored_once(family):
    model = vp.attach(tiny(family), vp.LoRA(rank=3, targets=("qkv",)))
    rows = 32 + 2 * (16 if family == "rope_gqa" else 32)  # one key and value head of 16 there
    counts = vp.count_parameters(model)
    assert counts.trained == counts.stored == 2 * 3 * (32 + rows)
    names = [n for n in vp.tuned_state_dict(model) if n.startswith("blocks.0")]
    letters = [f"blocks.0.attn.{letter}_proj.lora.B" for letter in "qkv"]
    assert sorted(names) == ["blocks.0.attn.k_proj.lora.B", "blocks.0.attn.q_proj.lora.A", *letters[::2]]
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


def test_a_shared_a_may_have_any_rank_that_the_fused_layer_allows():
    vp.attach(tiny("rope_gqa"), vp.LoRA(rank=32, targets=("qkv",)))  # the key layer has 16 rows
    with pytest.raises(ValueError, match="rank=33 is above the full rank of a layer from 32 to 64 channels"):
        vp.attach(tiny("rope_gqa"), vp.LoRA(rank=33, targets=("qkv",)))
    with pytest.raises(ValueError, match="rank=17 is above the full rank of a layer from 32 to 16 channels"):
        vp.attach(tiny("rope_gqa"), vp.LoRA(rank=17, targets=("q", "k")))


def test_a_shared_a_follows_the_device_and_type_of_the_backbone_and_its_copies():
    model: Any = vp.attach(tiny("eva02_base").double(), vp.LoRA(rank=2, targets=("qkv",)))
    attn = copy.deepcopy(model).blocks[0].attn
    assert attn.v_proj.lora.down() is attn.k_proj.lora.down() is attn.q_proj.lora.A
    assert attn.q_proj.lora.A.dtype == torch.float64
    assert attn.q_proj.lora.A is not model.blocks[0].attn.q_proj.lora.A
    with torch.device("meta"):
        meta: Any = timm.create_model("eva02_base_patch14_224", depth=1)
    vp.attach(meta, vp.LoRA(targets=("qkv",)))
    assert meta.blocks[0].attn.k_proj.lora.down().is_meta


def test_a_gqa_model_gets_updates_of_the_right_shape():
    model = timm.create_model(
        "eva02_base_patch14_224",
        embed_dim=48,
        depth=1,
        num_heads=4,
        img_size=28,
        attn_type="rope",
        num_kv_heads=2,
    )
    vp.attach(model, vp.LoRA(rank=2, targets=("q", "k", "v")))
    (block,) = blocks(model)
    assert [linears(block, s)[0].lora.B.shape[0] for s in "qkv"] == [48, 24, 24]  # pyright: ignore


def test_it_starts_as_in_the_official_code_a_from_kaiming_uniform_and_b_from_zero():
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    vp.attach(model, vp.LoRA(rank=64))
    lora: Any = model.get_submodule("blocks.0.attn.qkv.lora.q")
    bound = 1 / 768**0.5  # kaiming_uniform with a = √5: √(6 / ((1 + 5) · fan_in))
    assert lora.A.abs().max() <= bound
    assert abs(lora.A.std().item() / (bound / 3**0.5) - 1) < 0.02
    assert lora.B.abs().max() == 0


def test_dropout_acts_on_the_input_of_a_only():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, dropout=0.5, targets=("proj",)))
    randomise_tuned(model)
    linear: Any = model.get_submodule("blocks.0.attn.proj")
    x = torch.randn(2, 4, 32)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = linear(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    base = x @ linear.weight.T + linear.bias
    torch.testing.assert_close(y, base + dropped @ linear.lora.A.T @ linear.lora.B.T * (8 / 2))


def mapped_projections(family: str, model: Any, targets: tuple[str, ...]) -> nn.Module:
    """A plain model whose projections hold (I + s B A) (W + s B' A') and (I + s B A) b; the primes where targeted."""
    plain = tiny(family)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if ".lora" not in n})
    with torch.no_grad():
        for tuned, reference in zip(blocks(model), blocks(plain), strict=True):
            proj, linear = tuned.attn.proj, reference.attn.proj
            map_ = torch.eye(len(linear.weight)) + SCALE * proj.lora_output.B @ proj.lora_output.A
            inner = SCALE * proj.lora.B @ proj.lora.A if "proj" in targets else 0
            linear.weight.copy_(map_ @ (linear.weight + inner))
            if linear.bias is not None:
                linear.bias.copy_(map_ @ linear.bias)
    return plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [("proj_output",), ("proj_output", "proj")], ids="+".join)
def test_proj_output_maps_what_the_projection_puts_out_and_merges_exactly(family, targets):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, targets=targets))
    randomise_tuned(model)
    x = images(model)
    expected = mapped_projections(family, model, targets)
    output = model.eval()(x)
    assert (output - tiny(family)(x)).abs().max() > 1e-3
    torch.testing.assert_close(output, expected(x), rtol=1e-5, atol=2e-5)
    vp.merge(model)
    for merged, reference in zip(blocks(model), blocks(expected), strict=True):
        torch.testing.assert_close(merged.attn.proj.weight, reference.attn.proj.weight)
        torch.testing.assert_close(merged.attn.proj.bias, reference.attn.proj.bias)
    torch.testing.assert_close(model(x), output, rtol=1e-5, atol=2e-5)


def test_proj_output_merges_exactly_on_a_projection_without_a_bias_too():
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, proj_bias=False
    )
    assert blocks(model)[0].attn.proj.bias is None
    vp.attach(model, vp.LoRA(rank=2, targets=("proj_output",)))
    randomise_tuned(model)
    x = images(model)
    expected = model.eval()(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


def test_dropout_of_proj_output_acts_on_the_output_in_front_of_a_only():
    model: Any = vp.attach(tiny("vit"), vp.LoRA(rank=2, dropout=0.5, targets=("proj_output",)))
    randomise_tuned(model)
    proj, x = model.blocks[0].attn.proj, torch.randn(2, 4, 32)
    vp.train_mode(model)
    torch.manual_seed(0)
    y = proj(x)
    torch.manual_seed(0)
    output = x @ proj.weight.T + proj.bias
    dropped = nn.functional.dropout(output, 0.5)
    torch.testing.assert_close(y, output + dropped @ proj.lora_output.A.T @ proj.lora_output.B.T * (8 / 2))


def test_below_dora_on_proj_the_map_of_its_output_is_refused_and_above_it_merges():
    output = vp.LoRA(rank=2, targets=("proj_output",))
    dora = vp.LoRA(rank=2, targets=("proj",), dora=True)
    with pytest.raises(ValueError, match=r"this one carries LoRAOutput: attach LoRA\(dora=True\) first"):
        vp.attach(vp.attach(tiny("vit"), output), dora)
    model = vp.attach(vp.attach(tiny("vit"), dora), output)
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"targets": ("q", "proj_output"), "dora": True}, "proj_output is a map of an output and has no weight"),
        ({"targets": ("query",)}, "targets must be one of"),
        ({"targets": ()}, "at least one"),
        ({"targets": ("q", "q")}, "distinct"),
        ({"targets": ("qkv", "q")}, "qkv and single slices"),
        ({"rank": 0}, "rank must"),
        ({"rank": "8"}, "rank must"),
        ({"alpha": -1}, "alpha must"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"init": "normal"}, "init must be one of 'kaiming', 'gaussian'; got 'normal'"),
        ({"dora": "yes"}, "dora must be true or false"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.LoRA(**fields)


def test_targets_may_come_as_a_list_from_a_config():
    assert vp.LoRA(targets=["q", "v"]) == vp.LoRA(targets=("q", "v"))  # pyright: ignore[reportArgumentType]
    assert hash(vp.LoRA(targets=["q", "v"])) == hash(vp.LoRA())  # pyright: ignore[reportArgumentType]


def test_a_rank_above_the_width_is_refused_at_attach():
    with pytest.raises(ValueError, match="rank=33 is above the full rank of a layer from 32 to 96 channels"):
        vp.attach(tiny("vit"), vp.LoRA(rank=33))
    with pytest.raises(ValueError, match="rank=33 is above the full rank of a layer from 32 to 32 channels"):
        vp.attach(tiny("vit"), vp.LoRA(rank=33, targets=("proj_output",)))


def test_rank_stabilised_scaling_divides_by_the_root_of_the_rank():
    assert vp.LoRA(rank=16, alpha=8).scaling == 8 / 16
    assert vp.LoRA(rank=16, alpha=8, rslora=True).scaling == 8 / 4
    one, other = (
        vp.attach(tiny("vit"), vp.LoRA(rank=4, alpha=alpha, rslora=rslora))
        for alpha, rslora in ((6, True), (12, False))
    )
    randomise_tuned(one)
    vp.load_tuned(other, vp.tuned_state_dict(one))
    assert torch.equal(one(images(one)), other(images(one)))


def test_presets_differ_in_how_a_starts():
    assert vp.LoRA.as_published(rank=4) == vp.LoRA(rank=4)
    assert vp.LoRA.as_in_paper(rank=4) == vp.LoRA(rank=4, init="gaussian")
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    vp.attach(model, vp.LoRA.as_in_paper(rank=16))
    lora: Any = model.get_submodule("blocks.0.attn.qkv.lora.q")
    assert abs(lora.A.std().item() * 16 - 1) < 0.02  # 12,288 draws: the standard error is 0.6 %
    assert lora.A.abs().max() > 3 / 16
    assert lora.B.abs().max() == 0


def decomposed(weight: Tensor, A: Tensor, B: Tensor, magnitude: Tensor, scaling: float) -> Tensor:
    """m (W + s B A) / ‖W + s B A‖ row by row, with the norm out of the gradient."""
    updated = weight + scaling * B @ A
    rows = [m * row / row.detach().square().sum().sqrt() for m, row in zip(magnitude, updated, strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [True, False])
def test_dora_equals_its_equation_in_outputs_and_gradients(bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4, bias=bias), torch.randn(5, 6)
    update: Any = LowRank(linear.weight, vp.LoRA(rank=2, alpha=3, dora=True))
    for parameter in update.parameters():
        nn.init.normal_(parameter)
    A, B, m = (t.detach().clone().requires_grad_() for t in (update.A, update.B, update.magnitude))
    y = update(x, linear(x), linear.weight, linear.bias)
    expected = nn.functional.linear(x, decomposed(linear.weight.detach(), A, B, m, 3 / 2), linear.bias)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, reference in ((update.A, A), (update.B, B), (update.magnitude, m)):
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_dora_starts_from_the_lengths_of_the_rows_and_merges_to_its_weight(family):
    model = vp.attach(tiny(family), vp.LoRA(rank=2, alpha=3, dora=True, targets=("q", "k", "v", "proj")))
    plain = tiny(family)
    state = vp.tuned_state_dict(model)
    for name, magnitude in state.items():
        if name.endswith("attn.proj.lora.magnitude"):
            weight = plain.get_parameter(name.replace("lora.magnitude", "weight"))
            torch.testing.assert_close(magnitude, weight.square().sum(1).sqrt())
    randomise_tuned(model)
    x, state = images(model), {n: t.clone() for n, t in model.state_dict().items()}
    expected = model(x)
    vp.merge(model)
    for name in {n.split(".lora.")[0] for n in state if "attn.proj.lora" in n}:
        A, B, m = (state[f"{name}.lora.{part}"] for part in ("A", "B", "magnitude"))
        wanted = decomposed(state[f"{name}.weight"], A, B, m, SCALE)
        torch.testing.assert_close(model.get_parameter(f"{name}.weight"), wanted)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=2e-5)


def test_dora_adds_one_number_per_output_channel():
    model = timm.create_model("vit_base_patch16_224", num_classes=0)
    vp.attach(model, vp.LoRA(rank=8, dora=True, targets=("qkv",)))
    assert vp.count_parameters(model).trained == 294_912 + 12 * 3 * 768


def test_a_row_of_zeros_stays_finite_under_dora():
    linear = nn.Linear(6, 4)
    nn.init.zeros_(linear.weight[1].detach())
    update = LowRank(linear.weight, vp.LoRA(rank=2, dora=True))
    y = update(torch.randn(5, 6), torch.randn(5, 4), linear.weight, linear.bias)
    assert y.isfinite().all()


@pytest.mark.parametrize("first", [vp.LoRA(rank=2), vp.SSF()], ids=lambda m: m.name)
def test_dora_on_a_layer_that_is_not_plain_is_refused_and_below_another_method_it_merges(first):
    dora = vp.LoRA(rank=2, dora=True, targets=("q", "v"))
    with pytest.raises(ValueError, match=r"this one carries .*: attach LoRA\(dora=True\) first"):
        vp.attach(vp.attach(tiny("vit"), first), dora)
    if isinstance(first, vp.LoRA):
        return
    model = vp.attach(vp.attach(tiny("vit"), dora), first)
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)
