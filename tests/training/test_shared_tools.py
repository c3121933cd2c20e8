"""What runs beside training in two processes as in one: evaluation of what is saved, suites, searches."""

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.pair import in_two_processes
from support.tiny_clips import ColourData, clips_config
from support.tiny_run import TINY, tiny_config
from support.tiny_vtab import write_vtab

from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data import DATASETS
from vision_peft.data.datasets.vtab1k import VTAB1k
from vision_peft.results.find_rows import find_rows
from vision_peft.search.optuna_search import search_optuna
from vision_peft.search.trials import tune_and_test
from vision_peft.training import suite
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.suite import list_tasks, train_suite
from vision_peft.training.trained import Trained, train

pytestmark = pytest.mark.filterwarnings("ignore:.*no training image")
TASKS = list(VTAB1k.suite["specialized"])
QUICK = [*TINY, "method=linear"]


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, on photos and on videos, eleven test items each, and a miniature benchmark of four tasks."""
    folder = tmp_path_factory.mktemp("shared")
    for split in ("train", "val"):
        shutil.copytree(photos / split, folder / "photos" / split)
    for name, number in (("red", 4), ("green", 4), ("blue", 3)):
        (folder / "photos" / "test" / name).mkdir(parents=True)
        for index in range(number):
            shutil.copy(photos / "test" / name / f"{index}.png", folder / "photos" / "test" / name)
    write_vtab(folder / "vtab-1k", TASKS)
    with mock.patch.dict(DATASETS, {ColourData.name: ColourData}):
        for config in (images(folder), videos(folder)):
            train(config)
    return folder


def images(folder: Path) -> Config:
    return tiny_config(folder / "photos", folder / "runs", "recipe.epochs=1")


def videos(folder: Path) -> Config:
    views = ["recipe.resize=shortest", "recipe.views=2", "recipe.crops=3"]
    return clips_config(folder / "runs", "recipe.epochs=1", *views)


def benchmark(folder: Path, name: str) -> Config:
    paths = [f"data.root={folder / 'vtab-1k'}", f"output_dir={folder / name}"]
    return compose_config([*QUICK, "data=vtab1k", "data.task=specialized", *paths])


def search(folder: Path, name: str) -> tuple[Config, list[str]]:
    typed = [*QUICK, "data=folder", f"data.root={folder / 'photos'}", f"output_dir={folder / name}"]
    typed += ["grid.recipe.lr=[1e-2,1e30]", "recipe.optimizer=sgd"]
    return compose_config(typed), typed


def everything(rank: int, folder: Path) -> dict[str, Any]:
    """All that is asked of two processes, one after another."""
    warnings.simplefilter("ignore")  # what is printed is looked at
    given: dict[str, Any] = {}
    with mock.patch.dict(DATASETS, {ColourData.name: ColourData}):
        for name, config in (("images", images(folder)), ("videos", videos(folder))):
            given[name] = dataclasses.asdict(evaluate_saved(run_folder(config), []).metrics)

    def failing(config: Config, command: str) -> Trained:
        if config.data.task == "eurosat":  # type: ignore[attr-defined]
            raise FloatingPointError("the loss is nan")
        return train(config, command)

    config = benchmark(folder, "together")
    with mock.patch.object(suite, "train", failing):
        given["failed"] = train_suite(config, list_tasks(config))
    config, typed = search(folder, "grid")
    rows = tune_and_test(config, typed, final=True)
    given["final"] = [(row.lr, row.world_size) for row in rows]
    trials = search_optuna(search(folder, "sampled")[0], number=2)
    given["sampled"] = [trial.values["recipe.lr"] for trial in trials]

    def failing_alone(config: Config, command: str) -> Trained:
        if config.data.task == "eurosat" and rank == 1:  # type: ignore[attr-defined]
            raise OSError("this machine cannot read it")
        return train(config, command)

    config = benchmark(folder, "alone")
    with mock.patch.object(suite, "train", failing_alone), mock.patch.object(suite, "LONGEST_APART_S", 1):
        try:
            train_suite(config, list_tasks(config))
        except (OSError, RuntimeError) as error:
            given["stopped by"] = type(error).__name__
    return given


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return in_two_processes(everything, folder)


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_two_processes_evaluate_eleven_items_with_the_figures_of_one(
    both: list[dict[str, Any]], folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, ColourData.name, ColourData)
    config = {"images": images, "videos": videos}[kind](folder)
    expected = dataclasses.asdict(evaluate_saved(run_folder(config), []).metrics)
    assert expected["images"] == 11
    for process in both:
        found = process["given"][kind]
        assert found.pop("loss") == pytest.approx(expected["loss"], abs=1e-6)
        assert found == {name: value for name, value in expected.items() if name != "loss"}


def test_a_task_that_fails_in_both_processes_does_not_stop_the_others_and_is_told_once(
    both: list[dict[str, Any]], folder: Path
) -> None:
    assert [process["given"]["failed"] for process in both] == [["eurosat"], ["eurosat"]]
    assert {row.task for row in find_rows([folder / "together"])} == {*TASKS} - {"eurosat"}
    assert both[0]["out"].count("[2/4] data.task=eurosat") == 2  # once in each of the two suites
    assert both[0]["err"].count("1 of 4 tasks failed") == 1
    assert "mean of 3 tasks" in both[0]["out"]


def test_the_second_process_says_nothing(both: list[dict[str, Any]]) -> None:
    assert both[1]["out"] == ""
    assert both[1]["err"] == ""


def test_a_process_that_fails_alone_stops_the_suite(both: list[dict[str, Any]], folder: Path) -> None:
    assert both[1]["given"]["stopped by"] == "OSError"
    assert "stopped by" in both[0]["given"]
    assert {row.task for row in find_rows([folder / "alone"])} == {TASKS[0]}


def test_a_search_gives_both_processes_the_same_trials_and_its_command_starts_as_many(
    both: list[dict[str, Any]], folder: Path
) -> None:
    assert both[0]["given"]["final"] == [(0.01, 2)]
    assert both[0]["given"]["sampled"] == both[1]["given"]["sampled"]
    assert len(set(both[0]["given"]["sampled"])) == 2
    assert "  torchrun --nproc_per_node=2 -m vision_peft train " in both[0]["out"]
    (diverged,) = (row for row in find_rows([folder / "grid"]) if row.lr == 1e30)
    assert diverged.status == "diverged"
