"""Fingerprints of weights that are loaded after something was attached, and the adapters that record them."""

from typing import Any

import pytest
import torch
from support.families import images, randomise_tuned, tiny
from torch import nn

import vision_peft as vp
from vision_peft.tuning import record
from vision_peft.tuning.fingerprint import FINGERPRINT, find_changed, fingerprint, landmarks, mark


def pretrained(family: str = "vit") -> Any:
    """A model of the family with weights of its own."""
    model = tiny(family)
    for parameter in model.parameters():
        parameter.data.mul_(1.5).add_(0.01)
    return model


def loaded_late(*methods: vp.Method, family: str = "vit") -> Any:
    """A model that got the pretrained weights behind its methods."""
    model: Any = tiny(family)
    for method in methods:
        vp.attach(model, method)
    model.load_state_dict(pretrained(family).state_dict(), strict=False)
    return model.eval()


@pytest.mark.parametrize("family", ["vit", "swin", "eva02_base"])
@pytest.mark.parametrize("method", [vp.LoRA(rank=2), vp.BitFit(), vp.VPT(tokens=2)], ids=repr)
def test_an_adapter_fits_the_weights_that_were_loaded_after_attach_and_no_others(family, method, tmp_path):
    model = loaded_late(method, family=family)
    randomise_tuned(model)
    expected = model(x := images(model))
    vp.save_adapter(model, tmp_path)
    assert torch.equal(vp.load_adapter(pretrained(family), tmp_path).eval()(x), expected)
    with pytest.raises(ValueError, match="trained on other frozen weights"):
        vp.load_adapter(tiny(family), tmp_path)


def test_weights_loaded_behind_a_new_head_are_those_that_an_adapter_is_compared_with(tmp_path):
    vp.save_adapter(vp.attach(pretrained(), vp.LoRA(rank=2)), tmp_path)
    model = tiny("vit")
    vp.replace_head(model, "linear", 5)
    with pytest.raises(ValueError, match="trained on other frozen weights"):
        vp.load_adapter(model, tmp_path)
    model.load_state_dict(pretrained().state_dict())
    vp.load_adapter(model, tmp_path)
    assert record.current_fingerprint(model) == fingerprint(pretrained())


@pytest.mark.parametrize("method", [vp.LoRA(rank=2, dora=True), vp.GPS()], ids=["dora", "gps"])
def test_a_method_that_started_from_the_weights_before_says_so_and_its_adapter_fits(method, tmp_path):
    needed = [(images(tiny("vit"), batch=4), torch.tensor([0, 1, 0, 1]))]
    model = vp.attach(tiny("vit"), method, samples=needed if method.samples_needed else None)
    model.load_state_dict(pretrained().state_dict(), strict=False)
    randomise_tuned(model)
    expected = model.eval()(x := images(model))
    with pytest.warns(UserWarning, match=f"weights were loaded after {method.name} was attached, which had started"):
        vp.save_adapter(model, tmp_path)
    assert torch.equal(vp.load_adapter(pretrained(), tmp_path).eval()(x), expected)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("targets", [("q", "v"), ("qkv",), ("patch_embed",)])
@pytest.mark.parametrize("family", ["vit", "eva02_base"])
def test_what_takes_a_part_of_the_weights_before_off_makes_no_adapter(init, targets, family, tmp_path):
    method = vp.LoRA(rank=2, init=init, targets=targets)
    with pytest.raises(ValueError, match=rf"after lora was attached: init='{init}' takes a part of .* vp\.merge"):
        vp.save_adapter(loaded_late(method, family=family), tmp_path / "late")
    assert not (tmp_path / "late" / "adapter.json").exists()
    trained = vp.attach(pretrained(family), method)
    randomise_tuned(trained)
    whole = vp.attach(tiny(family), method)
    whole.load_state_dict(trained.state_dict())  # with the part that belongs to these weights
    with pytest.warns(UserWarning, match="had started from those before"):
        vp.save_adapter(whole, tmp_path / "whole")
    x = images(whole)
    twin = vp.load_adapter(pretrained(family), tmp_path / "whole")
    torch.testing.assert_close(twin.eval()(x), trained.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [vp.NormTuning(), vp.PartialFineTune(blocks=1)], ids=repr)
def test_weights_loaded_over_what_a_method_trains_in_place_are_refused_with_the_way_out(method, tmp_path):
    model = loaded_late(vp.LoRA(rank=2), method)
    with pytest.raises(
        ValueError, match=r"attn\.proj\.weight.* changed\), and .*norm1\.weight.* attach then"
    ) as raised:
        vp.save_adapter(model, tmp_path)
    assert "vp.load_tuned" in str(raised.value)
    again = pretrained()
    for each in (vp.LoRA(rank=2), method):
        vp.attach(again, each)
    vp.load_tuned(again, vp.tuned_state_dict(model))
    vp.save_adapter(again, tmp_path)
    x = images(model)
    assert torch.equal(vp.load_adapter(pretrained(), tmp_path).eval()(x), model(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("back", [False, True])
def test_a_model_that_was_converted_is_the_one_it_was(dtype, back, tmp_path):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2)).to(dtype)
    if back:
        model.float()
    assert record.current_fingerprint(model) == fingerprint(tiny("vit"))
    vp.save_adapter(model, tmp_path)
    vp.load_adapter(tiny("vit"), tmp_path)


@pytest.mark.parametrize("method", [vp.NormTuning(), vp.FullFineTune(), vp.PartialFineTune(blocks=1)], ids=repr)
def test_training_in_place_changes_no_fingerprint(method):
    model = vp.attach(tiny("vit"), method)
    randomise_tuned(model)
    assert record.current_fingerprint(model) == fingerprint(tiny("vit"))


def test_weights_loaded_between_a_head_and_the_first_method_count_as_those_of_attach(tmp_path, recwarn):
    model = tiny("vit")
    vp.replace_head(model, "linear", 5)
    model.load_state_dict(pretrained().state_dict())
    for method in (vp.LoRA(rank=2, dora=True), vp.NormTuning()):
        vp.attach(model, method)
    vp.save_adapter(model, tmp_path)
    assert not [each for each in recwarn if "weights were loaded" in str(each.message)]
    vp.load_adapter(pretrained(), tmp_path)


def test_landmarks_that_changed_are_named_and_a_model_that_keeps_its_fingerprint_is_not_read():
    model: Any = tiny("vit")
    marks = mark(model)
    assert list(marks) == list(landmarks(model))
    assert find_changed(model, marks) == []
    nn.init.ones_(model.blocks[1].attn.proj.weight)
    assert find_changed(model, marks) == ["blocks.1.attn.proj.weight"]
    vars(model)[FINGERPRINT] = "kept"
    assert (fingerprint(model), mark(model), find_changed(model, marks)) == ("kept", {}, [])
    with torch.device("meta"):
        assert (fingerprint(empty := tiny("vit")), mark(empty)) == ("", {})
