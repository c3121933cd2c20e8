"""Prefix-Tuning and P-Tuning v2: the official codes' keys and values, their attention, and what baking keeps."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from support.families import FAMILIES, images, randomise_tuned, tiny
from support.vit_base import vit_base_without_weights
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.attention import project
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of_attention

L, D = 12, 768
RENAMED = {  # official key -> where it stands here; the flat forms are cut by block below
    "wte.": "embedding.",
    "prefix_encoder.embedding.": "embedding.",
    "control_trans.0.": "hidden.0.",
    "prefix_encoder.trans.0.": "hidden.0.",
}
GOLDEN = {
    "prefix_tuning_mlp": vp.PrefixTuning(tokens=5, hidden=24),
    "prefix_tuning_deep_mlp": vp.PrefixTuning(tokens=5, hidden=24, deep=True),
    "prefix_tuning_direct": vp.PrefixTuning(tokens=5, hidden=None),
    "ptuning_v2_prefix_flat": vp.PTuningV2(tokens=5),
    "ptuning_v2_prefix_projection": vp.PTuningV2(tokens=5, hidden=20),
}


def flat_by_block(flat: Tensor, layers: int, tokens: int) -> dict[str, Tensor]:
    """(P · 2 L D) as the official codes view it -> one tensor (2 P D) a block."""
    parts = flat.reshape(tokens, 2 * layers, -1).permute(1, 0, 2)
    return {f"blocks.{i}.attn.prefix": parts[2 * i : 2 * i + 2] for i in range(layers)}


def ours(official: dict[str, Tensor], layers: int, tokens: int) -> dict[str, Tensor]:
    """Official tensors by our names."""
    (first, *_), found = official.values(), {}
    if len(official) == 1:
        return flat_by_block(first, layers, tokens)
    deep = "control_trans.4.weight" in official
    renamed = {**RENAMED, "control_trans.2.": "hidden.2." if deep else "out.", "control_trans.4.": "out."}
    renamed["prefix_encoder.trans.2."] = "out."
    for name, tensor in official.items():
        ((old, new),) = [(old, new) for old, new in renamed.items() if name.startswith(old)]
        found[f"blocks.0.attn.prefix_mlp.{name.replace(old, new)}"] = tensor
    return found


@pytest.mark.parametrize(("file", "method"), GOLDEN.items(), ids=list(GOLDEN))
def test_keys_values_and_gradients_are_those_of_the_official_code(file: str, method: vp.Method, shared: Path) -> None:
    with safe_open(shared / "golden" / f"{file}.safetensors", "pt") as golden:
        config = json.loads(golden.metadata()["config"])
        tensors = {name: golden.get_tensor(name) for name in golden.keys()}  # noqa: SIM118 (not a dict)
    layers, batch = tensors["output"].shape[0], config["batch"]
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=layers, num_heads=2, num_classes=0
    )
    vp.attach(model, method).eval()
    by_kind = {
        kind: ours({n.removeprefix(f"{kind}/"): t for n, t in tensors.items() if n.startswith(f"{kind}/")}, layers, 5)
        for kind in ("state", "grad")
    }
    vp.load_tuned(model, by_kind["state"])
    made = [block.attn.extra_keys_values(torch.zeros(batch, 1, 32)) for block in model.blocks]
    output = torch.stack([torch.stack([t.expand(batch, -1, -1, -1) for t in pair]) for (pair,) in made])
    torch.testing.assert_close(output, tensors["output"], rtol=1e-5, atol=1e-5)
    (output * tensors["target"]).sum().backward()
    for name, gradient in by_kind["grad"].items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def vit_base() -> Any:
    return vit_base_without_weights(num_classes=100)


def mlp(tokens: int, *hidden: int, embedding: int = D) -> int:
    """Embedding, hidden layers and the layer that makes all keys and values."""
    sizes = [embedding, *hidden, 2 * L * D]
    return tokens * embedding + sum(a * b + b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("method", "trained", "trained_figure", "stored_figure"),
    [
        (vp.PrefixTuning(), mlp(10, 512), 9_857_024, 184_320),
        (vp.PrefixTuning(tokens=50), mlp(50, 512), 9_887_744, 921_600),
        (vp.PrefixTuning(tokens=100), mlp(100, 512), 9_926_144, 1_843_200),
        (vp.PrefixTuning.as_in_paper(), mlp(10, 512, embedding=512), 9_723_392, 184_320),
        (vp.PrefixTuning(deep=True), mlp(10, 512, 512), 10_119_680, 184_320),
        (vp.PrefixTuning(hidden=None), 10 * 2 * L * D, 184_320, 184_320),
        (vp.PTuningV2(), 10 * 2 * L * D, 184_320, 184_320),
        (vp.PTuningV2(tokens=100), 100 * 2 * L * D, 1_843_200, 1_843_200),
        (vp.PTuningV2(hidden=512), mlp(10, 512), 9_857_024, 184_320),
    ],
    ids=repr,
)
def test_more_parameters_train_than_are_stored(vit_base, method, trained, trained_figure, stored_figure):
    try:
        counts = vp.count_parameters(vp.attach(vit_base, method))
    finally:
        vp.detach(vit_base)
    assert trained == trained_figure
    assert stored_figure == method.tokens * 2 * L * D
    assert (counts.trained, counts.stored) == (trained_figure, stored_figure)


@pytest.mark.parametrize("family", ["vit", "beit", "dinov3", "eva02_base", "rope_gqa"])
def test_attention_sees_the_prefix_in_front_unrotated_unnormed_and_without_bias(family):
    model = vp.attach(tiny(family), vp.PTuningV2(tokens=3, dropout=0.0))
    plain = tiny(family)
    seen: list[tuple[Any, Any, Tensor]] = []
    attn: Any = blocks(model)[0].attn
    attn.register_forward_hook(lambda m, args, kwargs, y: seen.append((args[0], kwargs, y)), with_kwargs=True)
    model(images(model))
    ((x, kwargs, output),) = seen

    own: Any = blocks(plain)[0].attn
    heads, head_dim = family_of_attention(own).key_value_heads(own)
    q, k, v = project(own, x)
    if kwargs.get("rope") is not None:
        at, rope = own.num_prefix_tokens, kwargs["rope"]
        q, k = (torch.cat([t[:, :, :at], rotate(own, t[:, :, at:], rope)], 2) for t in (q, k))
    prefix_k, prefix_v = (t.reshape(3, heads, head_dim).transpose(0, 1) for t in attn.prefix)
    k = torch.cat([prefix_k.expand(len(x), -1, -1, -1), k], 2).repeat_interleave(own.num_heads // heads, 1)
    v = torch.cat([prefix_v.expand(len(x), -1, -1, -1), v], 2).repeat_interleave(own.num_heads // heads, 1)
    scores = q @ k.transpose(-2, -1) * own.scale
    if family == "beit":
        scores[..., 3:] += own._get_rel_pos_bias()
    y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    y = y if family == "beit" else own.norm(y)
    torch.testing.assert_close(output, own.proj(y), rtol=1e-4, atol=1e-5)


def rotate(attn: Any, t: Tensor, rope: Tensor) -> Tensor:
    sin, cos = rope.chunk(2, -1)
    if attn.rotate_half:
        a, b = t.chunk(2, -1)
        return t * cos + torch.cat([-b, a], -1) * sin
    return t * cos + torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2) * sin


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [vp.PrefixTuning(tokens=3, hidden=8), vp.PTuningV2(tokens=3, hidden=8)], ids=repr)
def test_baking_keeps_the_outputs_and_leaves_constants(family, method):
    model = vp.attach(tiny(family), method)
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    vp.bake(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    names = [name for name in vp.tuned_state_dict(model) if not name.startswith("head")]
    assert all(name.endswith("attn.prefix") for name in names)
    assert len(names) == len(blocks(model))


@pytest.mark.parametrize("method", [vp.PrefixTuning(tokens=3, dropout=0.5), vp.PTuningV2(tokens=3, dropout=0.5)])
def test_dropout_acts_on_keys_and_values_of_every_image_and_only_in_training(method):
    model = vp.attach(tiny("vit"), method)
    attn: Any = blocks(model)[0].attn
    x = torch.zeros(4, 17, 32)
    ((whole_k, whole_v),) = attn.extra_keys_values(x)
    vp.train_mode(model)
    ((keys, values),) = attn.extra_keys_values(x)
    assert keys.shape == values.shape == (4, 2, 3, 16)
    for drawn, whole in ((keys, whole_k), (values, whole_v)):
        kept = drawn != 0
        assert not torch.equal(kept[0], kept[1])
        torch.testing.assert_close(drawn[kept], (2 * whole).expand_as(drawn)[kept])


def test_prefixes_start_from_the_published_normal_distribution():
    torch.manual_seed(0)
    model = vp.attach(timm.create_model("vit_base_patch16_224", depth=1, num_classes=0), vp.PTuningV2(tokens=50))
    prefix = model.get_parameter("blocks.0.attn.prefix")
    assert abs(prefix.std().item() - 1) < 0.02
    assert abs(prefix.mean().item()) < 0.02
    small = vp.attach(tiny("vit"), vp.PTuningV2(tokens=50, std=0.02)).get_parameter("blocks.0.attn.prefix")
    assert abs(small.std().item() / 0.02 - 1) < 0.1


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        (vp.PrefixTuning, {"tokens": 0}, "tokens must"),
        (vp.PrefixTuning, {"hidden": 0}, "hidden must"),
        (vp.PrefixTuning, {"dropout": 1.0}, "dropout must"),
        (vp.PrefixTuning, {"embedding": 0}, "embedding must"),
        (vp.PrefixTuning, {"hidden": None, "embedding": 8}, "give hidden or no embedding=8"),
        (vp.PrefixTuning, {"hidden": None, "deep": True}, "give hidden or deep=False"),
        (vp.PTuningV2, {"tokens": -1}, "tokens must"),
        (vp.PTuningV2, {"hidden": 0}, "hidden must"),
        (vp.PTuningV2, {"std": 0.0}, "std must"),
    ],
)
def test_impossible_fields_are_refused_by_name(method, fields, message):
    with pytest.raises(ValueError, match=message):
        method(**fields)


def test_presets_differ_in_the_width_of_the_embedding():
    assert vp.PrefixTuning.as_published(tokens=4) == vp.PrefixTuning(tokens=4, hidden=512, embedding=None)
    assert vp.PrefixTuning.as_in_paper(tokens=4) == vp.PrefixTuning(tokens=4, hidden=512, embedding=512)
    assert vp.PrefixTuning.as_in_paper(embedding=800).embedding == 800
    assert vp.PrefixTuning.as_in_paper().baked() == vp.PrefixTuning(hidden=None)


def test_a_narrow_embedding_passes_the_same_mlp():
    torch.manual_seed(0)
    model = vp.attach(tiny("vit"), vp.PrefixTuning(tokens=3, hidden=8, embedding=6))
    state = {n.rpartition("prefix_mlp.")[2]: t for n, t in vp.tuned_state_dict(model).items()}
    assert state["embedding.weight"].shape == (3, 6)
    hidden = torch.tanh(state["embedding.weight"] @ state["hidden.0.weight"].T + state["hidden.0.bias"])
    flat = hidden @ state["out.weight"].T + state["out.bias"]
    vp.bake(model)
    for i in range(2):
        expected = flat.view(3, 4, 32)[:, 2 * i : 2 * i + 2].transpose(0, 1)
        torch.testing.assert_close(model.get_parameter(f"blocks.{i}.attn.prefix").detach(), expected)


def test_two_kinds_of_prefixes_on_one_model_are_refused():
    model = vp.attach(tiny("vit"), vp.PTuningV2())
    with pytest.raises(ValueError, match="already attached"):
        vp.attach(model, vp.PrefixTuning())


@pytest.mark.parametrize("first_is_prefix", [True, False])
def test_prefixes_and_deep_prompts_and_lora_share_one_attention(first_is_prefix):
    methods: list[vp.Method] = [vp.PTuningV2(tokens=2, dropout=0.0), vp.VPT(tokens=3), vp.LoRA(rank=2)]
    model = tiny("vit")
    for method in methods if first_is_prefix else methods[::-1]:
        vp.attach(model, method)
    randomise_tuned(model)
    pairs = blocks(model)[0].attn.extra_keys_values(torch.zeros(2, 17, 32))
    assert sorted(keys.shape[2] for keys, _ in pairs) == [2, 3]
    F.cross_entropy(model(images(model)), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in vp.tuned_parameters(model))
