"""attach, detach, merge, replace_head and train_mode: what they change, and what they put back."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import timm
import torch
from support.block_inputs import snapshot
from support.families import WITH_BLOCKS, images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of_block
from vision_peft.tuning.graft import Graft, override

every_family = pytest.mark.parametrize("family", WITH_BLOCKS)
ADAPTFORMER = vp.AdaptFormer(bottleneck=4, init="trunc_normal")


class Shift(Graft):
    """y + shift."""

    shift: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


@dataclass(frozen=True)
class FailsHalfWay(vp.Method):
    """Grafts, overrides and unfreezes, then does not fit after all."""

    name: ClassVar[str] = "fails_half_way"

    def attach(self, model: Any) -> None:
        first, last = blocks(model)[0], blocks(model)[-1]
        norm, *_ = family_of_block(first).norms(first)
        graft.graft(norm, Shift, shift=nn.Parameter(torch.ones(norm.normalized_shape)))
        override(model, num_features=7)
        family_of_block(last).norms(last)[0].requires_grad_(True)
        raise ValueError("does not fit after all")


@every_family
def test_an_attach_that_fails_half_way_leaves_a_plain_model(family):
    model = tiny(family)
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match="does not fit after all"):
        vp.attach(model, FailsHalfWay())
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@every_family
def test_an_attach_that_fails_half_way_leaves_earlier_methods_as_they_were(family):
    model = vp.attach(tiny(family), ADAPTFORMER)
    vp.attach(model, vp.LoRA(rank=2))
    randomise_tuned(model)
    x, before, tuned = images(model), snapshot(model), list(vp.tuned_state_dict(model))
    expected = model(x)
    with pytest.raises(ValueError, match="does not fit after all"):
        vp.attach(model, FailsHalfWay())
    assert snapshot(model) == before
    assert list(vp.tuned_state_dict(model)) == tuned
    assert torch.equal(model(x), expected)
    vp.detach(model)
    assert not list(graft.grafts(model))


@pytest.mark.parametrize(
    "method", [ADAPTFORMER, vp.LoRA(rank=2), vp.VPT(tokens=2), vp.VPT(tokens=2, deep=False)], ids=repr
)
def test_the_same_method_twice_is_refused_and_the_first_stays(method):
    model = vp.attach(tiny("vit"), method)
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match="is already attached to this"):
        vp.attach(model, method)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("wrong", [vp.LoRA, "lora", None, {"rank": 8}])
def test_something_else_than_a_method_is_refused(wrong):
    model = tiny("vit")
    before = snapshot(model)
    with pytest.raises(TypeError, match=r"wanted a method such as AdaptFormer\(bottleneck=64\), got"):
        vp.attach(model, wrong)
    assert snapshot(model) == before


@pytest.mark.parametrize(
    "method", [kind() for kind in vp.METHODS.values() if kind().samples_needed is None], ids=lambda m: m.name
)
def test_samples_are_refused_by_methods_that_do_not_look_at_data(method):
    model = tiny("vit")
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"{type(method).__name__} takes no samples"):
        vp.attach(model, method, samples=[])
    assert snapshot(model) == before


def test_a_model_of_another_kind_is_refused_and_left_alone():
    model = timm.create_model("resnet18", num_classes=2)
    before = snapshot(model)
    with pytest.raises(ValueError, match="ResNet has no transformer blocks"):
        vp.attach(model, vp.LoRA())
    assert snapshot(model) == before


@every_family
def test_attach_freezes_all_but_the_method_and_the_head(family):
    model = vp.attach(tiny(family), ADAPTFORMER)
    heads = tuple(f"{name}." for name in classifier_names(model))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("adaptmlp" in name or name.startswith(heads))


def test_requires_grad_is_what_it_was_before_attach_once_detached():
    model = tiny("vit")
    model.requires_grad_(False)
    blocks(model)[1].requires_grad_(True)
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    vp.attach(model, vp.FullFineTune())
    assert all(p.requires_grad for p in model.parameters())
    vp.detach(model)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
    vp.attach(model, vp.LoRA(rank=2))
    vp.merge(model)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before


def test_detach_and_merge_of_a_plain_model_do_nothing():
    model = tiny("vit")
    before = snapshot(model)
    assert vp.detach(model) is model
    assert vp.merge(model) is model
    assert snapshot(model) == before


def test_a_model_can_be_attached_to_and_detached_again_and_again():
    model = tiny("beit")
    x, before = images(model), snapshot(model)
    expected = model(x)
    for method in (vp.LoRA(rank=2), vp.VPT(tokens=2, deep=False), vp.LoRA(rank=4), ADAPTFORMER, vp.VPT(tokens=3)):
        vp.attach(model, method)
        vp.detach(model)
        assert snapshot(model) == before
    assert torch.equal(model(x), expected)
