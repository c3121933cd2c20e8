"""Attention with extra keys and values, against timm's own attention and against a softmax written out."""

import re
from typing import Any

import pytest
import timm
import torch
from support.block_inputs import recorded_calls
from support.families import FLAT, KEYS_VALUES, MORE, images, tiny
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from vision_peft.tuning.attention import attend, check_keys_values, project
from vision_peft.tuning.blocks import blocks, branches, linears
from vision_peft.tuning.families import family_of_attention

TAKES_MASKS = [family for family in [*FLAT, *MORE] if not re.search("beit|relpos|cait|xcit", family)]
every_family = pytest.mark.parametrize("family", KEYS_VALUES)
every_family_with_masks = pytest.mark.parametrize("family", TAKES_MASKS)
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-6}


def attention_calls(model: nn.Module) -> list[tuple[Any, Tensor, dict[str, Any], Tensor]]:
    """(attention, tokens, keywords, output of timm's own forward) of every block in a real forward; unit variance."""
    attentions: list[Any] = [branch.layer for block in blocks(model) for branch in branches(block, "attn")]
    for attn in attentions:  # outputs of about 1, so that an absolute tolerance means something
        nn.init.normal_(attn.proj.weight, std=0.1)
    with torch.no_grad(), recorded_calls(attentions) as calls:
        model(images(model))
    return [(attn, args[0], kwargs, y) for attn, args, kwargs, y in calls]


@every_family
def test_without_extra_keys_it_is_timms_own_attention(family):
    calls = attention_calls(tiny(family))
    assert len(calls) == sum(len(branches(block, "attn")) for block in blocks(tiny(family)))
    for attn, x, kwargs, expected in calls:
        torch.testing.assert_close(attend(attn, x, [], **kwargs), expected, **EXACT)


def masks(B: int, N: int) -> dict[str, dict[str, Any]]:
    g = torch.Generator().manual_seed(3)
    boolean = (torch.rand(B, 1, N, N, generator=g) > 0.4) | torch.eye(N, dtype=torch.bool)
    return {
        "boolean": {"attn_mask": boolean},
        "additive": {"attn_mask": torch.randn(B, 2, N, N, generator=g)},
        "one for all": {"attn_mask": torch.randn(N, N, generator=g)},
        "causal": {"is_causal": True},
    }


@every_family_with_masks
@pytest.mark.parametrize("kind", ["boolean", "additive", "one for all", "causal"])
def test_masks_act_as_in_timm(family, kind):
    for attn, x, kwargs, unmasked in attention_calls(tiny(family)):
        kwargs = {**kwargs, **masks(*x.shape[:2])[kind]}
        with torch.no_grad():
            expected = attn(x, **kwargs)
            torch.testing.assert_close(attend(attn, x, [], **kwargs), expected, **EXACT)
        assert (expected - unmasked).abs().max() > 1e-3


def test_shifted_windows_of_swin_bring_their_mask_into_these_tests():
    calls = attention_calls(tiny("swin"))
    assert {kwargs.get("mask") is not None for _, _, kwargs, _ in calls} == {True, False}


def position_bias(attn: Any, H: int, N: int) -> Tensor:
    """The bias (1 H N N) that the attention itself adds to scores: out of a table, or made by a small MLP."""
    if getattr(attn, "relative_position_bias_table", None) is not None:
        return attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1)[None]
    if getattr(attn, "cpb_mlp", None) is not None:
        table = 16 * torch.sigmoid(attn.cpb_mlp(attn.relative_coords_table)).reshape(-1, H)
        return table[attn.relative_position_index].permute(2, 0, 1)[None]
    if getattr(attn, "meta_mlp", None) is not None:
        return attn.meta_mlp(attn.relative_coordinates_log).T.reshape(1, H, N, N)
    if isinstance(getattr(attn, "rel_pos", None), nn.Module):
        return _log_bias(attn.rel_pos, H)
    return torch.zeros(1, H, N, N)


def _log_bias(rel_pos: Any, H: int) -> Tensor:
    """The bias (1 H N N) of timm's RelPosMlp, zero from and to its prefix tokens."""
    table = rel_pos.mlp(rel_pos.rel_coords_log).reshape(-1, H)
    patches = rel_pos.window_size[0] * rel_pos.window_size[1]
    bias = table[rel_pos.relative_position_index].reshape(patches, patches, H).permute(2, 0, 1)[None]
    return nn.functional.pad(bias, (rel_pos.prefix_tokens, 0, rel_pos.prefix_tokens, 0))


def mix_heads(layer: Any, weights: list[Tensor]) -> list[Tensor]:
    """New weights of every head: a sum over all heads with the weights of ``layer``, plus its bias."""
    rows = zip(layer.weight, layer.bias, strict=True)
    return [torch.stack([w * own for w, own in zip(row, weights, strict=True)]).sum(0) + bias for row, bias in rows]


def softmax_attention(attn: Any, x: Tensor, keys: Tensor, values: Tensor, **kwargs: Any) -> Tensor:
    """softmax(Q [K_extra; K]ᵀ / √d + [0, bias]) [V_extra; V], head by head and without the fused kernel."""
    B, N, _ = x.shape
    H, P = attn.num_heads, keys.shape[2]
    if attn.qkv is not None:
        bias = attn.qkv.bias
        if getattr(attn, "q_bias", None) is not None:
            bias = torch.cat([attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias])
        q, k, v = nn.functional.linear(x, attn.qkv.weight, bias).chunk(3, dim=-1)
    else:
        q, k, v = attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)
    d = q.shape[-1] // H
    q, k, v = (t.unflatten(-1, (-1, d)).transpose(1, 2) for t in (q, k, v))
    if isinstance(getattr(attn, "q_norm", None), nn.Module):
        q, k = attn.q_norm(q), attn.k_norm(k)
    if (rope := kwargs.get("rope")) is not None:
        at = attn.num_prefix_tokens
        q, k = (
            torch.cat([t[:, :, :at], apply_rot_embed_cat(t[:, :, at:], rope, half=attn.rotate_half)], 2) for t in (q, k)
        )
    bias, scale = position_bias(attn, H, N), torch.full((H,), d**-0.5)
    if isinstance(getattr(attn, "logit_scale", None), nn.Parameter):  # cosines, times at most 100
        q, k, keys = (t / t.norm(dim=-1, keepdim=True) for t in (q, k, keys))
        scale = attn.logit_scale.flatten().exp().clamp(max=100)
    if (shared := kwargs.get("shared_rel_pos_bias", kwargs.get("shared_rel_pos"))) is not None:
        bias = bias + shared
    if (mask := kwargs.get("mask")) is not None:
        bias = bias + mask.repeat(B // len(mask), 1, 1)[:, None]
    if (mask := kwargs.get("attn_mask")) is not None:
        bias = bias + (torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask)
    if kwargs.get("is_causal"):
        bias = bias + torch.full((N, N), -torch.inf).triu(1)
    bias = bias.expand(B, H, N, N)
    scores, all_values = [], []
    for h in range(H):
        group = h // (H // k.shape[1])
        all_keys = torch.cat([keys[:, group].expand(B, P, d), k[:, group]], 1)
        all_values.append(torch.cat([values[:, group].expand(B, P, d), v[:, group]], 1))
        unplaced = torch.full((B, N, P), 8.0 if getattr(attn, "cpb_mlp", None) is not None else 0.0)  # 16 σ(0)
        scores.append(q[:, h] @ all_keys.transpose(1, 2) * scale[h] + torch.cat([unplaced, bias[:, h]], dim=-1))
    talking = hasattr(attn, "proj_l")
    weights = [own.softmax(-1) for own in (mix_heads(attn.proj_l, scores) if talking else scores)]
    weights = mix_heads(attn.proj_w, weights) if talking else weights
    y = torch.cat([own @ seen for own, seen in zip(weights, all_values, strict=True)], dim=-1)
    if isinstance(getattr(attn, "norm", None), nn.Module):
        y = attn.norm(y)
    return attn.proj(y)


def extra(attn: Any, x: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    _, keys, values = project(attn, torch.randn(batch, 3, x.shape[-1], generator=torch.Generator().manual_seed(4)))
    return keys.detach(), values.detach()


@every_family
@pytest.mark.parametrize("per_image", [False, True])
def test_extra_keys_and_values_equal_a_softmax_written_out(family, per_image):
    for attn, x, kwargs, without in attention_calls(tiny(family)):
        keys, values = extra(attn, x, x.shape[0] if per_image else 1)
        with torch.no_grad():
            y = attend(attn, x, [(keys, values)], **kwargs)
            torch.testing.assert_close(y, softmax_attention(attn, x, keys, values, **kwargs), rtol=0.0, atol=2e-6)
        assert (y - without).abs().max() > 1e-3


@every_family_with_masks
@pytest.mark.parametrize("kind", ["boolean", "additive", "one for all", "causal"])
def test_a_mask_never_hides_extra_keys(family, kind):
    attn, x, kwargs, _ = attention_calls(tiny(family))[0]
    kwargs = {**kwargs, **masks(*x.shape[:2])[kind]}
    keys, values = extra(attn, x, 1)
    y = attend(attn, x, [(keys, values)], **kwargs)
    torch.testing.assert_close(y, softmax_attention(attn, x, keys, values, **kwargs), rtol=0.0, atol=2e-6)


def test_extra_keys_of_two_methods_join():
    attn, x, kwargs, _ = attention_calls(tiny("vit"))[0]
    (k1, v1), (k2, v2) = extra(attn, x, 1), extra(attn, x, 2)
    joined = torch.cat([k1.expand_as(k2), k2], 2), torch.cat([v1.expand_as(v2), v2], 2)
    torch.testing.assert_close(attend(attn, x, [(k1, v1), (k2, v2)], **kwargs), attend(attn, x, [joined], **kwargs))


def test_fewer_key_heads_than_query_heads_are_shared_in_groups():
    model = timm.create_model(
        "eva02_base_patch14_224",
        embed_dim=48,
        depth=1,
        num_heads=4,
        img_size=28,
        num_classes=5,
        attn_type="rope",
        num_kv_heads=2,
    )
    attn, x, kwargs, expected = attention_calls(model.eval())[0]
    assert (attn.num_heads, attn.num_kv_heads) == (4, 2)
    torch.testing.assert_close(attend(attn, x, [], **kwargs), expected, **EXACT)
    keys, values = extra(attn, x, 1)
    assert keys.shape == (1, 2, 3, 12)
    y = attend(attn, x, [(keys, values)], **kwargs)
    torch.testing.assert_close(y, softmax_attention(attn, x, keys, values, **kwargs), rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("family", ["vit", "dinov3", "eva02_base"])
def test_query_norms_gates_and_inner_norms_act_as_in_timm(family):
    from timm.layers import AttentionRope
    from timm.models.eva import EvaAttention
    from timm.models.vision_transformer import Attention

    torch.manual_seed(0)
    kind: Any = {"vit": Attention, "dinov3": AttentionRope, "eva02_base": EvaAttention}[family]
    attn = kind(32, 2, qkv_bias=True, qk_norm=True, scale_norm=True, gated=True, norm_layer=nn.LayerNorm).eval()
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(attend(attn, x, []), attn(x), **EXACT)


def test_attention_dropout_is_drawn_in_training_only():
    model = tiny("vit")
    attn: Any = blocks(model)[0].attn
    attn.attn_drop = nn.Dropout(0.5)
    x = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    keys = extra(attn, x, 1)
    assert torch.equal(attend(attn, x, [keys]), attend(attn, x, [keys]))
    attn.train()
    assert not torch.equal(attend(attn, x, [keys]), attend(attn, x, [keys]))
    torch.manual_seed(0)
    y = attend(attn, x, [])
    torch.manual_seed(0)
    torch.testing.assert_close(y, attn(x), **EXACT)


@every_family
def test_the_projections_are_called_so_that_a_lora_on_them_acts_on_extra_tokens(family):
    for block in blocks(tiny(family)):
        layers = {linear for target in "qkv" for linear in linears(block, target)}
        with recorded_calls(layers) as calls:
            for branch in branches(block, "attn"):
                project(branch.layer, torch.ones(1, 2, branch.layer.proj.out_features))
        assert {call[0] for call in calls} == layers


def test_attention_of_another_kind_is_refused_by_name():
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2, attn_layer="diff"
    )
    with pytest.raises(ValueError, match=re.escape("cannot join DiffAttention: wanted plain softmax attention")):
        family_of_attention(model.blocks[0].attn)


@every_family
def test_attention_of_every_family_is_accepted(family):
    check_keys_values(tiny(family))
