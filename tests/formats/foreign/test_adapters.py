"""Files of Convpass, FacT, RepAdapter and adapter_plus, which hold tuned tensors only: golden parity, errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden_file import Golden
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vision_peft as vp

# golden file: (source, what the file does not tell, the method that it must be read as)
GOLDEN: dict[str, tuple[str, dict[str, Any], vp.Method]] = {
    "convpass": ("convpass", {"scale": 0.5}, vp.Convpass(bottleneck=8, scale=0.5)),
    "convpass_attn": ("convpass", {"scale": 0.5}, vp.Convpass(bottleneck=8, scale=0.5, sites=("attn",))),
    "fact_tt": ("fact", {"scale": 0.8}, vp.FacT(rank=4, scale=0.8)),
    "fact_tk": ("fact", {"scale": 0.8}, vp.FacT(rank=4, form="tk", scale=0.8)),
    "repadapter_repattn": ("repadapter", {"scale": 0.5}, vp.RepAdapter(bottleneck=4, scale=0.5, sites=("attn",))),
    "repadapter_repblock": ("repadapter", {"scale": 0.5}, vp.RepAdapter(bottleneck=4, scale=0.5)),
    "adapter_plus": ("adapter_plus", {"position": "post"}, vp.AdapterPlus(bottleneck=4)),
    "adapter_plus_adaptformer": (
        "adapter_plus",
        {"position": "parallel", "scaling": 0.1},
        vp.AdapterPlus(bottleneck=4, position="parallel", scaling=0.1),
    ),
    "adapter_plus_houlsby": (
        "adapter_plus",
        {"position": "houlsby", "scaling": 1.0},
        vp.AdapterPlus(bottleneck=4, position="houlsby", scaling=1.0),
    ),
    "adapter_plus_intermediate": (
        "adapter_plus",
        {"position": "intermediate", "scaling": 1.0},
        vp.AdapterPlus(bottleneck=4, position="intermediate", scaling=1.0),
    ),
    "adapter_plus_pfeiffer": (
        "adapter_plus",
        {"position": "pfeiffer", "scaling": 1.0},
        vp.AdapterPlus(bottleneck=4, position="pfeiffer", scaling=1.0, norm=True),
    ),
    "adapter_plus_pre": (
        "adapter_plus",
        {"position": "pre", "scaling": 1.0},
        vp.AdapterPlus(bottleneck=4, position="pre", scaling=1.0),
    ),
    "adapter_plus_post_learned_nobias": (
        "adapter_plus",
        {"position": "post"},
        vp.AdapterPlus(bottleneck=4, scaling="learned", bias=False),
    ),
    "adapter_plus_lora_qk": ("adapter_plus", {}, vp.LoRA(rank=4, alpha=4, dropout=0.1, targets=("q", "k"))),
    "adapter_plus_lora_qkvo": (
        "adapter_plus",
        {},
        vp.LoRA(rank=4, alpha=4, dropout=0.1, targets=("q", "k", "v", "proj_output")),
    ),
    "adapter_plus_vpt": ("adapter_plus", {}, vp.VPT(tokens=5)),
}


@pytest.fixture
def golden(shared: Path):
    return lambda name: Golden(shared / "golden" / f"{name}.safetensors")


def built(file: Golden, source: str, told: dict[str, Any]) -> VisionTransformer:
    foreign = vp.read_foreign(file.state, source, **told)
    assert foreign.method is not None
    model: Any = vp.attach(file.backbone(), foreign.method)
    vp.load_tuned(model, foreign.tuned)
    return model.eval()


def test_no_golden_file_of_these_sources_is_left_out(shared):
    kinds = ("convpass*", "fact_*", "repadapter_*", "adapter_plus*")
    found = {path.stem for kind in kinds for path in (shared / "golden").glob(kind)}
    assert found == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_the_official_code(name, golden):
    source, told, method = GOLDEN[name]
    file = golden(name)
    assert vp.read_foreign(file.state, source, **told).method == method
    model = built(file, source, told)
    if file.config.get("train_ln"):
        vp.attach(model, vp.NormTuning())
    logits = model(file.input)
    assert (logits - file.logits).abs().max() <= 1e-5
    torch.nn.functional.cross_entropy(logits, file.target).backward()
    theirs = our_names(file.gradients, source, told.get("position"))
    ours = {n: p.grad for n, p in vp.tuned_parameters(model)}
    assert theirs.keys() == ours.keys()
    for key, gradient in ours.items():
        assert gradient is not None
        assert (gradient - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


def our_names(gradients: dict[str, Tensor], source: str, position: str | None) -> dict[str, Tensor]:
    """Official gradients under the names of our parameters, written out independently of vision_peft.formats."""
    found: dict[str, Tensor] = {}
    for name, g in gradients.items():
        prefix, _, last = name.rpartition(".")
        part = "attn" if "adapter_attn" in name else "mlp"
        block = ".".join(name.split(".")[:2])
        if source == "convpass" and "adapter_" in name:
            layer = {"down": "down_proj", "conv": "conv", "up": "up_proj"}[prefix.split("_")[-1]]
            found[f"{block}.convpass.{part}.{layer}.{last}"] = g
        elif source == "repadapter" and "adapter_" in name:
            seat = f"{block}.norm{1 if part == 'attn' else 2}.repadapter"
            if "conv_A" in name:
                found[f"{seat}.down_proj.{last}"] = g[:, :, 0] if last == "weight" else g
            else:
                found[f"{seat}.up_bias" if last == "bias" else f"{seat}.up"] = (
                    g if last == "bias" else torch.stack(g[:, :, 0].chunk(2))
                )
        elif name in ("FacTu.weight", "FacTv.weight", "FacTc", "FacTp"):
            ours = {"FacTu.weight": "U", "FacTv.weight": "V", "FacTc": "cube", "FacTp": "columns"}[name]
            found[f"blocks.0.attn.qkv.fact.{ours}"] = g
        elif "FacTs" in name:
            layer = prefix.removesuffix("_FacTs")
            if layer[-1] in "qkv":
                triple = [gradients[f"{layer[:-1]}{letter}_FacTs.weight"] for letter in "qkv"]
                found[f"{layer[:-1]}qkv.fact_core"] = torch.stack(triple)
            else:
                found[f"{layer}.fact_core"] = torch.stack(g.split(4, dim=1 if layer.endswith("fc2") else 0))
        elif ".prompt" in name:
            found[f"{block}.attn.prompts"] = g
        elif ".attn.adapters." in name:
            letter = name.split(".")[4]
            seat = "proj.lora_output" if letter == "o" else f"qkv.lora.{letter}"
            found[f"{block}.attn.{seat}.{'A' if prefix.endswith('.1') else 'B'}"] = g
        elif ".adapter" in name:
            seat = {"houlsby": "drop_path2.", "intermediate": "drop_path2."}.get(position or "", "")
            seat = "drop_path1." if "adapter_attn" in name else seat
            layer = {"1": "down_proj.", "4": "up_proj.", "norm_a": "norm."}.get(prefix.split(".")[-1], "")
            found[f"{block}.{seat}adapter_plus.{layer}{last}"] = g
        else:
            found[name] = g
    return found


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if name.startswith(("fact", "repadapter", "adapter_plus_lora"))]
)
def test_what_folds_gives_the_official_logits_as_a_plain_model(name, golden):
    source, told, _ = GOLDEN[name]
    file = golden(name)
    model = vp.merge(built(file, source, told))
    plain = file.backbone()
    plain.load_state_dict(model.state_dict(), strict=True)
    assert (plain(file.input) - file.logits).abs().max() <= 1e-5


def test_the_prefix_of_saved_models_is_taken_off(golden):
    state = {f"vit.{name}": tensor for name, tensor in golden("adapter_plus").state.items()}
    assert vp.read_foreign(state, "adapter_plus", position="post").method == vp.AdapterPlus(bottleneck=4)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "vpt" not in name and "lora" not in name])
def test_keys_that_are_left_or_missing_are_named(name, golden):
    source, told, _ = GOLDEN[name]
    state = golden(name).state
    with pytest.raises(ValueError, match="cannot explain extra"):
        vp.read_foreign({**state, "extra": torch.zeros(1)}, source, **told)
    gone = [key for key in state if not key.startswith("head.")][-1]
    with pytest.raises(ValueError, match=r"missing|cannot explain|without gaps|no learned"):
        vp.read_foreign({key: tensor for key, tensor in state.items() if key != gone}, source, **told)


@pytest.mark.parametrize("name", ["convpass", "fact_tt", "repadapter_repblock"])
def test_a_scale_that_the_file_does_not_hold_must_be_given(name, golden):
    with pytest.raises(ValueError, match=r"needs the keyword scale \(s of the task.*for instance scale=0.1"):
        vp.read_foreign(golden(name).state, GOLDEN[name][0])


def test_a_position_and_a_constant_scaling_that_the_file_does_not_hold_must_be_given(golden):
    with pytest.raises(ValueError, match="give position="):
        vp.read_foreign(golden("adapter_plus").state, "adapter_plus")
    with pytest.raises(ValueError, match="give scaling="):
        vp.read_foreign(golden("adapter_plus_pre").state, "adapter_plus", position="pre")
    with pytest.raises(ValueError, match="position must be one of 'post'"):
        vp.read_foreign(golden("adapter_plus").state, "adapter_plus", position="front")


def read_and_load(state: dict, source: str, told: dict, backbone: Any) -> None:
    foreign = vp.read_foreign(state, source, **told)
    assert foreign.method is not None
    vp.load_tuned(vp.attach(backbone, foreign.method), foreign.tuned)


@pytest.mark.parametrize(
    "name",
    [
        "convpass",
        "fact_tt",
        "fact_tk",
        "repadapter_repblock",
        "adapter_plus",
        "adapter_plus_lora_qkvo",
        "adapter_plus_vpt",
    ],
)
def test_tensors_of_other_shapes_are_refused_or_refused_by_the_model_never_a_crash(name, golden):
    source, told, _ = GOLDEN[name]
    file = golden(name)
    for key in [key for key in file.state if not key.startswith("head.")]:
        for shape in [(), (0,), (3,), (7, 5), (0, 0, 0), (1, 2, 3, 4)]:
            with pytest.raises(ValueError, match=r"shape of|has no groups|must be"):
                read_and_load({**file.state, key: torch.zeros(shape)}, source, told, file.backbone())
