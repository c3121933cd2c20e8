"""Frames in the batch of the blocks: how many, and attention over them."""

from typing import Any

import pytest
import torch
from support.families import tiny

import vision_peft as vp
from vision_peft.backbones.frames import frame_wise
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.frame_attention import attend_over_time, frames


def test_the_frames_of_a_frame_wise_model_are_told():
    assert frames(tiny("frames")) == 4
    for family, message, typed in [
        ("vit", "sees single images", r"give backbone\.num_frames=8 and videos, such as data=moving_digits"),
        ("swin", "single images", r"give backbone\.num_frames=8"),
        ("tubelet", "of tubelets", r"give backbone\.tubelet_size=null backbone\.num_frames=4"),
    ]:
        with pytest.raises(ValueError, match=f"{message}.*{typed}"):
            frames(tiny(family))


@pytest.mark.parametrize("family", ["vit", "deit3", "dinov2_swiglu", "dinov3_qkvb", "eva02_tiny", "eva02_base"])
def test_attention_over_time_is_the_blocks_own_on_the_sequence_of_every_position(family):
    block: Any = blocks(tiny(family))[0]
    n = torch.randn(2 * 3, 5, 32)
    with torch.no_grad():
        y = attend_over_time(block, n, 3).unflatten(0, (2, 3))
        for clip in range(2):
            for token in range(5):
                sequence = n.unflatten(0, (2, 3))[clip, :, token].unsqueeze(0)
                expected = block.attn(sequence)[0]
                if family in ("deit3", "dinov2_swiglu"):
                    expected = expected * block.ls1.gamma
                elif family == "dinov3_qkvb":
                    expected = expected * block.gamma_1
                torch.testing.assert_close(y[clip, :, token], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["dinov3_qkvb", "eva02_tiny", "eva02_base"])
def test_rotary_embeddings_do_not_matter_over_time_because_all_frames_have_the_same(family):
    model = tiny(family)
    block: Any = blocks(model)[0]
    prefix, T = model.num_prefix_tokens, 3
    angles: Any = model.rope.get_embed(shape=list(model.patch_embed.grid_size))
    with torch.no_grad():
        for place in range(2):
            sequence = torch.randn(1, prefix + T, 32)  # prefix tokens are not turned, and left out of the comparison
            frames_only = torch.full((prefix + T, prefix + T), 0.0)
            frames_only[:, :prefix] = -torch.inf
            same = angles[place : place + 1].expand(T, -1)
            turned = block.attn(sequence, rope=same, attn_mask=frames_only)[:, prefix:]
            plain = block.attn(sequence, attn_mask=frames_only)[:, prefix:]
            torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["beit", "beit_shared_bias"])
def test_attention_with_a_position_bias_cannot_be_reused_over_time(family):
    with pytest.raises(ValueError, match="position bias for the patches of an image and none for frames"):
        vp.attach(frame_wise(tiny(family), 4), vp.AIM())
