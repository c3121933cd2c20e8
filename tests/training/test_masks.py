"""Trainings of segmentation and depth, from the folder to masks of new images."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.mask_files import halves, write_depths, write_mask, write_set
from support.pair import in_two_processes
from support.tiny_run import tiny_config

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.data.problems import DataProblems
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import join
from vision_peft.inference.export import export_model
from vision_peft.inference.predict_masks import find_mask, write_masks
from vision_peft.inference.predictor import Predictor
from vision_peft.results.row import to_values
from vision_peft.training import train
from vision_peft.training.build import set_transforms
from vision_peft.training.evaluation import create_eval_loader, evaluate

SPLITS = {"train": 8, "val": 3, "test": 11}
HEAD = ("recipe.head=seg_linear", "recipe.lr=0.01")


def config(root: Path, output: Path, *words: str, kind: str = "segmentation", method: str = "lora") -> Config:
    return tiny_config(root, output, f"data={kind}", f"method={method}", *HEAD, *words)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), SPLITS, size=(40, 36))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(config(root, tmp_path_factory.mktemp("runs")))


def count_pixels(row: Any) -> int:
    return sum(map(sum, row.confusion))


def test_a_run_leaves_figures_a_confusion_matrix_and_examples(run):
    row = run.row
    assert (row.task_kind, row.metric, row.status) == ("segmentation", "miou", "finished")
    assert {*row.figures} == {"miou", "pixel_accuracy", "class_accuracy", "boundary_f"}
    assert {*row.per_class} == {"land", "water"}
    assert sum(map(sum, row.confusion)) == 11 * 40 * 36  # at the size of the masks, not of the model
    assert row.head == "seg_linear"
    assert row.val_figure is not None
    with Image.open(run.folder / "examples.png") as image:
        assert image.size == (3 * 120 + 2 * 4, 20 + 6 * 108 + 5 * 4 + 26)  # headings, a legend; small ones are enlarged
    assert "land" in (run.folder / "confusion.csv").read_text()


def test_masks_of_new_images_are_those_of_evaluation(run, root, tmp_path):
    predictor = Predictor(run.folder, device="cpu")
    paths = [str(root / "images" / f"{number:03}.jpg") for number in range(11, 22)]
    assert write_masks(predictor, [*paths, paths[0]], tmp_path / "out", overlays=True).failures == {}
    counts = np.zeros((2, 2), int)
    for path in paths:
        with Image.open(tmp_path / "out" / f"{Path(path).stem}.png") as image:
            assert image.mode == "P"
            assert (image.getpalette() or [])[3:6] == [200, 0, 0]  # as the masks of train have it
            found = np.array(image)
        with Image.open(root / "masks" / f"{Path(path).stem}.png") as image:
            true = np.array(image)
        np.add.at(counts, (true, found), 1)
    assert counts.tolist() == run.row.confusion
    assert (tmp_path / "out" / "overlays" / "011-2.png").is_file()
    assert (tmp_path / "out" / "overlays" / "class-colours.png").is_file()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken = write_masks(predictor, [str(tmp_path / "broken.jpg")], tmp_path / "out", overlays=False)
    ((_, cause),) = broken.failures.items()
    assert "not a known image format" in cause
    with pytest.raises(ValueError, match="answers for every pixel: vision-peft predict --masks"):
        predictor(paths[0])


def give_bands(root: Path, bands: int) -> None:
    """Put TIFFs of `bands` bands of 16 bits in the place of the photographs."""
    for path in sorted((root / "images").glob("*.jpg")):
        with Image.open(path) as image:
            values = np.asarray(image.convert("L")).astype(np.uint16)
        stack = np.stack([values * (band + 1) for band in range(bands)], axis=-1)
        tifffile.imwrite(path.with_suffix(".tif"), stack, photometric="minisblack", planarconfig="contig")
        path.unlink()


@pytest.mark.parametrize("words", [[], ["recipe.window=true", "recipe.resize=none"]], ids=["whole", "windows"])
def test_masks_of_images_with_bands_are_those_of_evaluation(tmp_path, words):
    root = write_set(tmp_path / "set", {"train": 4, "val": 1, "test": 3}, size=(40, 36))
    give_bands(root, 5)
    run = train(config(root, tmp_path / "runs", "data.channels=5", "data.show_bands=[4,0,2]", *words))
    predictor, counts = Predictor(run.folder, device="cpu"), np.zeros((2, 2), int)
    paths = [str(root / "images" / f"{number:03}.tif") for number in range(5, 8)]
    assert write_masks(predictor, paths, tmp_path / "out", overlays=True).failures == {}
    for path in paths:
        with Image.open(tmp_path / "out" / f"{Path(path).stem}.png") as image:
            found = np.array(image)
        with Image.open(root / "masks" / f"{Path(path).stem}.png") as image:
            np.add.at(counts, (np.array(image), found), 1)
    assert counts.tolist() == run.row.confusion
    with Image.open(tmp_path / "out" / "overlays" / "005.png") as image:
        assert image.size == (40, 36)
    with Image.open(run.folder / "examples.png") as image:
        assert image.size == (3 * 120 + 2 * 4, 20 + 3 * 108 + 2 * 4 + 26)
    assert predictor.prepare.bands is not None
    assert predictor.prepare.bands.show == (4, 0, 2)  # as the adapter says
    picture, mask = find_mask(predictor, tifffile.imread(paths[0]))  # an array, as its file
    assert (picture.size, mask.shape) == ((40, 36), (36, 40))


def test_an_export_answers_for_every_pixel(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    model = vp.load(run.folder, device="cpu")
    export_model(model, tmp_path / "model.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    x = torch.randn(3, 3, 32, 32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert found.shape == (3, 2, 32, 32)
    with torch.no_grad():
        wanted = torch.nn.functional.interpolate(model(x), size=(32, 32), mode="bilinear")
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)
    assert not [*tmp_path.glob("*.py")]  # the runner names classes of whole images


def test_depth_is_learned_by_the_same_machinery(tmp_path):
    root = write_depths(tmp_path / "set", {"train": 8, "val": 2, "test": 3}, size=(40, 36))
    words = ("recipe.epochs=6", "recipe.lr=0.01", "recipe.batch_size=4")
    run = train(config(root, tmp_path / "runs", *words, kind="depth", method="linear"))
    row = run.row
    assert (row.metric, row.lower_is_better, row.task_kind) == ("rmse", True, "depth")
    assert row.figures["rmse"] is not None
    assert row.val_figure is not None
    assert row.val_figure == min(entry["val_rmse"] for entry in row.curve)  # the lowest is the best
    assert row.curve[-1]["train_loss"] < row.curve[0]["train_loss"]
    predictor = Predictor(run.folder, device="cpu")
    image, found = find_mask(predictor, str(root / "images" / "010.jpg"))
    assert found.shape == (image.height, image.width) == (36, 40)
    write_masks_to = tmp_path / "out"
    assert write_masks(predictor, [str(root / "images" / "010.jpg")], write_masks_to, overlays=True).failures == {}
    with Image.open(write_masks_to / "010.png") as file:
        assert np.abs(np.array(file) / 1000 - found).max() < 0.001


def test_a_class_that_train_does_not_have_stands_in_the_log(tmp_path):
    root = write_set(tmp_path / "set", {"train": 2, "val": 1, "test": 1})
    for number in range(2):
        write_mask(root / "masks" / f"{number:03}.png", halves(numbers=(0, 0)))
    run = train(config(root, tmp_path / "runs", "recipe.epochs=1"))
    assert (
        "warning: no pixel of the training masks belongs to 1 of 2 classes: water"
        in (run.folder / "log.txt").read_text()
    )


def test_what_is_wrong_with_masks_ends_a_run_before_it_starts(tmp_path):
    root = write_set(tmp_path / "set", {"train": 2, "val": 1, "test": 1})
    write_mask(root / "masks" / "000.png", halves((15, 12)))
    write_mask(root / "masks" / "003.png", halves(numbers=(0, 7)))
    with pytest.raises(DataProblems, match="2 problems") as error:
        train(config(root, tmp_path / "runs"))
    assert "the mask has 15 x 12 pixels" in str(error.value)
    assert "7 (96 pixels) in the mask stand for no class" in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipe.head=linear",), "does not fit a task of segmentation, whose head is one for maps"),
        (("recipe.class_weights=[1,2,3]",), "class_weights must be 2 numbers"),
        (("recipe.mixup=0.5",), "mixup and cutmix mix classes"),
    ],
)
def test_a_recipe_that_does_not_fit_masks_is_refused(root, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        train(config(root, tmp_path, *words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipe.window=true", "recipe.head=linear"), "window needs a head for maps"),
        (("recipe.stride=8",), "it needs window=true"),
        (("recipe.resize=none",), "which only windows can handle"),
        (("recipe.augment=randaugment",), "is not for images with masks"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(root, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        config(root, tmp_path, *words)


def test_a_head_for_maps_is_not_for_classes_of_images(photos, tmp_path):
    with pytest.raises(ValueError, match="does not fit a task of classes"):
        train(tiny_config(photos, tmp_path, "method=lora", *HEAD))


def test_class_weights_go_by_pixels(tmp_path):
    from vision_peft.tasks import learn_task

    root = write_set(tmp_path / "set", {"train": 4, "val": 1, "test": 1})
    for number in range(4):
        mask = np.zeros((12, 16), np.uint8)
        mask[:3, :] = 1
        mask[11, :] = 255
        write_mask(root / "masks" / f"{number:03}.png", mask)
    made = config(root, tmp_path, "recipe.class_weights=balanced")
    train_set = made.data.load("train")
    loss: Any = learn_task(train_set, made.recipe).create_loss(made.recipe, train_set)
    assert loss.weights.tolist() == pytest.approx([11 / (2 * 8), 11 / (2 * 3)])
    logits, masks = torch.randn(2, 2, 3, 4), torch.tensor([[[0, 1], [255, 1]], [[255, 255], [255, 255]]])
    scaled = torch.nn.functional.interpolate(logits, size=(2, 2), mode="bilinear").log_softmax(1)
    weights = loss.weights
    wanted = -(weights[0] * scaled[0, 0, 0, 0] + weights[1] * scaled[0, 1, 0, 1] + weights[1] * scaled[0, 1, 1, 1]) / 3
    assert abs(loss(logits, masks).item() - wanted.item() / 2) < 1e-6  # an image without a class adds 0


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_features_that_are_kept_change_no_figure(root, tmp_path):
    words = ("reuse_dtype=exact",)
    for method in (("method=linear",), ("method=lora", "method.blocks=[1]")):
        rows = []
        for reuse in ("true", "false"):
            made = train(config(root, tmp_path / reuse, f"reuse_features={reuse}", *words, *method))
            assert made.row.reused_features == (reuse == "true")
            rows.append((made.row.figures, made.row.curve, made.row.confusion))
        assert rows[0] == rows[1]


def test_windows_evaluate_an_image_at_its_own_size(root, tmp_path):
    words = ("recipe.window=true", "recipe.resize=none", "recipe.augment=random_crop_flip", "recipe.stride=8")
    run = train(config(root, tmp_path, *words))
    assert run.row.head == "seg_linear window=true stride=8"
    assert count_pixels(run.row) == 11 * 40 * 36
    predictor = Predictor(run.folder, device="cpu")
    _, mask = find_mask(predictor, str(root / "images" / "011.jpg"))
    assert mask.shape == (36, 40)


def figures_of(_: int, folder: Path, run: Path, made: Config) -> Any:
    """Evaluate a run on its test split, in the process that calls it."""
    compute = choose_compute("cpu", "fp32")
    join(compute, 120)
    model = vp.load(run, device="cpu")
    load = made.data.open_splits()
    splits = {"test": load("test")}
    set_transforms(splits, model.adapter_info.input, made.recipe)
    splits["test"].eval_batch_size = 2  # pyright: ignore[reportAttributeAccessIssue]
    from vision_peft.tasks import read_task

    task = read_task(model.adapter_info.task, model.adapter_info.class_names, targets=splits["test"].targets)
    metrics = evaluate(model, create_eval_loader(splits["test"], compute, 0), task, compute)
    return {"figures": dict(metrics.figures), "confusion": metrics.to_row()["confusion"]}


def test_eleven_images_have_the_same_figures_on_one_process_and_on_two(root, run, tmp_path):
    made = config(root, tmp_path)
    one = figures_of(0, tmp_path, run.folder, made)
    first, second = in_two_processes(functools.partial(figures_of, run=run.folder, made=made), tmp_path)
    assert first["given"] == second["given"] == one
    assert one["confusion"] == run.row.confusion


def test_a_stopped_run_goes_on_bit_for_bit(root, tmp_path):
    words = ("recipe.augment=scale_crop_flip", "recipe.epochs=3", "recipe.batch_size=4")
    whole = train(config(root, tmp_path / "whole", *words))
    made = config(root, tmp_path / "parts", *words)
    stopped = dataclasses.replace(made, max_time=1e-6)
    from vision_peft.distributed.stopping import Interrupted

    with pytest.raises(Interrupted):
        train(stopped)
    parts = train(made)
    assert to_values(parts.row)["curve"] == to_values(whole.row)["curve"]  # pyright: ignore[reportOptionalSubscript]
    assert parts.row.confusion == whole.row.confusion
    one, other = (vp.tuned_state_dict(each.model) for each in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
