"""Norms of what was learned, block by block, against the weights written out."""

import copy

import pytest
import torch
from support.families import FAMILIES, images, tiny, tuned

import vision_peft as vp
from vision_peft.inference.measure_updates import measure_updates
from vision_peft.tuning.blocks import blocks


@pytest.mark.parametrize("family", ["vit", "eva02_base", "swin"])
def test_lora_is_the_update_that_merging_makes(family: str) -> None:
    model = tuned(family, vp.LoRA(rank=2, targets=("q", "v")))
    x = images(model)
    plain, before = tiny(family).requires_grad_(False), model(x).detach()
    merged = vp.merge(copy.deepcopy(model)).requires_grad_(False)
    *in_blocks, head = measure_updates(model)
    assert [update.place for update in in_blocks] == [str(number) for number in range(len(blocks(model)))]
    for update, ours, theirs in zip(in_blocks, blocks(merged), blocks(plain), strict=True):
        pairs = zip(ours.named_parameters(), theirs.parameters(), strict=True)
        changed = [(one - two, two) for (_, one), two in pairs if not torch.equal(one, two)]
        assert update.change == pytest.approx(float(torch.cat([d.flatten() for d, _ in changed]).norm()), rel=1e-4)
        weight = float(torch.cat([w.flatten() for _, w in changed]).norm())
        assert update.relative == pytest.approx((update.change or 0) / weight, rel=1e-4)
        assert any("LoRA" in part for part in update.parts)
    assert (head.place, head.parts, head.change) == ("head", ["linear"], None)
    assert sum(update.parameters for update in in_blocks) == vp.count_parameters(model).trained
    assert head.parameters == vp.count_parameters(model).head
    assert torch.equal(model(x), before), "the model stays as it is"


def test_what_is_no_update_of_weights_has_the_norm_of_its_tensors_alone() -> None:
    model = tuned("vit", vp.AdaptFormer(bottleneck=4), vp.PromptTuning(tokens=3))
    zero, one, elsewhere, head = measure_updates(model)
    tensors = [tensor for name, tensor in vp.tuned_state_dict(model).items() if name.startswith("blocks.0.")]
    assert zero.norm == pytest.approx(float(torch.cat([tensor.flatten() for tensor in tensors]).norm()), rel=1e-5)
    assert (zero.change, zero.relative, zero.parts) == (None, None, ["block Block[AdaptFormer]"])
    assert elsewhere.parameters == 3 * 32
    assert "PromptTuning" in elsewhere.parts[0]
    assert (one.place, elsewhere.place, head.place) == ("1", "elsewhere", "head")


def test_what_trains_in_place_is_compared_with_what_it_was() -> None:
    model = tuned("vit", vp.BitFit())
    plain = tiny("vit").requires_grad_(False)
    update = measure_updates(model)[1]
    names = [name for name, _ in plain.blocks[1].named_parameters() if name.endswith("bias")]
    assert sorted(update.parts) == sorted(names)
    pairs = [(model.blocks[1].get_parameter(name).detach(), plain.blocks[1].get_parameter(name)) for name in names]
    change = torch.cat([(one - two).flatten() for one, two in pairs]).norm()
    assert update.change == pytest.approx(float(change), rel=1e-5)
    assert update.weight == pytest.approx(float(torch.cat([two.flatten() for _, two in pairs]).norm()), rel=1e-5)
    full = measure_updates(tuned("vit", vp.FullFineTune()))[0]
    assert (full.change, full.relative) == (None, None), "the values before are not kept"


def test_methods_that_fold_and_methods_that_do_not_are_told_apart_on_one_block() -> None:
    lora = measure_updates(tuned("vit", vp.LoRA(rank=2)))[0]
    model = tuned("vit", vp.LoRA(rank=2), vp.AdaptFormer(bottleneck=4))
    both = measure_updates(model)[0]
    assert both.change is not None
    assert both.weight == pytest.approx(lora.weight)
    assert len(both.parts) == 2
    assert both.parameters > lora.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured(family: str) -> None:
    found = measure_updates(tuned(family, vp.LoRA(rank=1), vp.BitFit()))
    assert all(update.norm > 0 for update in found)
    assert all(update.relative and update.relative > 0 for update in found if update.place.isdigit())
    assert measure_updates(tiny(family)) == []
