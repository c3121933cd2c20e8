"""Files of Mona: golden parity on Swin, errors."""

import json
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from support.families import tiny
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

import vision_peft as vp
from vision_peft.formats.foreign.mona import _SHAPES


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def official_name(ours: str) -> str:
    for theirs, (name, _) in _SHAPES.items():
        for number in "01":
            if ours.endswith(f".mona.{number}.{name}"):
                return ours.replace(f"mona.{number}.{name}", f"my_module_{int(number) + 1}.{theirs}")
    return ours


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_logits_and_gradients_are_those_of_the_official_code(shared, prefix):
    path = shared / "golden" / "mona_swin.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = safetensors.torch.load_file(path)
    model: Any = SwinTransformer(**config["arch"], num_classes=config["num_classes"])
    model.load_state_dict(part(tensors, "base/"), strict=True)
    state = {name if "head" in name else prefix + name: t for name, t in part(tensors, "state/").items()}
    foreign = vp.read_foreign(state, "mona")
    assert foreign.method == vp.Mona(width=config["inner"])
    vp.attach(model, vp.Mona(width=config["inner"]))
    vp.load_tuned(model, foreign.tuned)
    logits = model.eval()(tensors["input"])
    assert (logits - tensors["logits"]).abs().max() <= 1e-5
    features = model.forward_features(tensors["input"]).permute(0, 3, 1, 2)
    assert (features - tensors["features"]).abs().max() <= 1e-5
    logits.square().sum().backward()
    tuned = {official_name(name): p for name, p in vp.tuned_parameters(model)}
    gradients = part(tensors, "grad/")
    assert gradients.keys() <= tuned.keys() == part(tensors, "state/").keys()
    for name, wanted in gradients.items():
        gradient: Any = tuned[name].grad
        assert (gradient - wanted).norm() <= 1e-4 * wanted.norm(), name


def official() -> dict[str, Tensor]:
    sizes = {"D": 6, "h": 4}
    return {
        f"layers.0.blocks.0.my_module_{number}.{theirs}": torch.ones([sizes.get(size, size) for size in shape])  # type: ignore[arg-type]
        for number in (1, 2)
        for theirs, (_, shape) in _SHAPES.items()
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers.0.blocks.0.norm1.weight": torch.ones(6)}, "not a Mona file: cannot explain layers.0.blocks.0.norm1"),
        ({"layers.0.blocks.0.my_module_2.project1.weight": torch.ones(3, 6)}, r"wanted \(4, 6\), got \(3, 6\)"),
        ({"layers.0.blocks.0.my_module_1.norm.weight": torch.ones(5)}, r"wanted \(6\), got \(5,\)"),
        ({"layers.0.blocks.1.my_module_1.gamma": torch.ones(6)}, "blocks.1.my_module_1.norm.weight is missing"),
    ],
)
def test_other_tensors_are_an_error_that_names_them(change, reason):
    assert vp.read_foreign(official(), "mona").method == vp.Mona(width=4)
    with pytest.raises(ValueError, match=reason):
        vp.read_foreign({**official(), **change}, "mona")


def test_a_file_without_an_adapter_is_refused():
    with pytest.raises(ValueError, match=r"not a Mona file: wanted layers\.0\.blocks\.0\.my_module_1"):
        vp.read_foreign(dict(tiny("swin").state_dict()), "mona")
