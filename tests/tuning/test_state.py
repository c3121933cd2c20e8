"""Counts, tuned parameters, tuned state: what they hold, and how strictly it is read back."""

from typing import Any

import pytest
import torch
from support.families import WITH_BLOCKS, images, randomise_tuned, tiny
from support.matrix import parametrize_where_fit
from torch import Tensor

import vision_peft as vp

every_family = pytest.mark.parametrize("family", WITH_BLOCKS)
METHODS = [vp.AdaptFormer(bottleneck=4), vp.LoRA(rank=2), vp.VPT(tokens=2), vp.LinearProbe(), vp.FullFineTune()]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def tuned_model(*methods: vp.Method, family: str = "vit", seed: int = 2) -> Any:
    model = tiny(family)
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model, seed)
    return model


@parametrize_where_fit(METHODS)
def test_the_tuned_state_is_what_trains_plus_running_statistics_and_nothing_frozen(method, family):
    model = vp.attach(vp.replace_head(tiny(family), "batchnorm_linear", 3), method)
    state, trains = vp.tuned_state_dict(model), dict(vp.tuned_parameters(model))
    statistics = {name for name in state if name.split(".")[-1].startswith(("running_", "num_batches"))}
    assert set(state) == set(trains) | statistics
    assert set(state) <= set(model.state_dict())
    assert all(tensor.data_ptr() == model.state_dict()[name].data_ptr() for name, tensor in state.items())
    assert not any(tensor.requires_grad for tensor in state.values())


def test_tuned_parameters_are_those_an_optimiser_needs():
    model = tuned_model(vp.LoRA(rank=2))
    assert [name for name, _ in vp.tuned_parameters(model)] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]
    assert {name.split(".")[-1] for name, _ in vp.tuned_parameters(model)} == {"A", "B", "weight", "bias"}


def test_a_frozen_tensor_does_not_move_in_training():
    model = tuned_model(vp.AdaptFormer(bottleneck=4))
    tuned = dict(vp.tuned_parameters(model))
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(tuned.values(), lr=0.1, weight_decay=0.1)
    model(images(model)).square().sum().backward()
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(tuned)


@every_method
def test_a_tuned_state_carries_over_to_another_model(method):
    model, other = tuned_model(method), tuned_model(method, seed=3)
    x = images(model)
    assert not torch.equal(other(x), model(x))
    vp.load_tuned(other, vp.tuned_state_dict(model))
    assert torch.equal(other(x), model(x))


def test_loading_copies_and_does_not_share():
    model, other = tuned_model(vp.LoRA(rank=2)), tuned_model(vp.LoRA(rank=2), seed=3)
    vp.load_tuned(other, vp.tuned_state_dict(model))
    with torch.no_grad():
        model.head.weight.zero_()
    assert other.head.weight.abs().sum() > 0


def test_loading_lists_every_problem_and_changes_nothing():
    model = tuned_model(vp.LoRA(rank=2))
    state = vp.tuned_state_dict(tuned_model(vp.LoRA(rank=2), seed=3))
    del state["blocks.0.attn.qkv.lora.q.A"], state["head.bias"]
    state["blocks.1.attn.qkv.lora.v.B"] = torch.zeros(32, 3)
    state["blocks.7.attn.qkv.lora.v.B"] = torch.zeros(32, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="tuned tensors do not fit the model") as error:
        vp.load_tuned(model, state)
    lines = {line.strip() for line in str(error.value).splitlines()}
    assert {
        "missing: blocks.0.attn.qkv.lora.q.A",
        "missing: head.bias",
        "unexpected: blocks.7.attn.qkv.lora.v.B",
        "shape of blocks.1.attn.qkv.lora.v.B: wanted (32, 2), got (32, 3)",
    } <= lines
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_long_list_of_problems_is_cut_and_counted():
    model = tuned_model(vp.LoRA(rank=2))
    with pytest.raises(ValueError, match="and 15 more"):
        vp.load_tuned(model, {f"tensor_{i}": torch.zeros(1) for i in range(25)})  # 25 unexpected, 10 missing, 20 shown


@every_family
def test_keeping_the_head_loads_the_rest_and_ignores_a_head_in_the_state(family):
    model, other = tiny(family), tiny(family)
    for each, seed in ((vp.attach(model, vp.LoRA(rank=2)), 2), (vp.attach(other, vp.LoRA(rank=2)), 3)):
        randomise_tuned(each, seed)
    head = {n: t.clone() for n, t in vp.tuned_state_dict(other).items() if "lora" not in n}
    assert head
    vp.load_tuned(other, vp.tuned_state_dict(model), head="keep")
    assert _equal(vp.tuned_state_dict(other), {**vp.tuned_state_dict(model), **head})


def test_keeping_the_head_also_serves_another_class_count_and_a_state_without_head():
    model, other = tuned_model(vp.LoRA(rank=2)), tiny("vit")
    vp.attach(vp.replace_head(other, "linear", 9), vp.LoRA(rank=2))
    state = vp.tuned_state_dict(model)
    with pytest.raises(ValueError, match=r"shape of head.weight: wanted \(9, 32\), got \(5, 32\)"):
        vp.load_tuned(other, state)
    vp.load_tuned(other, state, head="keep")
    without = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    vp.load_tuned(other, without, head="keep")
    loaded = vp.tuned_state_dict(other)
    assert _equal({name: tensor for name, tensor in loaded.items() if not name.startswith("head.")}, without)


def test_a_head_option_of_another_name_is_refused():
    model = tuned_model(vp.LoRA(rank=2))
    with pytest.raises(ValueError, match="head must be one of 'load', 'keep'; got 'drop'"):
        vp.load_tuned(model, vp.tuned_state_dict(model), head="drop")


def test_another_floating_type_is_converted():
    model, other = tuned_model(vp.LoRA(rank=2)), tuned_model(vp.LoRA(rank=2), seed=3)
    half = {name: tensor.bfloat16() for name, tensor in vp.tuned_state_dict(model).items()}
    vp.load_tuned(other, half)
    assert _equal(vp.tuned_state_dict(other), {name: tensor.float() for name, tensor in half.items()})


@every_family
def test_counts_of_a_plain_model_are_backbone_and_head(family):
    model = tiny(family)
    counts = vp.count_parameters(model)
    assert counts.stored == 0
    assert counts.trained == counts.backbone  # a plain model trains throughout
    assert counts.backbone + counts.head == sum(p.numel() for p in model.parameters())


@parametrize_where_fit(METHODS)
def test_counts_add_up_to_all_parameters(method, family):
    model = tiny(family)
    backbone = vp.count_parameters(model).backbone
    vp.attach(model, method)
    counts = vp.count_parameters(model)
    assert counts.backbone == backbone
    assert sum(p.numel() for _, p in vp.tuned_parameters(model)) == counts.trained + counts.head
    in_place = backbone if isinstance(method, vp.FullFineTune) else 0
    assert sum(p.numel() for p in model.parameters()) == counts.backbone + counts.stored - in_place + counts.head
    assert counts.stored == counts.trained


@every_family
def test_without_a_head_the_head_counts_nothing(family):
    model: Any = tiny(family)
    backbone = vp.count_parameters(model).backbone
    model.reset_classifier(0)
    vp.attach(model, vp.AdaptFormer(bottleneck=3))
    counts = vp.count_parameters(model)
    assert (counts.head, counts.backbone) == (0, backbone)
    assert counts.trained == counts.stored == sum(p.numel() for _, p in vp.tuned_parameters(model))


def test_a_distilled_model_counts_both_heads():
    assert vp.count_parameters(tiny("deit_distilled")).head == 2 * (32 * 5 + 5)


def test_a_batchnorm_head_counts_its_linear_layer():
    assert vp.count_parameters(vp.replace_head(tiny("vit"), "batchnorm_linear", 7)).head == 32 * 7 + 7


def test_what_is_stored_does_not_depend_on_what_happens_to_be_frozen_now():
    model = tuned_model(vp.LoRA(rank=2))
    counts = vp.count_parameters(model)
    model.requires_grad_(False)
    assert vp.count_parameters(model) == counts._replace(trained=0)


def test_methods_add_up():
    lora, vpt = vp.LoRA(rank=2), vp.VPT(tokens=2)
    alone = [vp.count_parameters(tuned_model(method)).trained for method in (lora, vpt)]
    assert vp.count_parameters(tuned_model(lora, vpt)).trained == sum(alone)


def test_counts_say_themselves_in_words_with_the_share():
    counts = vp.Counts(trained=1_189_632, stored=1_189_632, head=76_900, backbone=85_798_656)
    assert str(counts) == (
        "1,189,632 parameters train, 1.39 % of the backbone's 85,798,656; the head has 76,900 more; an adapter stores "
        "1,189,632 and the head"
    )
    assert repr(counts) == "Counts(trained=1189632, stored=1189632, head=76900, backbone=85798656)"


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
