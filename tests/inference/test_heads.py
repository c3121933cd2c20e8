"""Heads that read tokens and heads of neighbours are exported, answer in a bank, and leave features to whoever asks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.banks import worst_difference
from support.families import attach, randomise_tuned, tiny
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.formats import read_adapter_info
from vision_peft.inference.export import export_model
from vision_peft.inference.pixels import draw_noise

HEADS: dict[str, str] = {
    "ep": "attentive queries=4",
    "raw": "attentive norm=false tokens=all queries=2",
    "pooler": "attentive_pooler heads=2 depth=2",
}


def with_head(head: str, classes: int, *methods: vp.Method) -> Any:
    model = vp.replace_head(tiny("vit"), head, classes)
    for method in methods:
        attach(model, method)
    randomise_tuned(model)
    return model.eval()


def keep_neighbours(method: vp.Method, folder: Path) -> Any:
    """A tiny model that answers by its neighbours, loaded from its adapter."""
    settings = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    vp.save_adapter(attach(tiny("vit"), method), folder, input_config=settings)
    fresh: Any = tiny("vit")
    fresh.reset_classifier(0)
    fresh.adapter_info = read_adapter_info(folder)
    return vp.load_adapter(fresh, folder).eval()


@pytest.mark.parametrize(
    ("head", "method", "name"),
    [
        ("ep", vp.LoRA(rank=2), "onnx"),
        ("pooler", vp.LinearProbe(), "torch_export"),
        ("raw", vp.VPT(tokens=2), "torchscript"),
        (None, vp.KNN(k=3), "torch_export"),
    ],
    ids=["ep onnx", "pooler torch_export", "raw torchscript", "knn torch_export"],
)
def test_they_are_exported(head: str | None, method: vp.Method, name: str, tmp_path: Path) -> None:
    if name == "onnx":
        pytest.importorskip("onnx", reason="needs onnx, of the extra test")
        pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra test")
    if head is None:
        loaded = keep_neighbours(method, tmp_path / "adapter")
    else:
        loaded = vp.load(save_tuned(tmp_path / "adapter", method, head=HEADS[head]), device="cpu")
    assert export_model(loaded, tmp_path / "file", name).difference < 1e-4


def test_a_bank_answers_with_every_kind_of_head_in_one_batch(tmp_path: Path) -> None:
    tuned = {name: with_head(head, 3 + place, vp.LoRA(rank=2)) for place, (name, head) in enumerate(HEADS.items())}
    tuned["knn"] = attach(tiny("vit"), vp.KNN(k=2)).eval()
    tuned["linear"] = with_head("linear", 6, vp.AdaptFormer(bottleneck=4))
    backbone: Any = tiny("vit")
    backbone.reset_classifier(0)
    bank = vp.Bank(backbone)
    for name, model in tuned.items():
        bank.add(name, vp.save_adapter(model, tmp_path / name))
    assert worst_difference(bank, tuned, [*tuned, *reversed(tuned)]) < 1e-5


@pytest.mark.parametrize("head", HEADS)
def test_the_predictor_gives_one_row_of_features_that_the_classifier_reads(head: str, tmp_path: Path) -> None:
    predict = vp.Predictor(save_tuned(tmp_path / "adapter", vp.LoRA(rank=2), head=HEADS[head]), device="cpu")
    pictures = [image.movedim(0, -1).numpy() for image in draw_noise(predict.model, 3)]
    features = predict.features(pictures)
    assert features.shape == (3, 16)
    torch.testing.assert_close(predict.model.head.classifier(features), predict.logits(pictures), rtol=1e-4, atol=1e-5)
