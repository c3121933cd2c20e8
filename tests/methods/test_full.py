"""Full fine-tuning trains the backbone itself, alone and beside another method."""

import pytest
import torch
from support.families import FAMILIES, images, tiny

import vision_peft as vp


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_trains_and_is_stored(family):
    model = vp.attach(tiny(family), vp.FullFineTune())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert set(vp.tuned_state_dict(model)) == {name for name, _ in model.named_parameters()}


def test_detach_keeps_what_was_trained_in_place():
    model = vp.attach(tiny("vit"), vp.FullFineTune())
    vp.restore_last_block(model)
    x = images(model)
    before = model(x)
    with torch.no_grad():
        model.get_parameter("blocks.0.mlp.fc1.weight").mul_(2)
    trained = model(x)
    assert not torch.equal(trained, before)
    assert torch.equal(vp.detach(model)(x), trained)


@pytest.mark.parametrize("first", [vp.FullFineTune(), vp.LoRA(rank=2)], ids=lambda m: m.name)
def test_beside_another_method_both_train_in_either_order(first):
    second = vp.LoRA(rank=2) if isinstance(first, vp.FullFineTune) else vp.FullFineTune()
    model = vp.attach(vp.attach(tiny("vit"), first), second)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert set(vp.tuned_state_dict(model)) == {name for name, _ in model.named_parameters()}
    lora = 2 * 2 * 2 * (2 * 32)  # blocks x slices x (A, B) x rank x width
    assert vp.count_parameters(model).trained == vp.count_parameters(tiny("vit")).backbone + lora


def test_the_same_optimiser_step_as_plain_timm():
    x = images(tiny("vit"))
    results = []
    for tune in (False, True):
        model = tiny("vit")
        if tune:
            vp.train_mode(vp.attach(model, vp.FullFineTune()))
            vp.restore_last_block(model)  # which rounds as the plain one does
        model.train()
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model(x).square().sum().backward()
        optimiser.step()
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
