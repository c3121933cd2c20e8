"""timm's hf-hub: and local-dir: names, out of a hub's cache and a folder made in the test."""

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from support.tiny_states import NAME, TINY, assert_holds, random_state
from torch import Tensor

import vision_peft as vp
from vision_peft.config.command_line import compose_config

CONFIG: dict[str, Any] = {
    "architecture": NAME,
    "num_classes": 7,
    "model_args": TINY,
    "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.25] * 3, "license": "cc-by-nc-4.0"},
}


def write_model(folder: Path, config: Any, state: dict[str, Tensor]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a hub that cannot be reached, with one model: hf-hub:lab/pathology."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--lab--pathology"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    write_model(snapshot, CONFIG, random_state(num_classes=7, **TINY))
    return snapshot


def test_a_model_of_the_hub_is_created_by_its_name(hub: Path) -> None:
    model: Any = vp.create_backbone("hf-hub:lab/pathology", pretrained=True, num_classes=3, cache_dir=hub.parents[2])
    assert_holds(model, random_state(num_classes=7, **TINY), but=("head.",))
    assert model.num_classes == 3
    assert model.pretrained_cfg["mean"] == [0.5] * 3
    info = vp.save_adapter(vp.attach(model, vp.LoRA(rank=2)), hub / "adapter")
    written = json.loads((info / "adapter.json").read_text())["backbone"]
    assert (written["name"], written["license"]) == ("hf-hub:lab/pathology", "cc-by-nc-4.0")


def test_a_model_in_a_folder_is_created_by_its_name(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG, random_state(num_classes=7, **TINY))
    model = vp.create_backbone(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)
    assert_holds(model, random_state(num_classes=7, **TINY))
    random: Any = vp.create_backbone(f"local-dir:{tmp_path}", num_classes=2)
    assert (random.embed_dim, random.num_classes) == (TINY["embed_dim"], 2)


def test_the_command_line_takes_such_names() -> None:
    config = compose_config(["backbone=timm", "backbone.name=hf-hub:lab/pathology"])
    assert config.backbone.name == "hf-hub:lab/pathology"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ([], r"not a timm model: wanted a timm architecture in its config\.json, got 'None'"),
        ({"architecture": "vit_tiny_patch16_244"}, r"_244' \(did you mean vit_tiny_patch16_224\?\)"),
        ({**CONFIG, "model_args": {"depth": 10**9}}, "the argument depth is 1000000000: wanted a number up to 512"),
        ({**CONFIG, "model_args": {"embed_dim": 10**400}}, "has 401 digits, wanted less than"),
        ({**CONFIG, "model_args": {"embed_dim": 30000, "depth": 500}}, "parameters, wanted at most 10,000,000,000"),
        ({**CONFIG, "model_args": {"embed_dim": "wide"}}, "timm cannot build"),
        ({**CONFIG, "model_args": {"act_layer": "x" * 1000}}, "wanted at most 200 letters"),
        ({**CONFIG, "model_args": {"depths": [512] * 64}}, "wanted 512 blocks at most"),
        ({**CONFIG, "model_args": 3}, "timm cannot build"),
    ],
)
def test_a_hostile_config_is_refused_before_a_model_is_made(config: Any, reason: str, tmp_path: Path) -> None:
    write_model(tmp_path, config, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=reason):
        vp.create_backbone(f"local-dir:{tmp_path}", pretrained=True)


def test_a_config_that_is_long_or_not_json_is_refused(tmp_path: Path) -> None:
    for text, reason in (("[" * 100_000, "is not JSON"), (" " * 2**21, "bytes, wanted at most")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=reason):
            vp.create_backbone(f"local-dir:{tmp_path}")


def test_weights_that_hold_code_are_refused_and_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"x": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin was refused: besides tensors it wants to load"):
        vp.create_backbone(f"local-dir:{tmp_path}", pretrained=True)
    assert not (tmp_path / "marker").exists()


def test_weights_that_ask_for_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"x": torch.zeros(1).expand(10**10)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin claims a tensor of shape \(10000000000,\)"):
        vp.create_backbone(f"local-dir:{tmp_path}", pretrained=True)


def test_damaged_or_other_weights_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG, random_state(num_classes=7, **{**TINY, "depth": 3}))
    with pytest.raises(ValueError, match=r"does not fit(.|\n)*blocks\.2\.norm1"):
        vp.create_backbone(f"local-dir:{tmp_path}", pretrained=True)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="truncated or damaged"):
        vp.create_backbone(f"local-dir:{tmp_path}", pretrained=True)


def test_what_is_not_there_is_said_in_one_line(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*config\.json; wanted a folder with config\.json"):
        vp.create_backbone(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(ConnectionError, match=r"Cannot fetch config\.json of hf-hub:lab/other"):
        vp.create_backbone("hf-hub:lab/other", pretrained=True)
    with pytest.raises(ValueError, match=r"wanted hf-hub:OWNER/NAME"):
        vp.create_backbone("hf-hub:a/b/c", pretrained=True)
    with pytest.raises(ValueError, match="is itself a set of weights"):
        vp.create_backbone("hf-hub:lab/pathology", checkpoint="weights.pth")
