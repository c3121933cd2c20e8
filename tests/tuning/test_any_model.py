"""Models without transformer blocks: what is a layer of their body, what a file says of them, running statistics."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
from support.families import OTHERS, images, randomise_tuned, tiny
from timm.layers import Conv2dSame, ScaledStdConv2dSame
from torch import nn

import vision_peft as vp
from vision_peft.tuning.backbone import architecture, classifier_names
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of
from vision_peft.tuning.layers import body_layers, convolve
from vision_peft.tuning.norms import norm_layers
from vision_peft.tuning.record import fingerprint

every_model = pytest.mark.parametrize("name", OTHERS)


@every_model
def test_the_classifier_is_the_layer_that_timm_replaces(name):
    model = tiny(name)
    before = dict(model.named_modules())
    model.reset_classifier(3)
    assert {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and before[n] is not m} == set(
        classifier_names(model)
    )
    model.reset_classifier(0)
    for classifier in classifier_names(model):
        model.get_submodule(classifier)
    assert blocks_refused(model)


def test_a_head_that_is_not_there_is_no_classifier():
    model = timm.create_model("volo_d1_224", num_classes=0)
    assert classifier_names(model) == ("head",)
    assert vp.count_parameters(vp.attach(model, vp.LinearProbe())).trained == 0


def blocks_refused(model: Any) -> bool:
    with pytest.raises(ValueError, match="has no transformer blocks"):
        blocks(model)
    return True


def test_layers_of_the_body_are_linear_and_ungrouped_without_the_head_and_without_what_grafts_added():
    model = tiny("convnext")
    names = list(body_layers(model))
    assert names[0] == "stem.0"
    assert "stages.3.blocks.0.mlp.fc2" in names
    assert not [name for name in names if "conv_dw" in name or name.startswith("head")]
    vit = vp.attach(tiny("vit"), vp.AdaptFormer(bottleneck=2))
    assert list(body_layers(vit)) == list(body_layers(tiny("vit")))
    assert "blocks.1.mlp.fc2" in body_layers(vit)


def test_architecture_and_fingerprint_tell_two_models_apart_and_are_those_of_the_bare_model():
    small, other = tiny("convnext"), timm.create_model("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 8, 16, 16))
    found = architecture(small)
    assert (found["class"], found["depth"], found["width"]) == ("ConvNeXt", 12, [8, 16, 32, 64])
    assert architecture(other) != found
    before = fingerprint(small)
    assert before != fingerprint(tiny("convnext", seed=3))
    vp.attach(small, vp.SSF())
    assert (architecture(small), fingerprint(small)) == (found, before)
    with torch.no_grad():
        body_layers(small)["stages.0.blocks.0.mlp.fc1"].weight[0, 0] += 1
    assert fingerprint(small) != before


@pytest.mark.parametrize("method", [vp.NormTuning(), vp.FullFineTune(), vp.SSF()], ids=repr)
@pytest.mark.parametrize("frozen", ["eval", "train"])
def test_running_statistics_of_the_backbone_stay(method, frozen):
    model = vp.attach(tiny("resnet"), method)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    vp.train_mode(model, frozen)
    model(images(model)).sum().backward()
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


def test_statistics_of_a_batchnorm_in_the_head_move():
    model: Any = vp.replace_head(vp.attach(tiny("resnet"), vp.BitFit()), "batchnorm_linear", 3)
    vp.train_mode(model)
    model(images(model))
    assert model.fc[0].running_mean.abs().max() > 0


def test_norms_of_every_kind_count_and_the_last_one_is_final():
    model: Any = tiny("efficientnet")
    found = norm_layers(model)
    assert len(found) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    vp.attach(model, vp.NormTuning(norms="final"))
    assert {name for name, _ in vp.tuned_parameters(model)} == {
        "bn2.weight",
        "bn2.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_ssf_acts_between_a_norm_and_the_activation_in_it():
    model = vp.attach(tiny("efficientnet"), vp.SSF())
    norm: Any = model.bn1
    with torch.no_grad():
        norm.drop.ssf_scale.fill_(2)
        norm.drop.ssf_shift.fill_(-1)
    x = torch.randn(2, 24, 4, 4)
    plain = nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(norm(x), norm.act(2 * plain - 1))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame, partial(ScaledStdConv2dSame, padding="same")], ids=str)
def test_a_convolution_is_run_anew_with_the_padding_of_the_layer(kind, stride, size):
    layer: Any = kind(3, 4, 3, stride=stride)
    x = torch.randn(2, 3, size, size)
    weight = layer.weight
    if isinstance(kind, partial):
        layer.gain.data.fill_(1)
        flat = weight.flatten(1)
        weight = flat - flat.mean(1, keepdim=True)
        weight = (weight / (flat.var(1, keepdim=True, unbiased=False) + layer.eps).sqrt() * layer.scale).view_as(
            layer.weight
        )
    y = convolve(layer, x, weight) + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(layer(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_on_convolutions_is_the_convolution_with_the_updated_weight(dora):
    model = vp.attach(tiny("resnet"), vp.LoRA(rank=2, alpha=3, targets=("all-linear",), dora=dora))
    randomise_tuned(model)
    conv: Any = model.get_submodule("layer2.0.conv1")
    x = torch.randn(2, 8, 9, 9)
    weight = conv.weight + 1.5 * torch.einsum("or,rikl->oikl", conv.lora.B, conv.lora.A)
    if dora:
        weight = weight * (conv.lora.magnitude / weight.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, weight, stride=2, padding=1), rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_standardised_in_every_forward_takes_no_update():
    model = timm.create_model("test_nfnet", num_classes=2)
    vp.attach(model, vp.SSF())
    randomise_tuned(model)
    with pytest.raises(ValueError, match="cannot merge SSF: ScaledStdConv2d makes another weight out of its own"):
        vp.merge(model)


def test_a_classifier_that_timm_names_is_found_without_its_configuration_being_a_tuple():
    model: Any = timm.create_model("levit_128s", num_classes=2)
    assert classifier_names(model) == ("head.linear", "head_dist.linear")
    model.pretrained_cfg = {}
    with pytest.raises(ValueError, match="cannot attach to LevitDistilled"):
        family_of(model)
