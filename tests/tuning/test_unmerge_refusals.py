"""The way back from a merge is refused where there is none or where it would lose something."""

import copy
from typing import Any

import pytest
import torch
from support.families import images, tiny
from support.merged_models import bits, one_step, snapshot, tuned
from torch import nn

import vision_peft as vp
from vision_peft.tuning import record


def negative(model: Any) -> None:
    model.head.weight.data.neg_()  # no version counter sees .data


def swapped_rows(model: Any) -> None:
    model.blocks[0].attn.proj.weight.data = model.blocks[0].attn.proj.weight.data.flip(0)


def other_type(model: Any) -> None:
    model.to(torch.float64)


def another_head(model: Any) -> None:
    model.reset_classifier(7)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (negative, "head.weight"),
        (swapped_rows, r"blocks\.0\.attn\.proj\.weight"),
        (other_type, r"cls_token, pos_embed, .* and \d+ more"),
        (another_head, "head.weight, head.bias"),
    ],
)
def test_weights_that_changed_since_the_merge_are_named_and_nothing_is_lost(change, name):
    model = vp.merge(tuned([vp.LoRA(rank=2)]), reversible=True)
    change(model)
    before = bits(model)
    with pytest.raises(ValueError, match=f"cannot unmerge: {name} changed since the merge"):
        vp.unmerge(model)
    assert bits(model) == before
    assert record.find(model) is None


def test_a_merged_model_that_trained_is_refused_until_its_weights_are_loaded_again():
    model = tuned([vp.LoRA(rank=2)])
    x = images(model)
    expected = model(x)
    vp.merge(model, reversible=True)
    merged = copy.deepcopy(model.state_dict())
    one_step(model, torch.optim.SGD(model.parameters(), lr=1e-2), x)
    with pytest.raises(ValueError, match="changed since the merge"):
        vp.unmerge(model)
    model.load_state_dict(merged)
    assert torch.equal(vp.unmerge(model)(x), expected)


@pytest.mark.parametrize(
    "tune",
    [
        lambda model, folder: vp.attach(model, vp.LoRA(rank=2)),
        lambda model, folder: vp.replace_head(model, "linear", 5),
        lambda model, folder: vp.load_adapter(model, folder, allow_backbone_mismatch=True),
    ],
    ids=["attach", "replace_head", "load_adapter"],
)
def test_tuning_on_is_refused_until_the_way_back_is_taken_or_given_up(tune, tmp_path):
    model = tuned([vp.LoRA(rank=2)])
    vp.save_adapter(model, tmp_path)
    vp.merge(model, reversible=True)
    before = bits(model)
    with pytest.raises(ValueError, match=r"take it with vp.unmerge\(model\), or give it up with vp.merge\(model\)"):
        tune(model, tmp_path)
    assert bits(model) == before
    vp.unmerge(copy.deepcopy(model))
    tune(vp.merge(model), tmp_path)
    with pytest.raises(ValueError, match="nothing to unmerge"):
        vp.unmerge(model)


def test_a_final_merge_and_a_plain_model_remember_nothing():
    for model in (vp.merge(tuned([vp.LoRA(rank=2)])), vp.merge(tiny("vit"), reversible=True)):
        assert record.find_merged(model) is None
        with pytest.raises(ValueError, match=r"nothing to unmerge: wanted a model merged by vp.merge\(model, rever"):
            vp.unmerge(model)


def test_a_merge_that_is_refused_remembers_nothing():
    model = tuned([vp.LoRA(rank=2), vp.AdaptFormer(bottleneck=4)])
    before = snapshot(model)
    with pytest.raises(ValueError, match="cannot merge LoRA, AdaptFormer"):
        vp.merge(model, reversible=True)
    assert snapshot(model) == before
    with pytest.raises(ValueError, match="nothing to unmerge"):
        vp.unmerge(model)


def test_a_wrapped_model_is_refused():
    model = vp.merge(tuned([vp.LoRA(rank=2)]), reversible=True)
    with pytest.raises(ValueError, match=r"pass model\.module"):
        vp.unmerge(nn.DataParallel(model))
    with pytest.raises(ValueError, match=r"pass model\._orig_mod"):
        vp.unmerge(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
