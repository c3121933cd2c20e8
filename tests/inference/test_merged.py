"""A merged model is timm's own again: it loads there and sees the pixels of the training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.families import images
from support.tuned_folders import CLASSES, save_tuned
from timm.data import create_transform, resolve_data_config

import vision_peft as vp
from vision_peft.data.transforms.images import eval_transform, select_geometry
from vision_peft.inference import merged
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


NUMBERS = {"kind": "regression", "mean": [1.0, -2.0, 30_000.0], "std": [1.0, 0.01, 20.0], "unit": "mm", "loss": "l1"}
SETS = {"kind": "multilabel", "thresholds": [0.9, 0.2, 0.5]}


@pytest.mark.parametrize("head", ["linear", "batchnorm_linear"])
def test_numbers_are_in_the_units_of_the_labels(head: str, tmp_path: Path) -> None:
    adapter = save_tuned(tmp_path / "adapter", head=head, task=NUMBERS)
    tuned = load(adapter)
    done = write_merged(load(adapter), tmp_path / "merged")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'merged'}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_data_config({}, model=model))
    items = pictures()
    found = model(torch.stack([transform(item) for item in items])).tolist()
    for own, guesses in zip(found, vp.Predictor(tuned)(items), strict=True):
        assert own == pytest.approx([number for _, number in guesses], rel=1e-5, abs=1e-4)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["task"] == {"kind": "regression", "unit": "mm"}
    (note,) = done.notes
    assert "a task of regression: its outputs are the numbers themselves in mm" in note
    assert done.difference < 1e-4


def test_what_reads_the_outputs_is_in_the_config(tmp_path: Path) -> None:
    done = write_merged(load(save_tuned(tmp_path / "sets", task=SETS)), tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert (config["task"], "temperature" in config, config["label_names"]) == (SETS, False, CLASSES)
    assert "the sigmoid reaches the threshold of that class; config.json has the task" in done.notes[0]
    done = write_merged(load(save_tuned(tmp_path / "classes", temperature=1.5)), tmp_path / "classes_merged")
    config = json.loads((tmp_path / "classes_merged" / "config.json").read_text())
    assert ("task" in config, config["temperature"]) == (False, 1.5)
    assert done.notes[0].startswith("its probabilities are softmax(logits / 1.5); config.json has the temperature")
    features = save_tuned(tmp_path / "features", task={"kind": "embedding", "width": 3})
    done = write_merged(load(features), tmp_path / "features_merged")
    config = json.loads((tmp_path / "features_merged" / "config.json").read_text())
    assert (config["task"], "label_names" in config) == ({"kind": "embedding"}, False)
    assert "features that are compared by cosines" in done.notes[0]


def test_grades_are_refused_and_so_are_numbers_behind_another_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_tuned(tmp_path / "adapter", task={"kind": "ordinal"})
    with pytest.raises(ValueError, match=r"^cannot merge a task of ordinal: .* \(CORN\).*; vision-peft export writes"):
        write_merged(load(adapter), tmp_path / "merged")
    model = load(save_tuned(tmp_path / "numbers", task=NUMBERS))
    monkeypatch.setattr(merged, "merge", lambda model: setattr(model, "head", torch.nn.Sequential(model.head)))
    with pytest.raises(ValueError, match=r"a task of regression into head, a Sequential: .*; vision-peft export"):
        write_merged(model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
