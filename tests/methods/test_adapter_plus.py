"""Adapter+'s positions written out with LayerScale and drop-path, its scalings, counts and starts."""

from typing import Any

import pytest
import torch
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.layers import DropPath
from torch import Tensor

import vision_peft as vp
from vision_peft.methods.adapter_plus import POSITIONS
from vision_peft.tuning.blocks import blocks


def bottleneck(adapter: Any, x: Tensor, scaling: Any, norm: bool) -> Tensor:
    """γ ⊙ (W_up GELU(W_down norm(x) + b_down) + b_up), GELU with the error function."""
    if norm:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt() * adapter.norm.weight + adapter.norm.bias
    z = x @ adapter.down_proj.weight.T + adapter.down_proj.bias
    z = z * (1 + torch.erf(z / 2**0.5)) / 2
    gamma = adapter.scaling if isinstance(scaling, str) else scaling
    return gamma * (z @ adapter.up_proj.weight.T + adapter.up_proj.bias)


def expected_output(block: Any, x: Tensor, method: Any, **kwargs: Any) -> Tensor:
    """One block of a plain ViT at rest, with the adapters where the position says."""

    def A(y: Tensor, owner: Any = block) -> Tensor:
        return bottleneck(owner.adapter_plus, y, method.scaling, method.norm)

    a = block.ls1(block.attn(block.norm1(x), **kwargs))
    if method.position == "houlsby":
        a = a + A(a, block.drop_path1)
    y = x + a
    if method.position == "pre":
        y = y + A(y)
    m = block.ls2(block.mlp(block.norm2(y)))
    if method.position in ("intermediate", "houlsby"):
        return y + m + A(m, block.drop_path2)
    if method.position == "parallel":
        return y + m + A(y)
    return y + m if method.position == "pre" else y + m + A(y + m)


@pytest.mark.parametrize(
    "fields", [{"scaling": "channel"}, {"scaling": "learned", "norm": True}, {"scaling": 0.3}], ids=str
)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", ["vit", "deit3"])
def test_every_block_computes_the_equation(family, position, fields):
    method = vp.AdapterPlus(bottleneck=4, position=position, **fields)
    model = vp.attach(tiny(family), method)
    randomise_tuned(model)
    vp.restore_last_block(model)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model.eval()(images(model))
        for block, (x,), kwargs, y in calls:
            torch.testing.assert_close(y, expected_output(block, x, method, **kwargs), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", ["swin", "beit", "eva02_tiny"])
def test_the_adapter_acts_on_every_family(family, position):
    plain = tiny(family)
    x = images(plain)
    model = vp.attach(tiny(family), vp.AdapterPlus(bottleneck=4, position=position))
    with torch.no_grad():
        for name, parameter in vp.tuned_parameters(model):
            parameter.mul_(20 if "adapter_plus" in name else 1)
        assert (model.eval()(x) - plain(x)).abs().max() > 1e-3


def test_the_adapter_is_skipped_at_its_own_rate_and_the_block_is_not():
    model = tiny("vit")
    vp.attach(model, vp.AdapterPlus(bottleneck=4, drop_path=0.25))
    randomise_tuned(model)
    block: Any = blocks(vp.train_mode(model))[0]
    assert isinstance(block.adapter_plus.drop_path, DropPath)
    x = torch.randn(400, 17, 32)
    with torch.no_grad():
        torch.manual_seed(0)
        y = block(x)
        plain = tiny("vit").blocks[0](x)
    skipped = (y - plain).flatten(1).abs().amax(1) < 1e-4
    assert 0.15 < skipped.float().mean() < 0.35
    with torch.no_grad():
        full = plain + bottleneck(block.adapter_plus, plain, "channel", False) / 0.75
    torch.testing.assert_close(y[~skipped], full[~skipped], rtol=1e-4, atol=1e-4)


def one(h: int) -> int:
    return 768 * h + h + h * 768 + 768


@pytest.mark.parametrize(
    ("method", "closed_form", "figure"),
    [
        (vp.AdapterPlus(), 12 * (one(8) + 768), 165_984),
        (vp.AdapterPlus(bottleneck=64), 12 * (one(64) + 768), 1_198_848),
        (vp.AdapterPlus(position="houlsby", scaling=1.0), 24 * one(8), 313_536),
        (vp.AdapterPlus(position="pfeiffer", scaling=1.0, norm=True), 12 * (one(8) + 2 * 768), 175_200),
        (vp.AdapterPlus(position="parallel", scaling=0.1), 12 * one(8), 156_768),
        (vp.AdapterPlus(scaling="learned"), 12 * (one(8) + 1), 156_780),
        (vp.AdapterPlus(bias=False), 12 * (2 * 768 * 8 + 768), 156_672),
    ],
    ids=repr,
)
def test_counts_are_those_of_the_closed_form(method, closed_form, figure):
    counts = count_on_vit_base(method)
    assert counts.trained == counts.stored == closed_form == figure


@pytest.mark.parametrize(("init", "sigma"), [("houlsby", 0.0088), ("bert", 0.02)])
def test_the_start_has_the_spread_of_the_code(init, sigma):
    torch.manual_seed(0)
    adapter: Any = vp.attach(tiny("vit"), vp.AdapterPlus(bottleneck=512, init=init)).get_submodule(
        "blocks.0.adapter_plus"
    )
    for layer in (adapter.down_proj, adapter.up_proj):
        assert abs(layer.weight.std().item() - sigma) < 3e-4
        assert layer.bias.abs().max() == 0
        assert init == "bert" or layer.weight.abs().max() <= 0.02
    assert torch.equal(adapter.scaling, torch.ones(32))
    assert not vp.AdapterPlus(init=init).starts_as_identity


def test_the_start_named_lora_is_the_identity():
    adapter: Any = vp.attach(tiny("vit"), vp.AdapterPlus(init="lora")).get_submodule("blocks.0.adapter_plus")
    assert adapter.up_proj.weight.abs().max() == adapter.up_proj.bias.abs().max() == 0
    assert 0 < adapter.down_proj.bias.abs().max() <= 32**-0.5
    assert vp.AdapterPlus(init="lora").starts_as_identity


PUBLISHED = {  # count on ViT-B at 8 hidden channels, its closed form
    "adapter_plus": (165_984, 12 * (one(8) + 768)),
    "post": (156_768, 12 * one(8)),
    "pre": (156_768, 12 * one(8)),
    "intermediate": (156_768, 12 * one(8)),
    "houlsby": (313_536, 24 * one(8)),
    "pfeiffer": (175_200, 12 * (one(8) + 2 * 768)),
    "adaptformer": (156_768, 12 * one(8)),
}


@pytest.mark.parametrize("config", PUBLISHED)
def test_published_configs_have_the_counts_of_the_code(config):
    figure, closed_form = PUBLISHED[config]
    method = vp.AdapterPlus.as_published(config)
    counts = count_on_vit_base(method)
    assert counts.trained == closed_form == figure
    assert method.drop_path == 0.1
    assert method.dropout == 0


def test_published_configs_hold_the_fields_of_the_code():
    published = vp.AdapterPlus.as_published
    assert published() == vp.AdapterPlus()
    assert published("houlsby", bottleneck=4) == vp.AdapterPlus(bottleneck=4, position="houlsby", scaling=1.0)
    assert published("pfeiffer") == vp.AdapterPlus(position="pfeiffer", scaling=1.0, norm=True, init="bert")
    assert published("adaptformer") == vp.AdapterPlus(position="parallel", scaling=0.1, init="lora")
    assert published("pre", init="bert") == vp.AdapterPlus(position="pre", scaling=1.0, init="bert")
    with pytest.raises(ValueError, match="config must be one of 'adapter_plus', 'post'"):
        published("houlsbi")


@pytest.mark.parametrize("position", POSITIONS)
def test_the_adapter_reads_what_was_attached_before_it_and_not_what_comes_later(position):
    own = vp.AdapterPlus(bottleneck=4, position=position)
    other = vp.AdaptFormer(bottleneck=4) if position != "pre" else vp.Convpass(bottleneck=4, sites=("attn",))
    if position in ("intermediate", "houlsby"):
        other = vp.AdaptFormer(bottleneck=4, form="sequential")
    after, before = (tiny("vit") for _ in range(2))
    vp.attach(vp.attach(after, other), own)
    vp.attach(vp.attach(before, own), other)
    randomise_tuned(after)
    vp.load_tuned(before, vp.tuned_state_dict(after))
    x = images(after)
    difference = (after.eval()(x) - before.eval()(x)).abs().max()
    assert (difference < 1e-5) == (position == "parallel")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bottleneck": 0}, "bottleneck must"),
        ({"position": "after"}, "position must be one of 'post'"),
        ({"scaling": "learnable"}, "scaling must be one of 'channel', 'learned'; got 'learnable'"),
        ({"scaling": 0.0}, "scaling must"),
        ({"drop_path": 1.0}, "drop_path must"),
        ({"dropout": -1}, "dropout must"),
        ({"init": "xavier"}, "init must be one of 'houlsby', 'bert', 'lora'"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.AdapterPlus(**fields)
