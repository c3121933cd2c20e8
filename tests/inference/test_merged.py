"""A merged model is timm's own again: it loads there and sees the pixels of the training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from support.families import images
from support.tuned_folders import CLASSES, save_tuned
from timm.data import create_transform, resolve_data_config

import vision_peft as vp
from vision_peft.data.transforms.images import eval_transform, select_geometry
from vision_peft.inference.merged import write_merged

SIZES = [(32, 32), (12, 10), (45, 33), (70, 131), (200, 61)]


def load(folder: Path) -> Any:
    return vp.load(folder, device="cpu")


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, {}),
        ({"resize": "squash", "crop_pct": 0.875}, {"img_size": (48, 32), "global_pool": "avg"}),
        ({"resize": "shortest"}, {}),
        ({"resize": "shortest", "crop_pct": 0.875, "interpolation": "bilinear"}, {}),
        ({"interpolation": "nearest-exact"}, {}),
    ],
    ids=str,
)
def test_timm_loads_it_and_sees_the_same_pixels(settings: Any, arguments: Any, tmp_path: Path) -> None:
    adapter = save_tuned(tmp_path / "adapter", settings=settings, head="batchnorm_linear", **arguments)
    tuned = load(adapter)
    inputs = images(tuned)
    wanted = tuned(inputs)
    done = write_merged(load(adapter), tmp_path / "merged", "other.safetensors")
    assert (done.weights, done.notes) == (tmp_path / "merged" / "other.safetensors", [])
    folder: Any = timm.create_model(f"local-dir:{tmp_path / 'merged'}", pretrained=True).eval()
    plain = timm.create_model(done.architecture, **done.arguments, checkpoint_path=done.weights).eval()
    for model in (folder, plain):
        assert (model(inputs) - wanted).abs().max() < 1e-5
    assert list(folder.pretrained_cfg["label_names"]) == CLASSES

    ours = eval_transform(**select_geometry(tuned.adapter_info.input))
    theirs: Any = create_transform(**resolve_data_config({}, model=folder))
    for picture in pictures():
        assert (ours(picture) - theirs(picture)).abs().max() < 1e-5


def test_what_timm_does_otherwise_is_said(tmp_path: Path) -> None:
    adapter = save_tuned(tmp_path / "adapter", settings={"resize": "shortest"}, img_size=(48, 32))
    (note,) = write_merged(load(adapter), tmp_path / "merged").notes
    assert "the long side may differ by one pixel" in note


@pytest.mark.parametrize(
    ("methods", "arguments", "reason"),
    [
        ([vp.VPT(tokens=2)], {}, "cannot merge VPT: VPTAttention is not a constant update"),
        ([], {"num_frames": 4}, "cannot merge a video model"),
        ([], {"head": "mlp-2"}, "cannot merge an MLP head"),
    ],
    ids=["vpt", "clips", "mlp head"],
)
def test_what_cannot_be_merged_is_sent_to_export(methods: Any, arguments: Any, reason: str, tmp_path: Path) -> None:
    adapter = save_tuned(tmp_path / "adapter", *methods, **arguments)
    with pytest.raises(ValueError, match=f"^{reason}.*; vision-peft export writes any method"):
        write_merged(load(adapter), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_it_is_kept_only_where_timm_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(save_tuned(tmp_path / "adapter"))

    def create_other(name: str, **arguments: Any) -> Any:
        made: Any = create(name, **arguments)
        made.head.bias.data += 1
        return made

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_other)
    with pytest.raises(ValueError, match=r"nothing is written: the logits .* differ by 1\.0e\+00"):
        write_merged(model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
