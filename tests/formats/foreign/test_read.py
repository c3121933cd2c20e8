"""Files of the official AdaptFormer and VPT code: golden parity, containers, hostile files, errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

# golden file: (source, what the file does not tell)
GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "adaptformer_image": ("adaptformer", {}),
    "adaptformer_image_global_pool": ("adaptformer", {}),
    "adaptformer_image_own_norm": ("adaptformer", {}),
    "adaptformer_image_sequential": ("adaptformer", {"form": "sequential"}),
    "adaptformer_image_vpt": ("adaptformer", {}),
    "vpt_deep": ("vpt", {}),
    "vpt_deep_project": ("vpt", {}),
    "vpt_shallow": ("vpt", {}),
}
DEPTH, WIDTH, HEADS, CLASSES = 3, 32, 2, 5


class Golden:
    """One golden file: official state, input, target, logits and gradients of the tuned tensors."""

    def __init__(self, path: Path) -> None:
        with safetensors.safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["config"])
        tensors = safetensors.torch.load_file(path)
        self.state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
        self.gradients = {n.removeprefix("grad/"): t for n, t in tensors.items() if n.startswith("grad/")}
        self.input, self.target, self.logits = tensors["input"], tensors["target"], tensors["logits"]


@pytest.fixture
def golden(shared: Path):
    return lambda name: Golden(shared / "golden" / f"{name}.safetensors")


def test_no_golden_file_of_these_sources_is_left_out(shared):
    found = {path.stem for kind in ("adaptformer_image*", "vpt_*") for path in (shared / "golden").glob(kind)}
    assert found == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_gradients_are_those_of_the_official_code(name, golden):
    source, told = GOLDEN[name]
    file = golden(name)
    scale = {"scale": float(file.config["tuning"]["ffn_adapter_scalar"])} if source == "adaptformer" else {}
    foreign = vp.read_foreign(file.state, source, **scale, **told)
    model = foreign.build(num_heads=HEADS)
    assert (len(blocks(model)), model.embed_dim, model.num_classes) == (DEPTH, WIDTH, CLASSES)
    assert not model.training
    logits = model(file.input)
    assert (logits - file.logits).abs().max() <= 1e-5
    torch.nn.functional.cross_entropy(logits, file.target).backward()
    theirs = our_names(file.gradients, source, told.get("form", "parallel"))
    ours = {n: p.grad for n, p in vp.tuned_parameters(model)}
    assert theirs.keys() == ours.keys()
    for key, gradient in ours.items():
        assert gradient is not None
        assert (gradient - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


def our_names(gradients: dict[str, Tensor], source: str, form: str) -> dict[str, Tensor]:
    """Official gradients under the names of our parameters, written out independently of vision_peft.formats."""
    found: dict[str, Tensor] = {}
    deep = "transformer.deep_prompt_embeddings" in gradients
    for name, g in gradients.items():
        if name.startswith("embeddings."):
            found[f"blocks.{name.split('.')[1]}.attn.prompts"] = g[0]
        elif name == "transformer.prompt_embeddings":
            found["blocks.0.attn.prompts" if deep else "norm_pre.prompts"] = g[0]
        elif name == "transformer.deep_prompt_embeddings":
            found |= {f"blocks.{i + 1}.attn.prompts": row for i, row in enumerate(g)}
        elif name.startswith("transformer.prompt_proj."):
            found[f"blocks.0.attn.prompt_project.{name.split('.')[-1]}"] = g
        else:
            ours = name.replace("adapter_layer_norm_before", "norm")
            found[ours.replace("adaptmlp", "drop_path2.adaptmlp") if form == "sequential" else ours] = g
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_the_method_is_read_off_the_tensors(name, golden):
    source, told = GOLDEN[name]
    file = golden(name)
    foreign = vp.read_foreign(file.state, source, **told)
    if source == "vpt":
        project = {"vpt_deep_project": 12}.get(name)
        assert foreign.method == vp.VPT(tokens=6, deep=name != "vpt_shallow", project=project)
    elif name.endswith("_vpt"):
        assert foreign.method == vp.VPT(tokens=5)
    else:
        norm = "own_norm" if name.endswith("own_norm") else "raw"
        assert foreign.method == vp.AdaptFormer(bottleneck=4, input=norm, form=told.get("form", "parallel"))
    assert foreign.num_classes == CLASSES
    assert foreign.head == ("linear" if source == "vpt" else "batchnorm_linear")


def test_another_scale_is_another_function(golden):
    file = golden("adaptformer_image")
    built = [vp.read_foreign(file.state, "adaptformer", scale=s).build(HEADS)(file.input) for s in (0.1, 4.0)]
    assert (built[0] - built[1]).abs().max() > 1e-3


def test_a_learned_scale_in_the_file_wins(golden):
    state = golden("adaptformer_image").state
    learned = {f"blocks.{i}.adaptmlp.scale": torch.tensor([0.5 + i]) for i in range(DEPTH)}
    model = vp.read_foreign({**state, **learned}, "adaptformer", scale=0.1).build(HEADS)
    assert [model.get_parameter(f"blocks.{i}.adaptmlp.scale").item() for i in range(DEPTH)] == [0.5, 1.5, 2.5]


def test_a_file_without_tuned_tensors_is_a_backbone_with_a_head(golden):
    file = golden("adaptformer_image")
    plain = {name: tensor for name, tensor in file.state.items() if "adaptmlp" not in name}
    foreign = vp.read_foreign(plain, "adaptformer")
    assert foreign.method is None
    assert foreign.build(HEADS)(file.input).shape == file.logits.shape
