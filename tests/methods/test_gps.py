"""GPS: the masks and steps of the official code, the layer written out, what is selected, counts, refusals."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import torch.nn.functional as F
from support.families import attach, images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.inference.bank.adapter import Loader
from vision_peft.methods.gps import SelectedWeights, select
from vision_peft.tuning.attach import attach_for_loading
from vision_peft.tuning.sample_gradients import sum_gradients, supcon
from vision_peft.tuning.sparse_term import sparse_term

L, D = 12, 768


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def mask(model: nn.Module) -> dict[str, Tensor]:
    """0 where a weight of the plain model trains, 1 where it is frozen, as the official code writes it."""
    tuned = {name for name, _ in vp.tuned_parameters(model)}
    made = {}
    for name, parameter in model.named_parameters():
        if ".gps." not in name:
            made[name] = torch.full(parameter.shape, 0 if name in tuned else 1, dtype=torch.uint8)
    for name, module in model.named_modules():
        if isinstance(module, SelectedWeights):
            layer = name.removesuffix("gps") + "weight"
            made[layer] = made[layer].flatten(1).scatter(1, module.index.long(), 0).view_as(made[layer])
    return made


@pytest.mark.parametrize("k", [1, 2, 5])
def test_masks_are_those_of_the_official_code(k, shared):
    _, file = read(shared / "golden" / "gps_masks.safetensors")
    gradients = {name.removeprefix("grad/"): t for name, t in file.items() if name.startswith("grad/")}
    wanted = {name.removeprefix(f"mask{k}/"): t for name, t in file.items() if name.startswith(f"mask{k}/")}
    model: Any = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=6, depth=1, num_heads=2, num_classes=4, init_values=1.0
    )
    attach_for_loading(model, vp.GPS(per_neuron=k))
    for name, module in model.named_modules():
        gradient = gradients.get(name.removesuffix("gps") + "weight")
        if isinstance(module, SelectedWeights) and gradient is not None:
            module.choose(gradient, model.get_submodule(name.removesuffix(".gps")).weight)
    found = mask(model)
    alone = "conv_dw.weight"  # a depthwise convolution, which no ViT has
    rows = wanted[alone].flatten(1)
    found[alone] = torch.ones_like(rows).scatter(1, select(gradients[alone], k), 0).view_as(wanted[alone])
    assert {"norm1.weight", "norm1.bias", "ls1.gamma"} <= {name.removeprefix("blocks.0.") for name in wanted}
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def golden(shared):
    config, file = read(shared / "golden" / "gps_model.safetensors")
    model = VisionTransformer(**config["arch"], num_classes=config["num_classes"])
    model.load_state_dict({name.removeprefix("base/"): t for name, t in file.items() if name.startswith("base/")})
    model.eval()
    batches = [
        (views.flatten(0, 1), labels.repeat(2))
        for views, labels in zip(file["views"], file["view_target"], strict=True)
    ]
    tuned = vp.attach(copy.deepcopy(model), vp.GPS(per_neuron=config["times_para"]), samples=batches)
    return config, file, model, tuned, batches


def test_contrastive_gradients_and_the_mask_they_make_are_those_of_the_official_code(golden):
    _, file, model, tuned, batches = golden
    assert (tuned(file["input"]) - file["logits_before"]).abs().max() <= 1e-5
    wanted = {name.removeprefix("select_grad/"): t for name, t in file.items() if name.startswith("select_grad/")}
    found = sum_gradients(model, [model.get_parameter(name) for name in wanted], batches, "supcon", 0.07)
    for name, gradient in zip(wanted, found, strict=True):
        assert (gradient - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name
    losses = []
    for x, labels in batches:
        losses.append(supcon(model.forward_head(model.forward_features(x), pre_logits=True), labels))
    torch.testing.assert_close(torch.stack(losses), file["select_losses"], rtol=1e-5, atol=1e-6)
    masks = {name.removeprefix("mask/"): t for name, t in file.items() if name.startswith("mask/")}
    found = mask(tuned)
    assert found.keys() == masks.keys()
    for name, tensor in masks.items():
        assert torch.equal(found[name], tensor), name


def test_a_step_of_sgd_and_three_of_adam_end_where_those_of_the_official_code_do(golden):
    config, file, _, tuned, _ = golden
    for name, steps in (("sgd", config["sgd"]), ("adam", config["adam"])):
        model = copy.deepcopy(tuned)
        kind: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
        optimizer = kind([parameter for _, parameter in vp.tuned_parameters(model)], lr=steps["lr"])
        for _ in range(steps["steps"]):
            optimizer.zero_grad()
            F.cross_entropy(model(file["input"]), file["target"]).backward()
            optimizer.step()
        assert (model(file["input"]) - file[f"logits_{name}"]).abs().max() <= 1e-5
        if name == "sgd":
            merged = vp.merge(model).state_dict()
            after = {n.removeprefix("after_sgd/"): t for n, t in file.items() if n.startswith("after_sgd/")}
            for key, tensor in after.items():
                assert (merged[key] - tensor).abs().max() <= 1e-6, key


def test_the_term_of_a_layer_has_the_gradients_of_the_dense_one():
    torch.manual_seed(0)
    index = torch.stack([torch.randperm(7)[:3] for _ in range(5)])
    x = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    delta = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(5, 7, dtype=torch.float64).scatter(1, index, delta)
    torch.testing.assert_close(sparse_term(x, delta, index), x @ dense.T)
    assert torch.autograd.gradcheck(lambda x, delta: sparse_term(x, delta, index.int()), (x, delta))


def test_it_traces_into_a_program_without_python_and_goes_through_transforms():
    model = attach(tiny("vit"), vp.GPS()).eval()
    randomise_tuned(model)
    x = images(model)
    torch.jit.save(torch.jit.trace(model, x), file := io.BytesIO())
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x), model(x))
    tuned = dict(vp.tuned_parameters(model))
    found = torch.func.grad(lambda own: torch.func.functional_call(model, own, (x,)).square().sum())(tuned)
    wanted = torch.autograd.grad(model(x).square().sum(), list(tuned.values()))
    for (name, gradient), other in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(gradient, other, msg=name)


@pytest.mark.parametrize("family", ["vit", "eva02_tiny", "swin", "siglip", "tubelet"])
def test_every_layer_computes_with_the_values_in_place_of_the_weights(family):
    model = attach(tiny(family), vp.GPS(per_neuron=2))
    randomise_tuned(model)
    plain = tiny(family)
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, SelectedWeights):
            layer = name.removesuffix("gps") + "weight"
            rows = state[layer].flatten(1).clone()
            for row, own in enumerate(module.index.tolist()):
                for place, column in enumerate(own):
                    rows[row, column] = module.values.detach()[row, place]
            state[layer] = rows.view_as(state[layer])
    plain.load_state_dict({name: tensor for name, tensor in state.items() if ".gps." not in name})
    x = images(plain)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    merged = vp.merge(model).state_dict()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in plain.state_dict().items())


def test_what_trains_are_selected_weights_biases_and_layer_scale():
    model = attach(tiny("dinov2_reg4"), vp.GPS())
    kinds = {name.rpartition(".")[2] if "gps" not in name else "values" for name, _ in vp.tuned_parameters(model)}
    assert kinds == {"values", "bias", "gamma", "weight"}
    trained = {name for name, _ in vp.tuned_parameters(model)}
    assert {name for name in trained if name.endswith("weight")} == {"head.weight"}
    assert not any("norm" in name for name in trained)
    for name, module in model.named_modules():
        layer = isinstance(module, nn.Linear | nn.Conv2d) and name != "head"
        assert (f"{name}.gps.values" in trained) == layer == (layer and f"{name}.bias" in trained), name


def test_biases_beside_a_fused_layer_train_and_tables_of_positions_do_not():
    trained = {name for name, _ in vp.tuned_parameters(attach(tiny("beit"), vp.GPS()))}
    assert {"blocks.0.attn.q_bias", "blocks.1.attn.v_bias", "blocks.0.gamma_1"} <= trained
    assert "blocks.0.attn.qkv.gps.values" in trained
    assert not any("table" in name or "pos_embed" in name or "token" in name for name in trained)


def test_chosen_blocks_alone_are_tuned():
    model = attach(tiny("vit"), vp.GPS(blocks="last 1"))
    assert {name.split(".")[1] for name, _ in vp.tuned_parameters(model) if not name.startswith("head")} == {"1"}


@pytest.mark.parametrize(("k", "figure"), [(1, 167_424), (2, 251_136)])
def test_counts_are_the_published_ones(k, figure):
    counts = count_on_vit_base(vp.GPS(per_neuron=k))
    assert counts.trained == counts.stored == figure == (k + 1) * (D + 9 * D * L)


def test_the_optimiser_holds_at_most_three_numbers_for_every_trained_one():
    model = attach(tiny("vit"), vp.GPS(per_neuron=2))
    vp.train_mode(model)
    trained = dict(vp.tuned_parameters(model))
    optimizer = torch.optim.AdamW(trained.values())
    model(images(model)).square().sum().backward()
    optimizer.step()
    held = sum(t.numel() for state in optimizer.state.values() for t in state.values())
    assert held <= 3 * sum(parameter.numel() for parameter in trained.values())
    counts = vp.count_parameters(model)
    assert counts.trained + counts.head == sum(parameter.numel() for parameter in trained.values())
    gradients = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert sorted(gradients) == sorted(trained), "a frozen weight got a gradient"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("other", [vp.LoRA(rank=2, targets=("qkv", "fc1")), vp.IA3(), vp.SSF()], ids=repr)
def test_what_another_method_folds_first_stays_beside_the_values(order, other):
    methods = [vp.GPS(per_neuron=2), other][::order]
    model = tiny("vit")
    for method in methods:
        attach(model, method)
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(vp.merge(model)(x), expected, rtol=1e-5, atol=1e-5)


def test_rows_choose_their_largest_gradients_in_absolute_value():
    gradient = torch.tensor([[1.0, -5.0, 3.0, 0.0], [0.0, 0.5, -0.25, 0.1]])
    assert select(gradient, 2).tolist() == [[1, 2], [1, 2]]
    assert select(-gradient.view(2, 2, 2), 1).tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("method", "samples", "reason"),
    [
        (vp.GPS(), None, "needs images whose gradients select what trains: pass"),
        (vp.GPS(), [], "samples hold no batch"),
        (vp.GPS(), [torch.zeros(2)], r"samples must be batches of \(images, labels\) tensors; got Tensor"),
        (vp.GPS(), "pair", "no two of these 2 share one"),
        (vp.GPS(per_neuron=33), "pair", "per_neuron=33, but a row of .* has 32 weights"),
        (vp.GPS(loss="cross_entropy"), "label", "samples have the label 9, the head 5 classes"),
        (vp.GPS(), "nan", "gradients of these samples are not finite"),
    ],
    ids=["none", "empty", "kind", "pair", "fan-in", "label", "nan"],
)
def test_bad_input_is_refused_and_leaves_the_model_alone(method, samples, reason):
    model = tiny("vit")
    x, before = images(model), dict(model.state_dict())
    expected, classes = model(x), [type(module) for module in model.modules()]
    given = {
        "pair": [(x, torch.tensor([0, 1]))],
        "label": [(x, torch.tensor([0, 9]))],
        "nan": [(x * torch.nan, torch.tensor([0, 0]))],
    }
    with pytest.raises(ValueError, match=reason):
        vp.attach(model, method, samples=given[samples] if isinstance(samples, str) else samples)
    assert list(model.state_dict()) == list(before)
    assert [type(module) for module in model.modules()] == classes
    assert torch.equal(model(x), expected)


def test_logits_need_a_head():
    model = tiny("vit")
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="needs the logits of a head"):
        attach(model, vp.GPS(loss="cross_entropy"))


@pytest.mark.parametrize("fields", [{"per_neuron": 0}, {"loss": "hinge"}, {"temperature": 0}, {"images_per_class": 0}])
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        vp.GPS(**fields)


@pytest.mark.parametrize("index", [[-1, 0], [0, 32], [3, 3]])
def test_indices_out_of_a_file_that_no_row_has_are_refused(index):
    model = attach(tiny("vit"), vp.GPS(per_neuron=2))
    state, key = vp.tuned_state_dict(model), "blocks.1.attn.proj.gps.index"
    bad = state[key].clone()
    bad[5] = torch.tensor(index)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with pytest.raises(ValueError, match=f"{key}: wanted distinct numbers from 0 to 31 in every row"):
        vp.load_tuned(model, {**state, key: bad})
    assert all(torch.equal(tensor, before[name]) for name, tensor in vp.tuned_state_dict(model).items())


def test_a_bank_codes_no_indices(tmp_path):
    model = attach(tiny("vit"), vp.GPS(per_neuron=2))
    adapter = Loader(tiny("vit")).load(vp.save_adapter(model, tmp_path / "a"))
    index = dict(vp.tuned_state_dict(model))["blocks.0.mlp.fc1.gps.index"]
    adapter.compress()
    adapter.expand()
    assert torch.equal(adapter.tensors["blocks.0.mlp.fc1.gps.index"], index)
