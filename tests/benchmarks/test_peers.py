"""The peers compute what our methods compute, and train as much."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import vision_peft as vp
from vision_peft.benchmarks.peers import APPLY, apply_peer, insert_prompts, write_out_adaptformer
from vision_peft.benchmarks.plain_loop import freeze_but_head, make_floor
from vision_peft.benchmarks.plan import PEERS


def create_vit() -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=5)


IMAGES = torch.randn(3, 3, 32, 32)


def count_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_every_peer_is_written() -> None:
    assert set(APPLY) == set(PEERS)


def test_inserted_prompts_are_vpt() -> None:
    model = create_vit().eval()
    tuned = vp.attach(copy.deepcopy(model), vp.VPT(tokens=7)).eval()
    inserted: Any = insert_prompts(freeze_but_head(copy.deepcopy(model)), tokens=7)
    ours = [parameter for name, parameter in vp.tuned_parameters(tuned) if "head" not in name]
    with torch.no_grad():
        for own, parameter in zip(ours, inserted.prompts, strict=True):
            assert own.shape == parameter.shape
            own.copy_(parameter)
        torch.testing.assert_close(inserted(IMAGES), tuned(IMAGES))
    assert count_trained(inserted) == count_trained(tuned)


def test_the_written_out_adaptformer_is_ours() -> None:
    model = create_vit().eval()
    tuned: Any = vp.attach(copy.deepcopy(model), vp.AdaptFormer(bottleneck=4)).eval()
    written: Any = write_out_adaptformer(freeze_but_head(copy.deepcopy(model)), bottleneck=4).eval()
    with torch.no_grad():
        for block, own in zip(written.blocks, tuned.blocks, strict=True):
            for part, ours in ((block.down, own.adaptmlp.down_proj), (block.up, own.adaptmlp.up_proj)):
                ours.weight.normal_()
                part.weight.copy_(ours.weight)
                part.bias.copy_(ours.bias.normal_())
        torch.testing.assert_close(written(IMAGES), tuned(IMAGES))
        assert not torch.equal(written(IMAGES), model(IMAGES))
    assert count_trained(written) == count_trained(tuned)


def test_peft_trains_as_much_as_our_lora() -> None:
    pytest.importorskip("peft", reason="needs peft, of the extra test")
    tuned = vp.attach(create_vit(), vp.LoRA(rank=8, targets=("qkv",)))
    assert count_trained(apply_peer("hf_lora", create_vit())) == count_trained(tuned)


def test_at_the_floor_every_block_passes_a_gradient_and_nothing_but_the_head_learns() -> None:
    model: Any = make_floor(create_vit()).train()
    seen: list[bool] = []
    for block in model.blocks:
        block.norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0].requires_grad))
    model(IMAGES).sum().backward()
    assert seen == [True, True]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"head.weight", "head.bias"}
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), create_vit()(IMAGES), rtol=0, atol=0)
