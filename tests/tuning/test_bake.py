"""Baking: what a folder stores, what stays to train on, and that the model of a running training stays as it is."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.families import images, randomise_tuned, tiny

import vision_peft as vp

METHODS = [vp.PrefixTuning(tokens=3, hidden=8), vp.PTuningV2(tokens=3, hidden=8), vp.PTuning(tokens=3)]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def tuned(method: vp.Method) -> Any:
    model = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    return model


@every_method
def test_saving_stores_constants_and_leaves_the_model_training(method, tmp_path):
    model = tuned(method)
    before = {name: tensor.clone() for name, tensor in vp.tuned_state_dict(model).items()}
    vp.save_adapter(model, tmp_path)
    after = vp.tuned_state_dict(model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    stored = load_file(tmp_path / "adapter.safetensors")
    counts = vp.count_parameters(model)
    assert sum(tensor.numel() for tensor in stored.values()) == counts.stored + counts.head
    assert counts.stored < counts.trained
    assert not any("mlp" in name or "embedding" in name for name in stored)
    info = json.loads((tmp_path / "adapter.json").read_text())
    assert info["counts"]["stored"] == counts.stored
    assert info["counts"]["trained"] == counts.trained


@every_method
def test_a_baked_folder_and_a_baked_model_give_the_outputs_of_training(method, tmp_path):
    model = tuned(method)
    x = images(model)
    expected = model(x)
    vp.save_adapter(model, tmp_path)
    loaded = vp.load_adapter(tiny("vit"), tmp_path)
    torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)
    vp.bake(model)
    assert vp.tuned_state_dict(model).keys() == vp.tuned_state_dict(loaded).keys()
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@every_method
def test_keeping_the_reparametrisation_stores_what_trains(method, tmp_path):
    model = tuned(method)
    vp.save_adapter(model, tmp_path, keep_reparametrization=True)
    loaded = vp.load_adapter(tiny("vit"), tmp_path)
    state = vp.tuned_state_dict(loaded)
    assert state.keys() == vp.tuned_state_dict(model).keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in vp.tuned_state_dict(model).items())
    assert vp.count_parameters(loaded) == vp.count_parameters(model)


@every_method
def test_constants_train_on_and_bake_a_second_time_to_themselves(method):
    model = vp.bake(tuned(method))
    counts = vp.count_parameters(model)
    assert counts.trained == counts.stored
    vp.train_mode(model)
    model(images(model)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in vp.tuned_parameters(model))
    before = {name: tensor.clone() for name, tensor in vp.tuned_state_dict(model).items()}
    after = vp.tuned_state_dict(vp.bake(model))
    assert all(torch.equal(after[name], before[name]) for name in before)


@every_method
def test_detach_after_baking_is_exact(method):
    model = tiny("vit")
    x, keys, attributes = images(model), list(model.state_dict()), {n: set(vars(m)) for n, m in model.named_modules()}
    expected = model(x)
    vp.detach(vp.bake(vp.attach(model, method)))
    assert list(model.state_dict()) == keys
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert torch.equal(model(x), expected)


@every_method
def test_a_baked_model_stacks_with_lora_and_saves_both(method, tmp_path):
    model = vp.attach(tuned(method), vp.LoRA(rank=2))
    randomise_tuned(model)
    vp.bake(model)
    vp.save_adapter(model, tmp_path)
    x = images(model)
    assert torch.equal(vp.load_adapter(tiny("vit"), tmp_path)(x), model(x))


def test_nothing_happens_without_a_reparametrisation():
    model = tiny("vit")
    assert vp.bake(model) is model
    vp.attach(model, vp.LoRA(rank=2))
    keys = list(model.state_dict())
    vp.bake(model)
    assert list(model.state_dict()) == keys
