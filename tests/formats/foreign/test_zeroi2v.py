"""Files of the official ZeroI2V code: golden parity before and after merging, what is read, errors."""

import json
import re
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor

import vision_peft as vp

TOLD: dict[str, dict[str, Any]] = {  # golden file: what it does not tell
    "zeroi2v": {"scale": 0.5, "shift_div": 4},
    "zeroi2v_offhead": {"scale": 1.0, "shift_div": 8},
    "zeroi2v_ssv2": {"scale": 1.0, "shift_div": 6, "long_shift_div": 6},
}
SEATS = {
    "T_Adapter_in": "norm1.zero_i2v",
    "S_Adapter": "attn.proj.zero_i2v",
    "MLP_Adapter_out": "mlp.fc2.zero_i2v",
    "MLP_Adapter": "norm2.zero_i2v",
}
LAYERS = {  # that the official tool folds into, by their names here
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


class Golden:
    """One golden file."""

    def __init__(self, path: Any) -> None:
        with safetensors.safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["config"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def part(self, name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t for key, t in self.tensors.items() if key.startswith(f"{name}/")}


@pytest.fixture
def golden(shared):
    return lambda name: Golden(shared / "golden" / f"{name}.safetensors")


def our_name(official: str) -> str:
    name = official.replace("backbone.transformer.resblocks.", "blocks.").replace("cls_head.fc_cls.", "head.")
    name = name.replace("backbone.ln_post", "norm").replace("backbone.temporal_embedding", "norm_pre.temporal_embed")
    for theirs, ours in {**SEATS, "D_fc1": "down_proj", "D_fc2": "up_proj"}.items():
        name = name.replace(f"{theirs}.", f"{ours}.")
    return name


def test_no_golden_file_is_left_out(shared):
    assert {path.stem for path in (shared / "golden").glob("zeroi2v*")} == set(TOLD)


@pytest.mark.parametrize("name", TOLD)
def test_logits_and_gradients_are_those_of_the_official_code(name, golden):
    file = golden(name)
    foreign = vp.read_foreign(file.part("state"), "zeroi2v", **TOLD[name])
    adapters = 2 + file.config["num_tadapter"]
    assert foreign.method == vp.ZeroI2V(**TOLD[name], adapters=adapters, ratio=file.config["adapter_ratio"])
    assert (foreign.num_frames, foreign.num_classes) == (file.config["frames"], file.config["num_classes"])
    model = foreign.build(file.config["arch"]["num_heads"])
    logits = model(file.tensors["input"])
    assert (logits - file.tensors["logits"]).abs().max() <= 1e-5
    logits.square().sum().backward()
    ours = {n: p.grad for n, p in vp.tuned_parameters(model)}
    theirs = {our_name(official): gradient for official, gradient in file.part("grad").items()}
    assert ours.keys() == theirs.keys()
    for key, gradient in ours.items():
        assert gradient is not None
        assert (gradient - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


@pytest.mark.parametrize("name", [name for name in TOLD if "ssv2" not in name])
def test_merged_weights_and_logits_are_those_of_the_official_tool(name, golden):
    file = golden(name)
    model = vp.read_foreign(file.part("state"), "zeroi2v", **TOLD[name]).build(file.config["arch"]["num_heads"])
    x = file.tensors["input"]
    with torch.no_grad():
        vp.merge(model)
        assert (model(x) - file.tensors["logits_merged"]).abs().max() <= 1e-5
    merged = dict(model.state_dict())
    assert file.part("merged")
    for official, tensor in file.part("merged").items():
        key = official.replace("backbone.transformer.resblocks.", "blocks.")
        for theirs, ours in LAYERS.items():
            key = key.replace(theirs, ours)
        assert (merged[key] - tensor).abs().max() <= 1e-5, official


def test_a_merged_official_file_is_read_without_adapters(golden):
    file = golden("zeroi2v")
    model = vp.read_foreign(file.part("state"), "zeroi2v", **TOLD["zeroi2v"]).build(file.config["arch"]["num_heads"])
    ours = vp.merge(model).state_dict()
    state = {name: tensor for name, tensor in file.part("state").items() if "_Adapter" not in name}
    for name in state:
        key = name.replace("backbone.transformer.resblocks.", "blocks.")
        for theirs, own in LAYERS.items():
            key = key.replace(theirs, own)
        if key in ours:
            state[name] = ours[key]
    foreign = vp.read_foreign(state, "zeroi2v", **TOLD["zeroi2v"])
    assert foreign.method == vp.ZeroI2V(scale=0.5, shift_div=4, adapters=0)
    built = foreign.build(file.config["arch"]["num_heads"])
    assert (built(file.tensors["input"]) - file.tensors["logits_merged"]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("zeroi2v", {"scale": 1.0}),
        ("zeroi2v", {"shift_div": 8}),
        ("zeroi2v_ssv2", {"long_shift_div": None}),
        ("zeroi2v_ssv2", {"long_shift_right": False}),
    ],
)
def test_what_the_file_does_not_tell_matters(name, other, golden):
    file = golden(name)
    model = vp.read_foreign(file.part("state"), "zeroi2v", **{**TOLD[name], **other})
    logits = model.build(file.config["arch"]["num_heads"])(file.tensors["input"])
    assert (logits - file.tensors["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("missing", ["scale", "shift_div"])
def test_without_what_the_file_does_not_tell_nothing_is_read(missing, golden):
    told = {key: value for key, value in TOLD["zeroi2v"].items() if key != missing}
    with pytest.raises(ValueError, match=rf"zeroi2v needs the keyword {missing} \("):
        vp.read_foreign(golden("zeroi2v").part("state"), "zeroi2v", **told)


@pytest.mark.parametrize(
    "key",
    [
        "transformer.resblocks.1.S_Adapter.D_fc1.bias",
        "transformer.resblocks.0.T_Adapter_in.D_fc1.weight",
        "ln_post.bias",
    ],
)
def test_a_missing_key_is_named(key, golden):
    state = golden("zeroi2v").part("state")
    del state[f"backbone.{key}"]
    with pytest.raises(ValueError, match=f"not a complete zeroi2v file: .*{re.escape(key)}"):
        vp.read_foreign(state, "zeroi2v", **TOLD["zeroi2v"])


def test_a_strange_key_is_refused_by_name(golden):
    state = {**golden("zeroi2v").part("state"), "backbone.transformer.resblocks.0.X_Adapter.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"not a ZeroI2V file: cannot explain .*X_Adapter"):
        vp.read_foreign(state, "zeroi2v", **TOLD["zeroi2v"])


def test_adapters_alone_are_read_for_a_backbone_of_your_own(golden):
    state = golden("zeroi2v").part("state")
    tuned = {n: t for n, t in state.items() if re.search("_Adapter|ln_post|temporal_emb|fc_cls", n)}
    foreign = vp.read_foreign(tuned, "zeroi2v", **TOLD["zeroi2v"])
    assert foreign.backbone is None
    assert foreign.tuned.keys() == vp.read_foreign(state, "zeroi2v", **TOLD["zeroi2v"]).tuned.keys()
