"""Where the last block is short, and what keeps it whole."""

from functools import partial
from typing import Any

import pytest
import torch
from support.families import attach, images, randomise_tuned, tiny
from support.short_blocks import assert_same, build, is_short, whole_twin
from torch import nn

import vision_peft as vp
from vision_peft.tuning import graft
from vision_peft.tuning.blocks import BlockGraft
from vision_peft.tuning.short_block import shorten_last_block


class Unknown(BlockGraft):
    """A graft that says nothing about tokens."""


class OwnMlp(nn.Sequential):
    """A layer of the user's."""


def _own_forward(model: Any) -> None:
    model.forward_head = partial(type(model).forward_head, model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "global_pool", "avg"),
        lambda model: graft.graft(model.blocks[-1], Unknown),
        lambda model: graft.graft(model.blocks[-1].attn.q_norm, type("UnknownNorm", (graft.Graft,), {})),
        lambda model: graft.graft(model, type("UnknownModel", (graft.Graft,), {})),
        lambda model: graft.graft(model.norm, type("UnknownFinal", (graft.Graft,), {})),
        lambda model: setattr(model.blocks[-1], "mlp", OwnMlp(model.blocks[-1].mlp)),
        lambda model: setattr(model.blocks[-1].attn, "proj_drop", OwnMlp()),
        lambda model: vp.replace_head(model, "attentive", 3, queries=1),
        _own_forward,
    ],
)
def test_what_may_need_all_tokens_keeps_the_block_whole(change):
    model = tiny("vit")
    x = images(model)
    change(model)
    expected = model(x)
    assert not shorten_last_block(model)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("family", ["vit_avg", "siglip", "swin", "cait", "xcit", "convnext"])
def test_heads_that_read_more_keep_the_block_whole(family):
    assert not shorten_last_block(tiny(family))


def test_a_token_that_turns_keeps_the_block_whole():
    model = build("dinov3")
    model.blocks[-1].attn.num_prefix_tokens = 0
    assert not shorten_last_block(model)


def test_grafts_in_front_of_the_last_block_may_need_all_tokens():
    model: Any = attach(build("vit"), vp.Convpass(bottleneck=2, blocks="first 1"))
    randomise_tuned(model)
    assert is_short(model)
    assert_same(model.eval(), whole_twin(model), images(model).double())


def test_it_follows_heads_and_pooling():
    model: Any = vp.attach(tiny("vit"), vp.AdaptFormer(bottleneck=4)).eval()
    x = images(model)
    vp.replace_head(model, "attentive", 3, queries=1)
    assert not is_short(model)
    vp.replace_head(model, "linear", 3)
    assert is_short(model)
    model.reset_classifier(3, global_pool="avg")  # behind our back
    assert torch.equal(model(x), whole_twin(model)(x))


def test_loaded_adapters_have_it_and_banks_do_not(tmp_path):
    model: Any = vp.attach(tiny("vit"), vp.VPT(tokens=3)).eval()
    vp.save_adapter(model, tmp_path / "adapter")
    loaded = vp.load_adapter(tiny("vit"), tmp_path / "adapter").eval()
    x = images(model)
    assert is_short(loaded)
    assert torch.equal(loaded(x), model(x))
    bank = vp.Bank(shortened := tiny("vit"))
    bank.add("one", tmp_path / "adapter")
    whole = bank(x, "one")
    assert shorten_last_block(shortened)
    again = vp.Bank(shortened)
    again.add("one", tmp_path / "adapter")
    assert all(map(torch.equal, again(x, "one"), whole))
    assert torch.equal(torch.stack(whole), whole_twin(model)(x))
    assert is_short(shortened)
