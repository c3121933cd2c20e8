"""Updates of query, key and value slices that HF peft holds as one, and the way back to the slices."""

import pytest
import torch
from support.adapters import same
from support.families import images, tiny
from support.hf_peft_folders import WIDE, change_tensors, loaded_by_peft, read_back, written

import vision_peft as vp

MIXED = [
    vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj")),
    vp.LoRA(rank=3, alpha=5, targets=("q", "k", "proj"), rslora=True),
    vp.LoRA(rank=2, alpha=3, targets=("k", "v", "fc1", "fc2"), dropout=0.1, dora=True),
    vp.LoRA(rank=3, alpha=5, targets=("q", "k", "v", "proj"), rslora=True, dora=True),
    WIDE,
]


@pytest.mark.parametrize("method", MIXED, ids=repr)
def test_slices_that_were_joined_beside_other_layers_are_read_as_the_same_method(method, tmp_path):
    model = written(method, "vit", tmp_path)
    again, found = read_back(tmp_path, "vit")
    assert found == method
    assert same(vp.tuned_state_dict(model), vp.tuned_state_dict(again))


@pytest.mark.parametrize("targets", [("q", "v", "proj"), ("q", "k", "proj"), ("q", "k", "v", "fc2")], ids="+".join)
def test_an_untrained_mixture_whose_zeros_tell_no_slices_is_read_to_the_same_logits(targets, tmp_path):
    model = vp.attach(tiny("vit"), vp.LoRA(rank=2, targets=targets))
    vp.write_foreign(model, tmp_path)
    x = images(model)
    assert torch.equal(read_back(tmp_path, "vit")[0](x), model(x))


def test_a_joined_pair_that_was_trained_on_is_whole_and_read_with_a_rank_of_its_own(tmp_path):
    written(vp.LoRA(rank=2, alpha=3, targets=("q", "v", "proj")), "vit", tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors["base_model.model.blocks.1.attn.qkv.lora_B.weight"].add_(1e-6))
    model, method = read_back(tmp_path, "vit")
    assert (method.targets, method.rank, method.rank_pattern) == (
        ("qkv", "proj"),
        2,
        {"blocks.0.attn.qkv": 4, "blocks.1.attn.qkv": 4},
    )
    assert method.alpha_pattern == {"blocks.0.attn.qkv": 6, "blocks.1.attn.qkv": 6}
    x = images(model)
    torch.testing.assert_close(loaded_by_peft(tmp_path, "vit")(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (95, 4), (96, 5)])
def test_a_joined_pair_of_another_shape_is_refused_by_the_reader_or_the_model(shape, tmp_path):
    written(vp.LoRA(rank=2, targets=("q", "v", "proj")), "vit", tmp_path)
    key = "base_model.model.blocks.0.attn.qkv.lora_B.weight"
    change_tensors(tmp_path, lambda tensors: tensors.update({key: torch.zeros(shape)}))
    with pytest.raises(ValueError, match=r"shape of blocks.0.attn.qkv.lora"):
        read_back(tmp_path, "vit")
