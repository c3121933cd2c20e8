"""Files of the official SSF code: golden parity, errors."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import vision_peft as vp

GOLDEN = ("ssf_vit", "ssf_vit_avgpool", "ssf_vit_layerscale")
HEADS, CLASSES = 2, 5
OUR_SITES = {
    "patch_embed.ssf_{}_1": "patch_embed.proj",
    "ssf_{}_1": "norm",
    **{
        f"blocks.{i}.{owner}ssf_{{}}_{number}": f"blocks.{i}.{layer}"
        for i in range(3)
        for owner, layers in {
            "": ("norm1", "norm2"),
            "attn.": ("attn.qkv", "attn.proj"),
            "mlp.": ("mlp.fc1", "mlp.fc2"),
        }.items()
        for number, layer in enumerate(layers, 1)
    },
}


@pytest.fixture
def golden(shared: Path):
    return lambda name: safetensors.torch.load_file(shared / "golden" / f"{name}.safetensors")


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_no_golden_file_is_left_out(shared):
    assert {path.stem for path in (shared / "golden").glob("ssf*")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_the_official_code(name, golden):
    file = golden(name)
    foreign = vp.read_foreign(below(file, "state/"), "ssf")
    method = vp.SSF.as_published() if name == "ssf_vit_avgpool" else vp.SSF()  # elsewhere they are the same
    assert (foreign.method, foreign.num_classes) == (method, CLASSES)
    model = foreign.build(num_heads=HEADS)
    logits = model(file["input"])
    assert (logits - file["logits"]).abs().max() <= 1e-5
    torch.nn.functional.cross_entropy(logits, file["target"]).backward()
    theirs = below(file, "grad/")
    for official, ours in OUR_SITES.items():
        for kind in ("scale", "shift"):
            theirs[f"{ours}.ssf_{kind}"] = theirs.pop(official.format(kind))
    ours = {name: p.grad for name, p in vp.tuned_parameters(model)}
    assert ours.keys() == theirs.keys()
    for key, gradient in ours.items():
        assert gradient is not None
        assert (gradient - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


def test_pooled_files_have_their_last_pair_where_nothing_takes_it(golden):
    model = vp.read_foreign(below(golden("ssf_vit_avgpool"), "state/"), "ssf").build(num_heads=HEADS)
    with pytest.raises(ValueError, match=r'behind an Identity .*last="final_norm" puts it behind the norm'):
        vp.merge(model)


@pytest.mark.parametrize("name", ["ssf_vit", "ssf_vit_layerscale"])
def test_merged_it_is_a_plain_model_with_the_official_logits(name, golden):
    file = golden(name)
    model = vp.merge(vp.read_foreign(below(file, "state/"), "ssf").build(num_heads=HEADS))
    assert not any("ssf_" in name for name in model.state_dict())
    assert (model(file["input"]) - file["logits"]).abs().max() <= 1e-5


def test_a_file_without_pairs_is_a_backbone_with_a_head(golden):
    state = {n: t for n, t in below(golden("ssf_vit"), "state/").items() if "ssf_" not in n}
    foreign = vp.read_foreign(state, "ssf")
    assert foreign.method is None
    assert foreign.build(HEADS)(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)


@pytest.mark.parametrize("key", ["blocks.1.ssf_scale_2", "ssf_shift_1", "patch_embed.ssf_scale_1"])
def test_a_site_without_its_pair_is_an_incomplete_file(key, golden):
    state = below(golden("ssf_vit"), "state/")
    del state[key]
    with pytest.raises(ValueError, match=f"not a complete ssf file: {key} is missing"):
        vp.read_foreign(state, "ssf")


@pytest.mark.parametrize("key", ["blocks.0.mlp.ssf_scale_3", "patch_embed.ssf_scale_2", "layers.0.weight"])
def test_keys_that_nothing_explains_are_an_error_that_names_them(key, golden):
    with pytest.raises(ValueError, match=f"not a SSF file: cannot explain {key}"):
        vp.read_foreign({**below(golden("ssf_vit"), "state/"), key: torch.zeros(1)}, "ssf")
