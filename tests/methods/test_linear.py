"""The linear probe trains the head and nothing else."""

import pytest
import torch
from support.families import FAMILIES, images, tiny

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.backbone import classifier_names


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_head_trains_and_nothing_is_grafted(family):
    model = vp.attach(tiny(family), vp.LinearProbe())
    heads = tuple(f"{name}." for name in classifier_names(model))
    assert all(name.startswith(heads) for name, _ in vp.tuned_parameters(model))
    assert not list(graft.grafts(model))
    assert vp.count_parameters(model)[:2] == (0, 0)


def test_a_step_of_the_probe_is_softmax_regression_on_frozen_features():
    model = vp.attach(tiny("vit"), vp.LinearProbe())
    x, labels = images(model, batch=4), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)  # pyright: ignore[reportCallIssue]
    logits = model(x)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    error = (logits.softmax(1) - torch.nn.functional.one_hot(labels, 5)).detach() / 4
    torch.testing.assert_close(model.get_parameter("head.weight").grad, error.T @ features)
    torch.testing.assert_close(model.get_parameter("head.bias").grad, error.sum(0))


def test_merging_a_probe_is_nothing_but_forgetting_it():
    model = vp.attach(tiny("vit"), vp.LinearProbe())
    vp.restore_last_block(model)
    expected = model(images(model))
    vp.merge(model)
    assert torch.equal(model(images(model)), expected)
    assert all(p.requires_grad for p in model.parameters())
