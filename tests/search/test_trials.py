"""Searching a grid: every trial is a row that never saw test, and val chooses."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_run import TINY
from support.tiny_vtab import write_vtab

from vision_peft.config.command_line import compose_config, prepare, with_values
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data.datasets.folder import Folder
from vision_peft.results.find_rows import find_rows
from vision_peft.search import trials as tuning
from vision_peft.search.trials import (
    Trial,
    expand_grid,
    format_trials,
    rank_trials,
    read_grid,
    replace_values,
    run_trial,
    search_grid,
    trial_config,
    tune_and_test,
)
from vision_peft.training.trained import train

pytestmark = pytest.mark.filterwarnings("ignore:.*no training image")
Tiny = Callable[..., Config]
QUICK = ("recipe.epochs=1", "method=linear")


def problems_of(config: Config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        expand_grid(config)
    return caught.value.problems


def test_the_grid_is_every_combination_and_what_is_typed_goes_before_what_is_there(tiny: Tiny) -> None:
    config = tiny(
        "grid={recipe.lr: [1, 2], method.scale: [0.1], recipe.ema: [0.9]}",
        "grid.recipe.lr=[3, 4]",
        "grid.recipe.ema=null",
        "grid.method.bottleneck=[1, 2]",
    )
    assert read_grid(config) == {"recipe.lr": [3, 4], "method.scale": [0.1], "method.bottleneck": [1, 2]}
    assert [tuple(point.values()) for point in expand_grid(config)] == [
        (3, 0.1, 1),
        (3, 0.1, 2),
        (4, 0.1, 1),
        (4, 0.1, 2),
    ]


def test_what_cannot_be_searched_is_refused_all_at_once_before_the_first_trial(tiny: Tiny) -> None:
    found = problems_of(
        tiny("grid.recipe.rl=[1]", "grid.seed=[0, 1]", "grid.data.task=[a]", "grid.recipe.lr=3", "grid.method.scale=[]")
    )
    assert len(found) == 5
    assert "grid.recipe.rl: there is nothing of that name to search (did you mean recipe.lr?)" in found
    assert any("grid.seed" in problem and "chooses keys of backbone, method and recipe" in problem for problem in found)
    assert any("grid.data.task" in problem for problem in found)
    assert "grid.recipe.lr must be a list of values such as [1,10], got 3" in found
    assert problems_of(tiny("grid.recipe.lr=[1,-1]")) == ["recipe.lr must be at least 0, got -1.0"]
    assert "the grid is empty: give grid.recipe.lr=" in problems_of(tiny())[0]


def test_every_trial_is_a_row_that_has_not_seen_test(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(*QUICK, "protocol=val_select_retrain", "grid.recipe.lr=[1e-2,1e-3]")
    trials = search_grid(config, lambda values: f"lr {values['recipe.lr']}")
    rows = find_rows([tmp_path / "runs"])
    assert sorted(row.lr for row in rows) == [1e-3, 1e-2]
    assert {(row.protocol, row.top1, row.n_test) for row in rows} == {("val_select", None, 0)}
    assert all(row.per_class == {} and row.confusion is None for row in rows)
    assert [trial.row.command for trial in trials] == ["lr 0.01", "lr 0.001"]
    assert all(0 <= trial.row.val_top1 <= 100 and trial.val_loss > 0 for trial in trials if trial.row.val_top1)


def test_a_search_works_where_test_cannot_be_read(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    open_splits = Folder.open_splits

    def guarded(self: Folder, problems: list[str] | None = None) -> Any:
        load = open_splits(self, problems)

        def load_but_test(split: str) -> Any:
            assert split != "test"
            return load(split)

        return load_but_test

    monkeypatch.setattr(Folder, "open_splits", guarded)
    config = tiny(*QUICK, "grid.recipe.lr=[1e-2,1e30]", "recipe.optimizer=sgd", "recipe.epochs=2")
    tune_and_test(config, [])
    with pytest.raises(AssertionError):
        tune_and_test(config, [], final=True)


def test_finished_trials_are_found_again_and_the_rest_goes_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(*QUICK, "grid.recipe.lr=[1e-2,1e-3,1e-4]")
    trained: list[float] = []

    def counted(trial: Config, command: str) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(trial.recipe.lr)
        return train(trial, command)

    monkeypatch.setattr(tuning, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        search_grid(config)
    assert trained == [1e-2, 1e-3]
    trained.clear()
    trials = search_grid(config)
    assert trained == [1e-4]
    assert [trial.row.lr for trial in trials] == [1e-2, 1e-3, 1e-4]


def test_a_trial_that_diverges_is_a_row_with_its_reason_and_not_the_end(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("recipe.optimizer=sgd", "grid.recipe.lr=[1e30,1e-3]")
    bad, good = search_grid(config)
    assert good.row.val_top1 is not None
    assert bad.row.val_top1 is None
    assert bad.diverged is not None
    assert "finite" in bad.diverged or "loss on val is" in bad.diverged
    assert bad.diverged.split(":")[0] in format_trials([bad, good]).splitlines()[-1]
    assert rank_trials([bad, good]) == [good, bad]
    of_status = {row.status: row for row in find_rows([tmp_path / "runs"])}
    assert of_status.keys() == {"finished", "diverged"}
    assert of_status["diverged"].reason == bad.diverged
    monkeypatch.setattr(tuning, "train", None)  # both are found again
    assert [trial.diverged for trial in search_grid(config)] == [bad.diverged, None]
    with pytest.raises(ValueError, match="all 1 trials diverged"):
        tune_and_test(tiny("recipe.optimizer=sgd", "grid.recipe.lr=[1e30]"), [])


def test_the_best_has_the_highest_accuracy_then_the_lowest_loss_then_comes_first(tiny: Tiny) -> None:
    row = run_trial(tiny(*QUICK), {}).row

    def trial(name: str, top1: float | None, loss: float | None = 1.0) -> Trial:
        curve = [{"val_top1": 10.0, "val_loss": 0.0}, {"val_top1": top1, "val_loss": loss}]
        return Trial({"name": name}, dataclasses.replace(row, val_top1=top1, curve=curve))

    trials = [trial("a", 50.0, 0.7), trial("b", 60.0, 0.9), trial("c", 60.0, 0.8), trial("d", 60.0, 0.8)]
    trials += [trial("e", 60.0, None), trial("f", 0.0)]
    assert [each.values["name"] for each in rank_trials(trials)] == ["c", "d", "b", "e", "a", "f"]
    assert [line.split() for line in format_trials(trials).splitlines()[:2]] == [
        ["val", "top-1", "%", "val", "loss", "name"],
        ["60.00", "0.8000", "c"],
    ]


def test_the_chosen_setting_is_trained_by_the_protocol_once_a_seed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*QUICK, "protocol=val_select_retrain", "read_test=false"]
    config = tiny(*settings, "grid.recipe.lr=[1e-2,1e-8]")
    rows = tune_and_test(config, [*settings, "recipe.lr=5", "grid.recipe.lr=[1e-2,1e-8]"], final=True, seeds=[3, 4])
    best = rank_trials([run_trial(config, values) for values in expand_grid(config)])[0].values["recipe.lr"]
    assert [(row.seed, row.protocol, row.lr) for row in rows] == [(seed, "val_select_retrain", best) for seed in (3, 4)]
    assert all(row.top1 is not None for row in rows)
    assert len(find_rows([tmp_path / "runs"])) == 4
    told = capsys.readouterr().out
    words = f"{' '.join(QUICK)} protocol=val_select_retrain recipe.lr={best}"
    assert f"\n  vision-peft train -m {words} seed=3,4\n" in told
    assert rows[0].command == f"vision-peft train {words} seed=3"
    assert [row.tried for row in rows] == [{"recipe.lr": [1e-2, 1e-8]}] * 2
    assert "±" in told


def test_each_task_of_a_benchmark_has_a_search_of_its_own(tmp_path: Path) -> None:
    tasks = ["patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"]
    root = write_vtab(tmp_path / "vtab", tasks)
    overrides = [*TINY, *QUICK, "data=vtab1k", f"data.root={root}", f"output_dir={tmp_path / 'runs'}"]
    overrides += ["data.task=specialized", "protocol=val_select", "grid.recipe.lr=[1e-2,1e-3]"]
    rows = tune_and_test(compose_config(overrides), overrides, final=True)
    assert [row.task for row in rows] == tasks
    assert all(f"data.task={row.task}" in row.command and "specialized" not in row.command for row in rows)
    assert len(find_rows([tmp_path / "runs"])) == 2 * len(tasks)  # under val_select a final run goes on with its trial


def test_a_dry_run_tries_the_first_point_and_keeps_nothing(tiny: Tiny, tmp_path: Path) -> None:
    assert tune_and_test(tiny(*QUICK, "dry_run=true", "grid.recipe.lr=[1e-2,1e-3]"), []) == []
    assert not (tmp_path / "runs").exists()


def test_values_are_typed_so_that_hydra_reads_them_back() -> None:
    values = {"recipe.lr": 1e-05, "recipe.ema": None, "recipe.recompute": "block", "method.targets": ["q", "k"]}
    values |= {"data.root": "my photos/a,b", "recipe.schedule": "constant"}
    typed = with_values(["method=lora", "recipe.lr=3", "+recipe.ema=0.5", "data=folder"], values)
    assert typed[:2] == ["method=lora", "data=folder"]
    assert prepare(typed)
    config = compose_config(typed)
    assert (config.recipe.lr, config.recipe.ema, config.recipe.recompute) == (1e-05, None, "block")
    assert config.recipe.schedule == "constant"
    assert config.methods[0].targets == ("q", "k")  # pyright: ignore[reportAttributeAccessIssue]
    assert config.data.root == "my photos/a,b"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_trial_lies_where_the_same_settings_typed_by_hand_lie(tiny: Tiny) -> None:
    config = tiny("grid.recipe.lr=[0.5]", "protocol=val_select_retrain")
    assert run_folder(trial_config(config, {"recipe.lr": 0.5})) == run_folder(tiny("recipe.lr=0.5"))
    assert run_folder(replace_values(config, {"recipe.lr": 0.5}, seed=2)) == run_folder(
        tiny("recipe.lr=0.5", "protocol=val_select_retrain", "seed=2")
    )
