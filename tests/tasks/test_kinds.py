"""Sets of labels, grades and numbers, from lists of images to figures, adapters and answers."""

import csv
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, cohen_kappa_score, f1_score, r2_score
from support.killed import killed_at
from support.lights import KINDS, words_of, write_lights
from support.pair import in_two_processes
from support.tiny_run import TINY, left_behind

import vision_peft as vp
from vision_peft.cli.main import main
from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.formats.adapter_files import read_adapter_info
from vision_peft.results.row import read_row
from vision_peft.tasks import learn_task, read_task
from vision_peft.training import progress as progress_module
from vision_peft.training.build import load_splits
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.trained import train

PICTURES = {"multilabel": "precision_recall.png", "ordinal": "grades.png", "regression": "predicted.png"}
OPTIONS = ["recipe.optimizer=adamw", "recipe.lr=0.01", "recipe.epochs=2", "method.dropout=0"]


@pytest.fixture(scope="module")
def lights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lights(tmp_path_factory.mktemp("lights"))


def config_of(kind: str, lights: Path, output_dir: Path, *more: str) -> Config:
    return compose_config([*TINY, "method=lora", *words_of(kind, lights), *OPTIONS, f"output_dir={output_dir}", *more])


@pytest.fixture(scope="module", params=KINDS)
def finished(request: pytest.FixtureRequest, lights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A kind and the folder of a finished run."""
    config = config_of(request.param, lights, tmp_path_factory.mktemp("runs"))
    return request.param, train(config).folder


def truths(lights: Path, split: str) -> list[dict[str, str]]:
    return list(csv.DictReader((lights / f"{split}.csv").open()))


def outputs_of(folder: Path, lights: Path, split: str = "test") -> torch.Tensor:
    predict = vp.Predictor(folder, device="cpu", exif_rotation=False)
    return predict.logits([str(lights / row["path"]) for row in truths(lights, split)])


def test_a_run_leaves_the_figures_of_its_task_as_scikit_learn_has_them(finished: Any, lights: Path) -> None:
    kind, folder = finished
    row, logits, rows = read_row(folder / "result.json"), outputs_of(folder, lights).double(), truths(lights, "test")
    info = read_adapter_info(folder / "adapter")
    assert (row.task_kind, row.top1, row.n_test) == (kind, None, 11)
    assert row.metric in row.curve[0] or f"val_{row.metric}" in row.curve[0]
    assert (folder / PICTURES[kind]).read_bytes()[:4] == b"\x89PNG"
    assert not (folder / "confusion.csv").exists()
    assert info.task is not None
    if kind == "multilabel":
        truth = np.array([[name in each["tags"].split(";") for name in ("dark", "odd")] for each in rows])
        scores = logits.sigmoid().float().numpy()
        wanted = np.mean([100 * average_precision_score(truth[:, i], scores[:, i]) for i in range(2)])
        assert row.figures["map"] == pytest.approx(wanted, abs=1e-9)
        named = scores.astype(np.float64) >= np.array(info.task["thresholds"])
        assert row.figures["f1_micro"] == pytest.approx(100 * float(f1_score(truth, named, average="micro")), abs=1e-9)
        assert row.figures["exact_match"] == pytest.approx(100 * (truth == named).all(1).mean(), abs=1e-9)
    if kind == "ordinal":
        truth = np.array([int(each["grade"]) - 1 for each in rows])
        grades = (logits.sigmoid().cumprod(1) > 0.5).sum(1).numpy()
        assert row.figures["accuracy"] == pytest.approx(100 * (truth == grades).mean())
        assert row.figures["mae"] == pytest.approx(np.abs(truth - grades).mean())
        kappa = cohen_kappa_score(truth, grades, labels=range(4), weights="quadratic")
        assert row.figures["kappa"] == pytest.approx(kappa, abs=1e-9)
        assert row.confusion is not None
        assert sum(map(sum, row.confusion)) == 11
    if kind == "regression":
        trained = np.array([[float(each["dose"]), float(each["age"])] for each in truths(lights, "train")])
        assert info.task["mean"] == pytest.approx(trained.mean(0).tolist())
        assert info.task["std"] == pytest.approx(trained.std(0).tolist())
        truth = np.array([[float(each["dose"]), float(each["age"])] for each in rows])
        answers = logits.numpy() * trained.std(0) + trained.mean(0)
        assert row.figures["r2"] == pytest.approx(r2_score(truth, answers), abs=1e-6)
        errors = np.abs(truth - answers).mean(0)
        assert row.figures["mae of dose"] == pytest.approx(errors[0], abs=1e-6)
        assert row.figures["error"] == pytest.approx((errors / trained.std(0)).mean(), abs=1e-6)


def test_evaluate_gives_the_figures_of_the_run(finished: Any) -> None:
    _, folder = finished
    found = evaluate_saved(folder, ["device=cpu", "workers=0"]).metrics
    row = read_row(folder / "result.json")
    assert {name: row.figures[name] for name in found.figures} == dict(found.figures)


def test_data_of_another_kind_is_refused(finished: Any) -> None:
    kind, folder = finished
    given = "data.target=tags" if kind != "multilabel" else "data.target=age"
    with pytest.raises(ValueError, match=rf"the adapter answers a task of {kind}, data=list is one of"):
        evaluate_saved(folder, ["device=cpu", "workers=0", given, "data.task_kind=auto"])


@pytest.mark.parametrize("finished", ["multilabel"], indirect=True)
def test_thresholds_are_those_that_val_chose(lights: Path, finished: Any) -> None:
    _, folder = finished
    scores = outputs_of(folder, lights, "val").double().sigmoid().float().double().numpy()
    truth = np.array([[n in each["tags"].split(";") for n in ("dark", "odd")] for each in truths(lights, "val")])
    info = read_adapter_info(folder / "adapter")
    assert info.task is not None
    for place, threshold in enumerate(info.task["thresholds"]):
        best = max(f1_score(truth[:, place], scores[:, place] >= own) for own in scores[:, place])
        assert f1_score(truth[:, place], scores[:, place] >= threshold) == pytest.approx(best)


def figures_of(_: int, folder: Path, run: Path) -> dict[str, Any]:
    metrics = evaluate_saved(run, ["device=cpu", "workers=0"]).metrics
    return {**metrics.figures, "loss": metrics.loss, "images": metrics.images}


def test_eleven_images_on_two_processes_have_the_figures_of_one(finished: Any, tmp_path: Path) -> None:
    _, run = finished
    one = figures_of(0, tmp_path, run)
    for own in in_two_processes(functools.partial(figures_of, run=run), tmp_path):
        assert own["given"] == one


def test_a_killed_run_resumes_bit_for_bit(
    finished: Any, lights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, folder = finished
    monkeypatch.setattr(progress_module, "SHORTEST_BETWEEN_EPOCHS_SECONDS", 0)
    config = config_of(kind, lights, tmp_path, "save_every=2")
    killed_at((5, 0), config)
    train(config)
    found = run_folder(config)
    assert left_behind(found) == left_behind(folder)
    assert read_row(found / "result.json").figures == read_row(folder / "result.json").figures


def predict(folder: Path, lights: Path, tmp_path: Path, *words: str) -> tuple[list[Any], list[dict[str, str]]]:
    files = [str(lights / f"test{number}.png") for number in range(3)]
    outputs = ["--jsonl", str(tmp_path / "a.jsonl"), "--csv", str(tmp_path / "a.csv"), "--overwrite"]
    assert main(["predict", str(folder), *files, *outputs, "--device", "cpu", *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    return lines, list(csv.DictReader((tmp_path / "a.csv").open()))


def test_predict_answers_by_task(finished: Any, lights: Path, tmp_path: Path) -> None:
    kind, folder = finished
    logits = outputs_of(folder, lights)[:3].double()
    info = read_adapter_info(folder / "adapter")
    task, told = read_task(info.task, info.class_names or []), info.task or {}
    words = [] if kind == "regression" else ["--probabilities"]
    lines, table = predict(folder, lights, tmp_path, *words, "--montage", str(tmp_path / "m.png"))
    (named,) = task.name_answers(logits[:1].float())
    said = vp.Predictor(folder, device="cpu")(str(lights / "test0.png"))
    assert said == [(name, pytest.approx(value, abs=1e-5)) for name, value in named]
    for place, (line, cells) in enumerate(zip(lines, table, strict=True)):
        if kind == "multilabel":
            chances = dict(zip(task.classes, logits[place].sigmoid().float().tolist(), strict=True))
            least = dict(zip(task.classes, told["thresholds"], strict=True))
            wanted = sorted([[n, p] for n, p in chances.items() if p >= least[n]], key=lambda pair: -float(pair[1]))
            assert line["labels"] == [[name, pytest.approx(p)] for name, p in wanted]
            assert cells["labels"] == ";".join(name for name, _ in wanted)
            assert float(cells["p(odd)"]) == pytest.approx(chances["odd"])
            assert line["probabilities"] == pytest.approx(chances)
        if kind == "ordinal":
            above = [1.0, *logits[place].sigmoid().cumprod(0).tolist(), 0.0]
            shares = (-np.diff(above)).tolist()
            grade = sum(each > 0.5 for each in above[1:])
            assert (line["label"], cells["label"]) == (str(grade + 1), str(grade + 1))
            assert line["probability"] == pytest.approx(shares[grade], abs=1e-6)
            expected = sum(share * (number + 1) for number, share in enumerate(shares))
            assert line["expected"] == pytest.approx(expected, abs=1e-6)
            assert float(cells["expected"]) == pytest.approx(expected, abs=1e-6)
            assert len(line["top"]) == 4
        if kind == "regression":
            numbers = logits[place] * torch.tensor(told["std"]) + torch.tensor(told["mean"])
            assert line["values"] == pytest.approx(dict(zip(["dose", "age"], numbers.tolist(), strict=True)), abs=1e-4)
            assert line["unit"] == "mg"
            assert float(cells["age (mg)"]) == pytest.approx(numbers[1].item(), abs=1e-4)


@pytest.mark.parametrize("finished", ["regression"], indirect=True)
def test_numbers_have_no_probabilities_and_said_so(finished: Any, lights: Path, capsys: Any) -> None:
    _, folder = finished
    with pytest.raises(ValueError, match="a task of regression has no probabilities"):
        vp.Predictor(folder, device="cpu").probabilities(str(lights / "test0.png"))
    words = ["--jsonl", "-", "--probabilities"]
    with pytest.raises(SystemExit):
        main(["predict", str(folder), str(lights / "test0.png"), *words, "--device", "cpu"])
    assert "--probabilities is for classes, and this adapter is for regression: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (
            "multilabel",
            ["recipe.loss=corn"],
            "recipe.loss for a task of multilabel must be one of auto, bce, asymmetric",
        ),
        ("multilabel", ["recipe.mixup=0.2"], "mixup and cutmix mix classes: for a task of multilabel give"),
        ("multilabel", ["recipe.class_weights=[1,2,3]"], "must be 2 numbers, one for each class; got 3"),
        ("multilabel", ["recipe.logit_adjustment=1"], "logit_adjustment is for classes: for a task of multilabel"),
        ("multilabel", ["recipe.loss=asymmetric", "recipe.label_smoothing=0.1"], "takes recipe.label_smoothing=0"),
        ("ordinal", ["recipe.label_smoothing=0.1"], "a task of ordinal needs recipe.label_smoothing=0"),
        ("regression", ["recipe.class_weights=balanced"], "class_weights is for classes: for a task of regression"),
        ("regression", ["data.balanced=true"], "data.balanced=true is for classes, grades and sets of labels"),
    ],
)
def test_recipes_that_do_not_fit_a_task_are_refused_before_anything_is_written(
    kind: str, words: list[str], message: str, lights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(config_of(kind, lights, tmp_path, *words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"kind": "multilabel", "thresholds": [0.5]}, "thresholds must be 2 numbers from 0 to 1"),
        ({"kind": "multilabel", "thresholds": [0.5, 2.0]}, "thresholds must be 2 numbers from 0 to 1"),
        ({"kind": "regression", "mean": [0.0, 1.0], "std": [1.0, 0.0]}, "std must be numbers above 0"),
        ({"kind": "regression", "mean": [0.0], "std": [1.0, 1.0]}, "mean must be 2 numbers"),
        ({"kind": "regression", "mean": [0.0, "x"], "std": [1.0, 1.0]}, "mean must be finite numbers"),
        ({"kind": "regression", "mean": [0.0, 1.0], "std": [1.0, 1.0], "unit": "m" * 50}, "at most 40 letters"),
        ({"kind": "ordinal", "mean": [1.0]}, "a task of ordinal has no field mean"),
        ({"kind": "ordinals"}, "did you mean ordinal"),
    ],
)
def test_records_of_adapters_that_make_no_sense_are_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_task(record, ["one", "two"])


@pytest.mark.parametrize("loss", ["asymmetric", "bce"])
def test_weights_of_sets_make_positives_and_negatives_of_a_class_count_alike(lights: Path, loss: str) -> None:
    plain, weighed = (
        config_of("multilabel", lights, lights, f"recipe.loss={loss}", *words)
        for words in ([], ["recipe.class_weights=balanced"])
    )
    train_set = load_splits(plain)["train"]
    task: Any = learn_task(train_set, plain.recipe)
    logits = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(list(train_set.labels))
    truth = task.truth(labels).float()
    weights = torch.where(truth > 0, 24 / (2 * truth.sum(0)), 24 / (2 * (24 - truth.sum(0))))
    if loss == "bce":
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        wanted = (weights * losses).mean().item()
        assert task.create_loss(weighed.recipe, train_set)(logits, labels).item() == pytest.approx(wanted, rel=1e-6)
    assert task.create_loss(weighed.recipe, train_set)(logits, labels) != task.create_loss(plain.recipe, train_set)(
        logits, labels
    )
