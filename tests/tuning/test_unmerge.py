"""The way back from a reversible merge: exact, for whatever merges."""

import copy
import pickle
from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from support.merged_models import bits, one_step, snapshot, tuned
from torch import nn

import vision_peft as vp
from vision_peft.tuning import graft, record
from vision_peft.tuning.blocks import blocks

STACKS = [
    [vp.LoRA(rank=2)],
    [vp.LoRA(rank=2, dora=True, targets=("qkv", "fc1"))],
    [vp.SSF(), vp.RepAdapter(bottleneck=4, groups=1)],
    [vp.FacT(rank=4), vp.LoRA(rank=2, targets=("proj", "proj_output")), vp.BitFit()],
    [vp.BitFit()],
]
every_stack = pytest.mark.parametrize("methods", STACKS, ids=repr)


@every_stack
@pytest.mark.parametrize("family", ["vit", "swin", "beit", "rope_gqa"])
def test_everything_is_what_it_was_before_the_merge(methods, family):
    model = tuned(methods, family)
    x = images(model)
    expected, before = model(x), snapshot(model)
    assert vp.merge(model, reversible=True) is model
    assert snapshot(model) != before
    assert not list(graft.grafts(model))
    assert record.find(model) is None
    assert vp.unmerge(model) is model
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@every_stack
def test_training_that_was_interrupted_by_a_merge_goes_on_as_if_it_had_not_been(methods):
    models = [tuned(methods), tuned(methods)]
    x = images(models[0], batch=4)
    for interrupted, model in enumerate(models):
        vp.train_mode(model)
        optimizer = torch.optim.AdamW([p for _, p in vp.tuned_parameters(model)], lr=1e-2)
        one_step(model, optimizer, x)
        if interrupted:
            vp.merge(model, reversible=True).eval()(x)
            vp.unmerge(model)
        one_step(model, optimizer, x)
    assert bits(models[0]) == bits(models[1])


def test_merging_and_coming_back_again_and_again_never_drifts():
    model = tuned([vp.LoRA(rank=2)])
    before = snapshot(model)
    for _ in range(3):
        vp.unmerge(vp.merge(model, reversible=True))
        assert snapshot(model) == before


@pytest.mark.parametrize("family", ["vit", "deit_distilled", "swin"])
def test_a_head_that_was_folded_comes_back_and_behind_it_the_one_that_it_replaced(family):
    model = tuned([vp.LoRA(rank=2)], family, head="batchnorm_linear")
    vp.train_mode(model)(images(model, batch=4))  # moves BatchNorm's statistics
    x = images(model)
    expected, before = model.eval()(x), snapshot(model)
    vp.unmerge(vp.merge(model, reversible=True))
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)
    assert torch.equal(vp.detach(model)(x), tiny(family)(x))


def test_a_saved_adapter_of_the_model_that_came_back_is_the_one_saved_before(tmp_path):
    model = tuned([vp.LoRA(rank=2), vp.SSF()])
    vp.save_adapter(model, tmp_path / "before")
    vp.unmerge(vp.merge(model, reversible=True))
    vp.save_adapter(model, tmp_path / "after")
    for name in ("adapter.json", "adapter.safetensors"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    vp.load_tuned(model, vp.tuned_state_dict(model))
    assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path / "after")(images(model)), model(images(model)))


def test_requires_grad_of_the_merged_model_is_that_of_the_backbone_and_comes_back():
    model = tiny("vit")
    blocks(model)[1].requires_grad_(False)
    plain = {name: p.requires_grad for name, p in model.named_parameters()}
    vp.attach(model, vp.LoRA(rank=2))
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    vp.merge(model, reversible=True)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == plain
    vp.unmerge(model)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_only_weights_that_changed_are_remembered():
    model = vp.merge(tuned([vp.LoRA(rank=2, targets=("fc1",))]), reversible=True)
    merged: Any = record.find_merged(model)
    assert list(merged.weights) == [f"blocks.{i}.mlp.fc1.weight" for i in range(2)]


def test_merging_reversibly_twice_and_detaching_keep_the_way_back():
    model = tuned([vp.LoRA(rank=2)])
    before = snapshot(model)
    vp.merge(model, reversible=True)
    vp.detach(vp.merge(model, reversible=True))
    assert snapshot(vp.unmerge(model)) == before


@every_stack
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_merged_model_comes_back_by_itself(methods, copied):
    model = tuned(methods)
    x, state = images(model), bits(model)
    expected = model(x)
    vp.merge(model, reversible=True)
    merged = model(x)
    twin = copied(model)
    assert torch.equal(twin(x), merged)
    assert torch.equal(vp.unmerge(twin)(x), expected)
    assert bits(twin) == state
    with torch.no_grad():
        for _, parameter in vp.tuned_parameters(twin):
            parameter.add_(1)
    assert torch.equal(model(x), merged)
    assert torch.equal(vp.unmerge(model)(x), expected)


def test_modes_are_those_before_the_merge():
    model = vp.train_mode(tuned([vp.LoRA(rank=2, dropout=0.5)]))
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    vp.merge(model, reversible=True).eval()
    vp.unmerge(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_negative_zeros_come_back_too():
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=("fc1",)))  # B = 0: W + 0 is W but for the sign of zeros
    nn.init.constant_(blocks(model)[0].mlp.fc1.weight, -0.0)
    before = bits(model)
    vp.merge(model, reversible=True)
    assert "-" not in str(blocks(model)[0].mlp.fc1.weight[0, 0].item())
    vp.unmerge(model)
    assert bits(model) == before


def test_a_low_precision_model_comes_back_bit_for_bit():
    model = tiny("vit").to(torch.bfloat16)
    vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    x = images(model).to(torch.bfloat16)
    expected = model(x)
    vp.unmerge(vp.merge(model, reversible=True))
    assert torch.equal(model(x), expected)


def test_without_weights_a_merge_on_the_meta_device_comes_back_to_the_same_names():
    model = vp.attach(tiny("vit").to("meta"), vp.LoRA(rank=2))
    before = list(model.state_dict())
    vp.unmerge(vp.merge(model, reversible=True))
    assert list(model.state_dict()) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_moved_to_another_device_since_comes_back_there():
    model = tuned([vp.SSF(), vp.LoRA(rank=2)], head="batchnorm_linear")
    before = bits(model)
    vp.unmerge(vp.merge(model, reversible=True).cuda())
    assert all(p.is_cuda for p in model.parameters())
    assert bits(model.cpu()) == before
