"""VPT's linear head and its MLP-k: structure, start values, saving, merging."""

import math
from typing import Any

import pytest
import timm
import torch
from support.block_inputs import snapshot
from support.families import WITH_BLOCKS, images, randomise_tuned, tiny
from torch import nn

import vision_peft as vp
from vision_peft.tuning.backbone import classifier_names

every_family = pytest.mark.parametrize("family", WITH_BLOCKS)


def test_the_vpt_head_starts_every_class_at_one_per_cent_of_a_sigmoid():
    torch.manual_seed(0)
    model: Any = vp.replace_head(timm.create_model("vit_base_patch16_224", depth=1, num_classes=0), "vpt_linear", 200)
    torch.testing.assert_close(model.head.bias.sigmoid(), torch.full((200,), 0.01))
    assert model.head.bias[0].item() == pytest.approx(-math.log(99))
    assert abs(model.head.weight.std().item() / math.sqrt(2 / 200) - 1) < 0.02  # kaiming_normal with fan_out
    assert vp.count_parameters(model).head == 769 * 200


@every_family
@pytest.mark.parametrize("layers", [2, 3])
def test_mlp_k_has_k_linear_layers_with_relu_between(family, layers):
    model: Any = vp.attach(vp.replace_head(tiny(family), f"mlp-{layers}", 3), vp.LinearProbe())
    width = model.head_hidden_size
    features = torch.randn(4, width)
    for name in classifier_names(model):
        head: Any = model.get_submodule(name)
        linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linears] == [(width, width)] * (layers - 1) + [(width, 3)]
        expected = features
        for linear in linears[:-1]:
            expected = (expected @ linear.weight.T + linear.bias).clamp(min=0)
        expected = expected @ linears[-1].weight.T + linears[-1].bias
        torch.testing.assert_close(head(features), expected)
        assert all(parameter.requires_grad for parameter in head.parameters())
    assert model(images(model)).shape == (2, 3)


def test_an_mlp_head_has_the_parameters_of_vpts_table():
    model = vp.replace_head(timm.create_model("vit_base_patch16_224", depth=1, num_classes=0), "mlp-3", 100)
    assert vp.count_parameters(model).head == 2 * 769 * 768 + 769 * 100


@every_family
@pytest.mark.parametrize("kind", ["mlp-3", "vpt_linear"])
def test_a_saved_adapter_brings_its_head_back(family, kind, tmp_path):
    model = vp.attach(vp.replace_head(tiny(family), kind, 3), vp.LoRA(rank=2))
    randomise_tuned(model)
    vp.save_adapter(model, tmp_path)
    fresh: Any = tiny(family)
    fresh.reset_classifier(0)
    vp.load_adapter(fresh, tmp_path)
    x = images(model)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_detach_gives_the_old_head_back():
    model = tiny("vit")
    x = images(model)
    expected, before = model(x), snapshot(model)
    vp.attach(vp.replace_head(model, "mlp-3", 3), vp.LoRA(rank=2))
    vp.detach(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


def test_merge_refuses_an_mlp_head_and_changes_nothing():
    model = vp.attach(vp.replace_head(tiny("vit"), "mlp-2", 3), vp.LoRA(rank=2))
    randomise_tuned(model)
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match="cannot merge an MLP head into the one linear layer of a plain timm model"):
        vp.merge(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", ["mlp", "mlp-1", "mlp-10", "mlp-", "MLP-3", "linear_vpt"])
def test_another_kind_is_refused_with_the_known_ones(kind):
    with pytest.raises(ValueError, match=f"'class_mean' or 'mlp-2' to 'mlp-9'; got '{kind}'"):
        vp.replace_head(tiny("vit"), kind, 3)
