"""Attentive heads: their equations token by token, counts, what they read of every family, saving, taking off."""

import copy
import math
import pickle
from typing import Any

import pytest
import timm
import torch
from support.block_inputs import snapshot
from support.families import FAMILIES, MORE, OTHERS, images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning.attentive import AttentiveHead, AttentivePool, time_table
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.head_kinds import Attentive, AttentivePooler

FLAT_AND_SWIN = {**FAMILIES, **MORE}
every_family = pytest.mark.parametrize("family", FLAT_AND_SWIN)
EP = ("attentive", {"queries": 4})
RAW = ("attentive", {"queries": 2, "reduce": 2, "norm": False, "tokens": "all"})
POOLER = ("attentive_pooler", {"heads": 2, "depth": 2})
HEADS = {"ep": EP, "ep_raw_all": RAW, "pooler": POOLER}
# Every head on every family; by default one on each, and all on some.
every_case = pytest.mark.parametrize(
    ("family", "kind", "options"),
    [
        pytest.param(family, *head, id=f"{family}-{name}", marks=[] if by_default else [pytest.mark.matrix])
        for place, family in enumerate(FLAT_AND_SWIN)
        for number, (name, head) in enumerate(HEADS.items())
        for by_default in [family in ("vit", "frames") or place % 3 == number]
    ],
)


def with_head(family: str, kind: str, options: dict[str, Any], *methods: vp.Method) -> Any:
    """A tiny model under a random attentive head, in eval mode."""
    model = vp.replace_head(tiny(family), kind, 3, **options)
    for method in methods or (vp.LinearProbe(),):
        vp.attach(model, method)
    randomise_tuned(model)
    return model.eval()


def normed_tokens(model: Any, x: Tensor) -> tuple[Tensor, int]:
    """Tokens (B·T N D) behind the final norm, and how many of them stand ahead of the patches."""
    tokens = model.forward_features(x)
    if tokens.ndim == 4:
        channels_first = tokens.shape[1] == model.num_features and tokens.shape[-1] != model.num_features
        tokens = tokens.flatten(2).transpose(1, 2) if channels_first else tokens.flatten(1, 2)
        return tokens, 0
    norm = getattr(model, "fc_norm", nn.Identity())  # CaiT and XCiT have the norm of all tokens alone
    return norm(tokens), model.num_prefix_tokens


def test_efficient_probing_is_its_equation_written_out():
    torch.manual_seed(0)
    head: Any = AttentiveHead(12, 3, Attentive(queries=2, reduce=2)).eval()
    x = torch.randn(2, 5, 12)
    expected = []
    for tokens in x:
        channels: list[Tensor] = []
        for j, query in enumerate(head.pool.queries):
            scores = torch.stack([query @ token for token in tokens]) / 12**0.5
            weights = scores.exp() / scores.exp().sum()
            values = [head.pool.value.weight @ token for token in tokens]
            mean = torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0)
            channels.append(mean[3 * j : 3 * j + 3])
        pooled = torch.cat(channels) / (1 + 1e-6) ** 0.5  # BatchNorm's statistics are at their start
        expected.append(head.classifier[1].weight @ pooled + head.classifier[1].bias)
    torch.testing.assert_close(head(x), torch.stack(expected), rtol=1e-5, atol=1e-6)


# (kind, width, classes, closed form, figure of the head)
COUNTS = [
    (Attentive(), 768, 1000, 32 * 768 + 768**2 + 769 * 1000, 614_400 + 769_000),
    (Attentive(reduce=2), 768, 1000, 32 * 768 + 768**2 // 2 + 385 * 1000, 319_488 + 385_000),
    (Attentive(queries=64), 768, 1000, 64 * 768 + 768**2 + 769 * 1000, 614_400 + 32 * 768 + 769_000),
    *[
        (
            AttentivePooler(depth=depth, heads=16),
            dim,
            5,
            (depth - 1) * (12 * dim**2 + 13 * dim) + 11 * dim**2 + 13 * dim + (dim + 1) * 5,
            pooler + (dim + 1) * 5,
        )
        for depth, dim, pooler in [
            (1, 768, 6_498_048),
            (4, 768, 27_761_664),
            (1, 1024, 11_547_648),
            (4, 1024, 49_336_320),
            (4, 1408, 93_249_024),
        ]
    ],
]


@pytest.mark.parametrize(("kind", "dim", "classes", "closed_form", "figure"), COUNTS)
def test_counts_of_the_heads(kind, dim, classes, closed_form, figure):
    with torch.device("meta"):
        head = AttentiveHead(dim, classes, kind)
    assert sum(p.numel() for p in head.parameters()) == closed_form == figure


def test_an_attentive_head_counts_as_head_and_nothing_else():
    model = vp.replace_head(timm.create_model("vit_base_patch16_224", depth=1, num_classes=0), "attentive", 1000)
    counts = vp.count_parameters(vp.attach(model, vp.LinearProbe()))
    assert (counts.head, counts.trained, counts.stored) == (1_383_400, 0, 0)


def test_start_values_are_those_of_the_official_code():
    torch.manual_seed(0)
    head: Any = AttentiveHead(256, 1000, Attentive(queries=64))
    assert abs(head.pool.queries.std().item() / 0.02 - 1) < 0.03
    for linear in (head.pool.value, head.classifier[1]):  # torch's own: uniform up to 1/16
        assert abs(linear.weight.std().item() / (1 / 16 / 3**0.5) - 1) < 0.03
    pool: Any = AttentivePool(256, AttentivePooler(depth=3, heads=2))
    plain = [pool.blocks[0].attn.qkv, pool.blocks[1].mlp.fc1, pool.cross_attention_block.xattn.kv]
    assert all(abs(linear.weight.std().item() / 0.02 - 1) < 0.02 for linear in plain)
    scaled = {
        2**0.5: [pool.blocks[0].attn.proj, pool.blocks[0].mlp.fc2],
        2.0: [pool.blocks[1].attn.proj, pool.blocks[1].mlp.fc2, pool.cross_attention_block.mlp.fc2],
    }
    for factor, linears in scaled.items():
        assert all(abs(linear.weight.std().item() * factor / 0.02 - 1) < 0.02 for linear in linears)
    alone: Any = AttentivePool(256, AttentivePooler(heads=2)).cross_attention_block
    assert abs(alone.mlp.fc2.weight.std().item() * 2**0.5 / 0.02 - 1) < 0.02
    assert not any(m.bias.any() for m in pool.modules() if isinstance(m, torch.nn.Linear))


@every_family
def test_the_head_reads_the_patch_tokens_behind_the_final_norm(family):
    model = with_head(family, *EP)
    x = images(model)
    tokens, prefix = normed_tokens(model, x)
    patches = tokens[:, prefix:].reshape(len(x), -1, tokens.shape[-1])
    expected = torch.stack([model.get_submodule(name)(patches) for name in classifier_names(model)]).mean(0)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), patches)


@every_family
def test_without_norm_it_reads_what_the_last_block_made(family):
    model = with_head(family, *RAW)
    last = model.get_submodule(FLAT_AND_SWIN[family].final_norm)
    seen: list[Tensor] = []
    last.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = images(model)
    logits = model(x)
    tokens = seen[0] if family != "swin_v2_cr" else seen[0].flatten(1, -2)
    tokens = (tokens.flatten(1, 2) if tokens.ndim == 4 else tokens).reshape(len(x), -1, tokens.shape[-1])
    names = classifier_names(model)
    assert len(names) == 2 or len(seen) == 1
    expected = torch.stack([model.get_submodule(name)(tokens) for name in names]).mean(0)
    torch.testing.assert_close(logits, expected)


@every_case
def test_gradients_reach_every_tensor_of_head_and_method(family, kind, options):
    model = with_head(family, kind, options, vp.LoRA(rank=2))
    model(images(model)).square().sum().backward()
    trained = dict(vp.tuned_parameters(model))
    assert any("lora" in name for name in trained)
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


@every_case
def test_a_saved_adapter_brings_the_head_back_and_detach_takes_it_off(family, kind, options, tmp_path):
    plain = tiny(family)
    x = images(plain)
    expected, before = plain(x), snapshot(plain)
    vp.attach(vp.replace_head(plain, kind, 3, **options), vp.LoRA(rank=2))
    randomise_tuned(plain)
    vp.save_adapter(plain, tmp_path)
    fresh: Any = tiny(family)
    fresh.reset_classifier(0)
    vp.load_adapter(fresh, tmp_path)
    assert torch.equal(fresh.eval()(x), plain.eval()(x))
    vp.detach(plain)
    assert snapshot(plain) == before
    assert torch.equal(plain(x), expected)


@pytest.mark.parametrize(("family", "kind", "options"), [("vit", *EP), ("frames", *RAW), ("swin", *POOLER)])
def test_copies_and_disabled_models_keep_the_head(family, kind, options):
    model = with_head(family, kind, options, vp.LoRA(rank=2))
    x = images(model)
    tuned = model(x)
    assert torch.equal(copy.deepcopy(model)(x), tuned)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), tuned)
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), tuned)
    plain = vp.replace_head(tiny(family), kind, 3, **options)
    for name in classifier_names(plain):
        plain.get_submodule(name).load_state_dict(model.get_submodule(name).state_dict())
    with vp.disabled(model):
        assert torch.equal(model(x), plain.eval()(x))
    assert not torch.equal(tuned, plain(x))
    assert torch.equal(model(x), tuned)


def test_another_head_takes_the_place_of_an_attentive_one_under_a_method():
    model = with_head("vit", *RAW, vp.LoRA(rank=2))
    x = images(model)
    vp.replace_head(model, "linear", 3)
    randomise_tuned(model, seed=5)
    wanted = vp.attach(vp.replace_head(tiny("vit"), "linear", 3), vp.LoRA(rank=2))
    vp.load_tuned(wanted, vp.tuned_state_dict(model))
    assert torch.equal(model(x), wanted.eval()(x))


def test_methods_on_the_final_norm_act_on_tokens_without_norm_too():
    model = with_head("vit", *RAW, vp.SSF())
    x = images(model)
    before = model(x)
    with torch.no_grad():
        model.norm.ssf_shift += 1
    assert not torch.allclose(model(x), before)


def test_input_prompts_are_no_patches_but_belong_to_all_tokens():
    for tokens, extra in (("patch", 0), ("all", 1 + 3)):
        model = with_head("vit", "attentive", {"queries": 2, "tokens": tokens}, vp.VPT(tokens=3, deep=False))
        x = images(model)
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 16 + extra, 32)


def test_frames_get_sines_of_their_time_and_tell_a_clip_from_its_reverse():
    blind = with_head("frames", "attentive", {"queries": 2})
    seeing = with_head("frames", "attentive", {"queries": 2, "time": "sinusoid"})
    x = images(blind)
    torch.testing.assert_close(blind(x.flip(2)), blind(x))
    assert not torch.allclose(seeing(x.flip(2)), seeing(x), atol=1e-3)
    bare, timed = (m.forward_head(m.forward_features(x), pre_logits=True) for m in (blind, seeing))
    added = (timed - bare).unflatten(1, (4, -1))
    torch.testing.assert_close(
        added, time_table(4, 32)[:, None].expand(2, -1, added.shape[2], -1), atol=1e-5, rtol=1e-5
    )
    assert time_table(3, 4)[2].tolist() == pytest.approx(
        [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)], abs=1e-6
    )


def test_the_mean_over_time_before_the_norm_gives_way_to_the_tokens_of_frames():
    arguments: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model: Any = vp.create_backbone("vit_tiny_patch16_224", num_frames=4, mean_first=True, num_classes=3, **arguments)
    x = torch.randn(2, 3, 4, 16, 16)
    expected = model.eval()(x)
    vp.replace_head(model, "attentive", 3, queries=2)
    tokens = model.forward_head(model.forward_features(x), pre_logits=True)
    assert tokens.shape == (2, 4 * 4, 32)
    assert not torch.allclose(tokens[:, :4], tokens[:, 4:8])
    vp.detach(model)
    assert torch.equal(model(x), expected)


def test_the_class_token_is_no_longer_all_that_the_head_reads():
    clips = tiny("frames")
    vp.attach(vp.replace_head(clips, "attentive", 3, queries=2), vp.STAdapter(width=4))
    assert all("st_adapter" in "".join(name for name, _ in block.named_parameters()) for block in clips.blocks)


def test_merge_refuses_an_attentive_head_and_changes_nothing():
    model = with_head("vit", *EP, vp.LoRA(rank=2))
    x, before = images(model), snapshot(model)
    expected = model(x)
    with pytest.raises(ValueError, match="cannot merge an attentive head, which reads tokens"):
        vp.merge(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_models_without_blocks_give_their_map_as_tokens(name, tmp_path):
    plain = tiny(name)
    x = images(plain)
    expected, before = plain(x), snapshot(plain)
    model: Any = vp.attach(vp.replace_head(plain, "attentive", 3, queries=2), vp.LinearProbe())
    randomise_tuned(model)
    tokens = model.eval().forward_features(x).flatten(2).transpose(1, 2)
    (head,) = (model.get_submodule(name) for name in classifier_names(model))
    torch.testing.assert_close(model(x), head(tokens))
    vp.save_adapter(model, tmp_path)
    fresh: Any = tiny(name)
    fresh.reset_classifier(0)
    assert torch.equal(vp.load_adapter(fresh, tmp_path).eval()(x), model(x))
    vp.detach(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)
