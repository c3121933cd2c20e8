"""A training that ends with a val it was not trained on says how sure its answers may be."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pair import in_two_processes
from support.tiny_clips import CLASSES, CPU, ColourVideos, tiny_video_model
from support.tiny_fixtures import photos, tiny

import vision_peft as vp
from vision_peft.calibration import calibration_error, fit_temperature
from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.data import ImageDataset
from vision_peft.data.datasets.folder import Folder
from vision_peft.data.flat_arrays import IntArray
from vision_peft.distributed.device import Compute, choose_compute
from vision_peft.distributed.processes import join
from vision_peft.formats import read_adapter_info
from vision_peft.tasks.classes import Classes
from vision_peft.training import calibrate
from vision_peft.training.build import input_settings
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.evaluation import collect_video_logits, create_eval_loader
from vision_peft.training.trained import train

__all__ = ["photos", "tiny"]


def logits_of(config: Config, folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    model, data = vp.load(folder, device="cpu"), config.data.load(split)
    data.set_evaluation(input_settings(model, config.recipe))
    with torch.no_grad():
        return model(torch.stack([image for image, _ in data])), torch.tensor(data.labels)


@pytest.fixture
def doubtful(photos: Path, tmp_path: Path, tiny: Callable[..., Config]) -> Callable[..., Config]:
    """As `tiny`, on data with a wrong label in val and in test, so that not all answers can be right."""
    root = shutil.copytree(photos, tmp_path / "doubtful")
    for split in ("val", "test"):
        shutil.copy(root / split / "red" / "0.png", root / split / "green" / "wrong.png")
    return lambda *overrides, **options: tiny(f"data.root={root}", *overrides, **options)


def test_val_gives_the_temperature_and_test_says_what_it_is_worth(doubtful: Callable[..., Config]) -> None:
    config = doubtful("recipe.lr=0.02", "recipe.epochs=3", "protocol=val_select")
    trained = train(config)
    logits, labels = logits_of(config, trained.folder, "val")
    temperature = read_adapter_info(trained.folder / "adapter").temperature
    assert temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-4)
    row = trained.row
    assert temperature is not None
    assert row.temperature == temperature
    logits, labels = logits_of(config, trained.folder, "test")
    assert row.ece_raw == pytest.approx(calibration_error(logits.softmax(1), labels), abs=0.01)
    assert row.ece == pytest.approx(calibration_error((logits / temperature).softmax(1), labels), abs=0.01)
    assert row.ece != row.ece_raw
    log = (trained.folder / "log.txt").read_text()
    assert f"{row.ece_raw:.2f} %, with temperature {temperature:.3g} of val {row.ece:.2f} %" in log
    again = evaluate_saved(trained.folder, ["device=cpu", "workers=0"]).metrics
    assert (again.ece, again.ece_raw) == (row.ece, row.ece_raw)


@pytest.mark.parametrize("protocol", ["val_select_retrain", "last_epoch"])
def test_a_protocol_that_trains_on_val_says_that_nothing_is_left(protocol: str, tiny: Callable[..., Config]) -> None:
    trained = train(tiny("recipe.epochs=1", f"protocol={protocol}"))
    assert read_adapter_info(trained.folder / "adapter").temperature is None
    assert trained.row.temperature is None
    assert trained.row.ece == trained.row.ece_raw
    log = (trained.folder / "log.txt").read_text()
    assert f"not calibrated: {protocol} leaves no val that was not trained on" in log


def test_the_tuned_tensors_are_those_of_a_training_without_calibration(
    doubtful: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["recipe.lr=0.02", "recipe.epochs=2", "protocol=val_select"]
    calibrated = train(doubtful(*settings, folder="a"))
    monkeypatch.setattr("vision_peft.training.trained.calibrate", lambda training, _: training.task)
    plain = train(doubtful(*settings, folder="b"))
    one, other = (json.loads((run.folder / "adapter" / "adapter.json").read_text()) for run in (calibrated, plain))
    assert one.pop("temperature") != other.pop("temperature")
    assert one == other, "the checksum of the tensors among it"
    assert calibrated.row.top1 == plain.row.top1


def find_temperature(model: torch.nn.Module, dataset: ImageDataset, compute: Compute) -> float | None:
    task = Classes(CLASSES)
    return task.fit_on_val(*calibrate.collect_outputs(model, dataset, task, compute, 0)).temperature


def guessed_videos(labels: list[int]) -> ColourVideos:
    """Videos with these labels, one of which cannot be decoded."""
    videos = ColourVideos(len(labels), damaged=(3,))
    videos.video_labels = IntArray(labels)
    videos.set_evaluation(input_settings(tiny_video_model(), Recipe(views=2)))
    return videos


def find_in_share(labels: list[int], _: int, __: Path) -> float | None:
    compute = choose_compute("cpu", "fp32")
    join(compute, 120)
    return find_temperature(tiny_video_model(), guessed_videos(labels), compute)


def answer_videos(number: int) -> tuple[torch.Tensor, list[int]]:
    """Logits of the readable ones of `number` videos, and labels with which most of them are right."""
    videos = guessed_videos([0] * number)
    batches = create_eval_loader(videos, CPU, 0, "wrong")
    numbers, logits, _ = collect_video_logits(tiny_video_model(), batches, CPU)[0].mean_logits()
    labels = dict(zip(numbers, logits.argmax(1).tolist(), strict=True))
    return logits, [(labels.get(video, 0) + (video % 5 == 0)) % 3 for video in range(number)]


def test_two_processes_find_the_same_temperature_as_one(tmp_path: Path) -> None:
    logits, labels = answer_videos(23)
    alone = find_in_share(labels, 0, tmp_path)
    assert alone == pytest.approx(fit_temperature(logits, torch.tensor(labels[:3] + labels[4:])))
    pair = in_two_processes(functools.partial(find_in_share, labels), tmp_path)
    assert [each["given"] for each in pair] == [alone, alone]


def test_of_a_large_val_the_first_images_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = answer_videos(12)
    whole = find_temperature(tiny_video_model(), guessed_videos(labels), CPU)
    monkeypatch.setattr(calibrate, "MOST_LOGITS", 14 * len(CLASSES))  # two views of seven videos, one of them damaged
    found = find_temperature(tiny_video_model(), guessed_videos(labels), CPU)
    assert found == pytest.approx(fit_temperature(logits[:6], torch.tensor(labels[:3] + labels[4:7])))
    assert found != whole


def test_so_are_those_of_a_large_val_of_image_files(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=1, embed_dim=24).eval()
    val = Folder(root=str(photos)).load("val")
    val.set_evaluation(input_settings(model, Recipe()))
    seen = list[int]()
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(calibrate, "MOST_LOGITS", 5 * 3)
    find_temperature(model, val, CPU)
    assert seen == [5]


def test_the_adapter_says_how_deep_greyscale_is_read() -> None:
    model: Any = tiny_video_model()
    for given, recorded in (("full", None), ("image", "image"), ((0, 4095), [0, 4095])):
        settings = input_settings(model, Recipe(), Folder(root="x", value_range=given))
        assert settings.get("value_range") == recorded
