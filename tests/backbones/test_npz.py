"""Google's .npz files of a tiny ViT, written here in the layouts of vision_transformer and big_vision."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_states import NAME, TINY, assert_holds, random_state
from torch import Tensor
from torch.nn import functional as F

from vision_peft.backbones import create_backbone

CLASSES, DEPTH, HEADS = 7, TINY["depth"], TINY["num_heads"]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(num_classes=CLASSES, **TINY)


def block_arrays(state: dict[str, Tensor], index: int, big_vision: bool) -> Arrays:
    """One encoder block: kernels are (in, out), heads have an axis of their own."""
    attention, mlp, norm2 = (0, 0, 1) if big_vision else (1, 3, 2)
    block = {key.removeprefix(f"blocks.{index}."): value.numpy() for key, value in state.items()}
    width = block["norm1.weight"].size
    arrays = {}
    for name, norm in (("LayerNorm_0", "norm1"), (f"LayerNorm_{norm2}", "norm2")):
        arrays[f"{name}/scale"], arrays[f"{name}/bias"] = block[f"{norm}.weight"], block[f"{norm}.bias"]
    heads = f"MultiHeadDotProductAttention_{attention}"
    weights, biases = np.split(block["attn.qkv.weight"], 3), np.split(block["attn.qkv.bias"], 3)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        arrays[f"{heads}/{name}/kernel"] = weight.T.reshape(width, HEADS, -1)
        arrays[f"{heads}/{name}/bias"] = bias.reshape(HEADS, -1)
    arrays[f"{heads}/out/kernel"] = block["attn.proj.weight"].T.reshape(HEADS, -1, width)
    arrays[f"{heads}/out/bias"] = block["attn.proj.bias"]
    for number in (0, 1):
        arrays[f"MlpBlock_{mlp}/Dense_{number}/kernel"] = block[f"mlp.fc{number + 1}.weight"].T
        arrays[f"MlpBlock_{mlp}/Dense_{number}/bias"] = block[f"mlp.fc{number + 1}.bias"]
    return arrays


def to_jax(state: dict[str, Tensor], prefix: str = "", stacked: bool = False) -> Arrays:
    """The whole file: ``params/`` is big_vision's prefix, ``stacked`` its newer layout with all blocks in one array."""
    big_vision = prefix.startswith("params/")
    arrays = {
        "cls": state["cls_token"].numpy(),
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0).numpy(),
        "embedding/bias": state["patch_embed.proj.bias"].numpy(),
        "Transformer/encoder_norm/scale": state["norm.weight"].numpy(),
        "Transformer/encoder_norm/bias": state["norm.bias"].numpy(),
        "head/kernel": state["head.weight"].numpy().T,
        "head/bias": state["head.bias"].numpy(),
    }
    arrays["pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"] = state["pos_embed"].numpy()
    blocks = [block_arrays(state, index, big_vision) for index in range(DEPTH)]
    if stacked:
        arrays |= {f"Transformer/encoderblock/{key}": np.stack([block[key] for block in blocks]) for key in blocks[0]}
    else:
        arrays |= {f"Transformer/encoderblock_{i}/{key}": blocks[i][key] for i in range(DEPTH) for key in blocks[i]}
    return {f"{prefix}{key}": array for key, array in arrays.items()}


def load(folder: Path, arrays: Arrays, num_classes: int = CLASSES, **arguments: Any) -> torch.nn.Module:
    contents: dict[str, Any] = arrays
    np.savez(folder / "vit.npz", **contents)
    return create_backbone(NAME, checkpoint=folder / "vit.npz", num_classes=num_classes, **{**TINY, **arguments})


@pytest.mark.parametrize("layout", [("", False), ("opt/target/", False), ("params/", False), ("params/", True)])
def test_every_layout_loads_bit_for_bit(layout: tuple[str, bool], state: dict[str, Tensor], tmp_path: Path) -> None:
    model: Any = load(tmp_path, to_jax(state, *layout))
    assert_holds(model, state)
    assert model.pretrained_cfg["file"] == str(tmp_path / "vit.npz")


def test_the_state_of_the_optimiser_is_passed_over(state: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = to_jax(state, "opt/target/") | {"opt/state/step": np.zeros(1)}
    assert_holds(load(tmp_path, arrays), state)


def test_the_representation_layer_that_timm_leaves_out_is_passed_over(state: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = to_jax(state) | {"pre_logits/kernel": np.zeros((16, 16)), "pre_logits/bias": np.zeros(16)}
    assert_holds(load(tmp_path, arrays), state)


def test_a_head_of_another_size_is_dropped_and_reported(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(tmp_path, to_jax(state), num_classes=3)
    assert_holds(model, {key: value for key, value in state.items() if not key.startswith("head.")})
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    assert "its head of 7 classes is dropped (wanted: 3)" in caplog.text


def test_a_file_without_a_head_gets_a_new_one(state: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = {key: array for key, array in to_jax(state).items() if not key.startswith("head/")}
    model = load(tmp_path, arrays, num_classes=3)
    assert model(torch.zeros(1, 3, 224, 224)).isfinite().all()


def test_positions_are_interpolated_to_another_size(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = load(tmp_path, to_jax(state), img_size=64)
    grid = state["pos_embed"][:, 1:].reshape(1, 14, 14, 16).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(4, 4), mode="bilinear", align_corners=False)  # timm's choice for these files
    wanted = torch.cat([state["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(model.get_parameter("pos_embed").detach(), wanted)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_shallower_model_is_refused(stacked: bool, state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds what the model has no place for: Transformer/encoderblock"):
        load(tmp_path, to_jax(state, "params/", stacked), depth=1)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_deeper_model_is_refused(stacked: bool, state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks an array that the model needs|no place for.*2 blocks"):
        load(tmp_path, to_jax(state, "params/", stacked), depth=3)


def test_parameters_that_the_file_does_not_set_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not hold these parameters.*blocks\.0\.ls1\.gamma"):
        load(tmp_path, to_jax(state), init_values=1e-5)


@pytest.mark.parametrize("name", ["cls", "MAPHead_0/probe", "Transformer/encoderblock_0/Adapter_0/kernel", "other"])
def test_arrays_that_nobody_reads_are_named(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = to_jax(state)
    arrays[name] = arrays.get(name, np.zeros(3))
    without_class_token = {"class_token": False, "global_pool": "avg", "fc_norm": False} if name == "cls" else {}
    with pytest.raises(ValueError, match=f"no place for: {name}"):
        load(tmp_path, arrays, **without_class_token)


def test_another_width_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="damaged or does not fit the model"):
        load(tmp_path, to_jax(state), embed_dim=32)


def test_a_file_of_other_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for: conv1"):
        load(tmp_path, {"conv1": np.zeros(3)})


def test_pickled_objects_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load(tmp_path, to_jax(state) | {"cls": np.array([{"an": "object"}], dtype=object)})


def test_a_family_without_a_reader_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    np.savez(tmp_path / "vit.npz", cls=state["cls_token"].numpy())
    with pytest.raises(ValueError, match=r"no \.npz loader for Eva"):
        create_backbone("eva02_tiny_patch14_224", checkpoint=tmp_path / "vit.npz", **TINY)


def test_what_was_read_of_the_file_is_reported(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    arrays = to_jax(state, "opt/target/")
    extra = {"opt/target/pre_logits/bias": np.zeros(3), "opt/state/step": np.zeros(1)}
    load(tmp_path, arrays | extra, img_size=32)
    assert f"Google's JAX names (ViT, AugReg, big_vision); {len(arrays)} of {len(arrays) + 2} tensors" in caplog.text
    assert "pre_logits (1 tensor): timm's models have no representation layer" in caplog.text
    assert "outside opt/target/ (1 tensor): not the image tower" in caplog.text
    assert "positions: resampled from 14 x 14 to 2 x 2" in caplog.text


def test_average_pooling_starts_a_fresh_fc_norm(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(tmp_path, to_jax(state), global_pool="avg")
    assert_holds(model, state, but=("norm.",))
    assert model.get_parameter("fc_norm.weight").tolist() == [1.0] * 16
    assert model.get_parameter("fc_norm.bias").tolist() == [0.0] * 16
    assert "dropped: Transformer/encoder_norm (2 tensors)" in caplog.text
    assert "fresh: fc_norm" in caplog.text
