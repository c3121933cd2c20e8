"""Families whose blocks pool and widen: extra keys and values, rows of a fused layer by head, heads, refusals."""

from typing import Any

import pytest
import torch
from support.block_inputs import recorded_calls
from support.families import HIERARCHICAL, images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.inference.attention_maps import check_class_token
from vision_peft.inference.measure_updates import measure_updates
from vision_peft.tuning.attention import attend, project
from vision_peft.tuning.blocks import blocks, branches
from vision_peft.tuning.families import family_of_attention
from vision_peft.tuning.qkv_rows import join_rows, split_rows

every_family = pytest.mark.parametrize("family", HIERARCHICAL)
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-6}


def attention_calls(model: nn.Module) -> list[Any]:
    """(attention, arguments, output of timm's own forward) of every block in a real forward."""
    attentions = [branch.layer for block in blocks(model) for branch in branches(block, "attn")]
    with torch.no_grad(), recorded_calls(attentions) as calls:
        model(images(model))
    assert len(calls) == len(attentions)
    return [(attn, args, y[0] if isinstance(y, tuple) else y) for attn, args, _, y in calls]


def output(attn: Any, args: tuple[Any, ...], extra: list[tuple[Tensor, Tensor]]) -> Tensor:
    with torch.no_grad():
        y = attend(attn, args[0], extra, *args[1:])
    return y[0] if isinstance(y, tuple) else y


@every_family
def test_without_extra_keys_it_is_timms_own_attention(family):
    for attn, args, expected in attention_calls(tiny(family)):
        torch.testing.assert_close(output(attn, args, []), expected, **EXACT)


@every_family
def test_extra_keys_take_their_share_of_the_softmax_of_every_query(family):
    """P equal keys and values v: y = w v + (1 - w) y₀ with one share w a query and head; more of them, a larger w."""
    for attn, args, _ in attention_calls(tiny(family)):
        heads, channels = family_of_attention(attn).key_value_heads(attn)
        with torch.no_grad():
            attn.proj.weight.copy_(torch.eye(len(attn.proj.weight)))
            attn.proj.bias.zero_()
            nothing = output(attn, args, []).unflatten(-1, (heads, channels))
        shares = []
        for count in (1, 3):
            keys, values = torch.zeros(1, heads, count, channels), torch.full((1, heads, count, channels), 2.0)
            with torch.no_grad():
                y = output(attn, args, [(keys, values)]).unflatten(-1, (heads, channels))
                y0 = output(attn, args, [(keys, torch.zeros_like(values))]).unflatten(-1, (heads, channels))
            share = (y - y0) / 2
            assert (share > 0).all()
            assert (share < 1).all()
            torch.testing.assert_close(share, share.mean(-1, keepdim=True).expand_as(share), rtol=1e-4, atol=1e-5)
            shares.append(share.mean(-1))
            if not getattr(attn, "residual_pooling", False):  # else pooled queries are added
                torch.testing.assert_close(y0, (1 - share) * nothing, rtol=1e-4, atol=1e-5)
        odds = [share / (1 - share) for share in shares]
        torch.testing.assert_close(odds[1], 3 * odds[0], rtol=1e-3, atol=1e-4)


@every_family
def test_an_extra_key_scores_its_scaled_product_with_the_query(family):
    """Log odds of one key over a key of zeros: q k / sqrt(head dim), for queries that are the same everywhere."""
    for attn, args, _ in attention_calls(tiny(family)):
        heads, channels = family_of_attention(attn).key_value_heads(attn)
        seen: list[Tensor] = []
        with torch.no_grad():
            attn.qkv.weight.zero_()
            attn.proj.weight.copy_(torch.eye(len(attn.proj.weight)))
            attn.proj.bias.zero_()
            if getattr(attn, "norm_q", None) is not None:  # pooled queries differ at the border
                attn.norm_q.register_forward_hook(lambda module, given, y, seen=seen: seen.append(y))
        keys = torch.randn(1, heads, 1, channels)
        odds = []
        for k in (torch.zeros_like(keys), keys):
            y, y0 = (
                output(attn, args, [(k, torch.full_like(k, value))]).unflatten(-1, (heads, channels))
                for value in (1, 0)
            )
            share = (y - y0).mean(-1)
            odds.append((share / (1 - share)).log())
        q = seen[-1].transpose(1, 2) if seen else project(attn, args[0].flatten(1, -2))[0][:1, :, 0]
        expected = (q * keys[0, :, 0]).sum(-1) * channels**-0.5
        difference = odds[1] - odds[0]
        torch.testing.assert_close(difference, expected.expand_as(difference), rtol=1e-3, atol=1e-3)


@every_family
def test_tokens_as_extra_keys_pass_the_layers_of_this_attention(family):
    for attn, args, _ in attention_calls(tiny(family)):
        tokens = torch.randn(1, 3, args[0].shape[-1])
        with torch.no_grad():
            _, keys, values = project(attn, tokens)
            attn.qkv.weight.zero_()
            moved = project(attn, tokens)[2]
        assert keys.shape == values.shape == (1, *keys.shape[1:])
        assert keys.shape[2] == 3
        assert (moved - values).abs().max() > 1e-3


def dense(family: str, model: Any) -> Any:
    """A plain model with the update of every qkv written into its weight by hand, row by row."""
    plain = tiny(family)
    for block, other in zip(blocks(model), blocks(plain), strict=True):
        for name, update in block.attn.qkv.lora.items():
            rows = update.B @ update.A * update.scaling
            head = len(rows) // block.attn.num_heads
            for channel in range(len(rows)):
                at = "qkv".index(name) * len(rows) + channel
                if getattr(block.attn, "head_first", False):
                    at = (channel // head) * 3 * head + "qkv".index(name) * head + channel % head
                with torch.no_grad():
                    other.attn.qkv.weight[at] += rows[channel]
    return plain


@pytest.mark.parametrize("family", ["maxvit", "maxvit_tf"])
@pytest.mark.parametrize("targets", [("q", "v"), ("k",)], ids="+".join)
def test_lora_finds_the_rows_of_a_slice_where_they_go_head_by_head(family, targets):
    model: Any = vp.attach(tiny(family), vp.LoRA(rank=2, targets=targets))
    randomise_tuned(model)
    x = images(model)
    plain = dense(family, model)
    plain.head.fc.load_state_dict(model.head.fc.state_dict())
    torch.testing.assert_close(model.eval()(x), plain(x), rtol=1e-5, atol=2e-5)
    vp.merge(model)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["maxvit", "maxvit_tf"])
def test_ia3_scales_keys_only_where_they_go_head_by_head(family):
    model = vp.attach(tiny(family), vp.IA3(targets=("k",)))
    attn: Any = blocks(model)[0].attn
    with torch.no_grad():
        attn.qkv.ia3_scale["k"].fill_(3)
    x = torch.randn(2, 4, attn.qkv.in_features)
    plain: Any = blocks(tiny(family))[0].attn
    for (name, y), expected in zip(zip("qkv", project(attn, x), strict=True), project(plain, x), strict=True):
        torch.testing.assert_close(y, 3 * expected if name == "k" else expected)


@pytest.mark.parametrize("family", ["maxvit", "maxvit_tf"])
def test_bi_lora_leaves_keys_alone_where_they_go_head_by_head(family):
    model = vp.attach(tiny(family), vp.BiLoRA(rank=2))
    attn, plain = blocks(model)[0].attn, blocks(tiny(family))[0].attn
    x = torch.randn(2, 4, attn.qkv.in_features)
    same = [torch.equal(y, other) for y, other in zip(project(attn.eval(), x), project(plain, x), strict=True)]
    assert same == [False, True, False]


@pytest.mark.parametrize("heads", [None, 1, 4])
def test_rows_are_cut_and_joined_along_any_axis(heads):
    t = torch.arange(2 * 24 * 5).view(2, 24, 5)
    parts = split_rows(t, heads, 1)
    assert [part.shape for part in parts] == [(2, 8, 5)] * 3
    assert torch.equal(join_rows(parts, heads, 1), t)
    first = parts[1][0, :, 0].div(5, rounding_mode="floor").tolist()
    size = 8 // (heads or 1)  # keys of a head stand behind its queries
    assert first == [head * 3 * size + size + row for head in range(heads or 1) for row in range(size)]


@every_family
@pytest.mark.parametrize("norm", [True, False])
def test_an_attentive_head_reads_the_tokens_of_the_last_block(family, norm):
    model: Any = vp.replace_head(tiny(family), "attentive", 3, queries=2, norm=norm)
    vp.attach(model, vp.LinearProbe())
    x = images(model)
    tokens = model.forward_head(model.forward_features(x), pre_logits=True)
    assert tokens.shape[0] == len(x)
    assert tokens.shape[2] == model.num_features
    name = HIERARCHICAL[family].final_norm
    features = tiny(family).get_submodule(name)
    seen: list[Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    logits = model.eval()(x)
    expected = features(seen[0]) if norm else seen[0]
    expected = expected.flatten(2).transpose(1, 2) if family == "sam" or "maxvit" in family else expected
    expected = expected.flatten(1, 2) if expected.ndim == 4 else expected
    expected = expected[:, 1:] if "class_token" in family else expected
    torch.testing.assert_close(tokens, expected)
    assert logits.shape == (2, 3)


REFUSED = {
    "hiera": [vp.RepAdapter(), vp.Convpass(), vp.FacT(), vp.LST(), vp.VPT(deep=False)],
    "sam": [vp.LST(), vp.PromptTuning()],
    "maxvit": [vp.LST(), vp.PTuning()],
    "mvitv2_class_token": [vp.Convpass(sites=("mlp",)), vp.RepAdapter(groups=1)],
}
REASONS = "pool and widen|no side blocks|no sequence|not a grid of patches"


@pytest.mark.parametrize("family", REFUSED)
def test_what_a_family_cannot_carry_is_refused_at_attach_with_the_reason(family):
    for method in REFUSED[family]:
        with pytest.raises(ValueError, match=REASONS):
            vp.attach(tiny(family), method)


@pytest.mark.parametrize("family", ["mvitv2_class_token", "hiera", "maxvit"])
def test_attention_of_a_class_token_is_not_shown(family):
    with pytest.raises(ValueError, match="has no class token in its blocks: they attend inside windows"):
        check_class_token(tiny(family))


def test_updates_of_a_model_without_blocks_are_measured_as_one_place():
    model = vp.attach(tiny("convnext"), vp.LoRA(rank=2, targets=("all-linear",)))
    randomise_tuned(model)
    found = measure_updates(model)
    assert len(found) == 2  # outside of blocks, and the head
