"""A benchmark by one command: every task as if typed alone, one table, and no task lost through another."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_run import TINY
from support.tiny_vtab import write_vtab

from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data.datasets.vtab1k import CLASS_COUNTS, VTAB1k
from vision_peft.distributed.stopping import Interrupted
from vision_peft.results.find_rows import find_rows
from vision_peft.training import suite
from vision_peft.training.suite import list_tasks, train_suite
from vision_peft.training.trained import train

SPECIALIZED = list(VTAB1k.suite["specialized"])
pytestmark = pytest.mark.filterwarnings("ignore:.*no training image")


@pytest.fixture
def vtab(tmp_path: Path) -> Callable[..., Config]:
    """`vtab("specialized", "seed=1")`: the config of a suite on a miniature of that group."""

    def make(task: str, *overrides: str, on_disk: list[str] = SPECIALIZED) -> Config:
        root = tmp_path / "vtab-1k"
        if not root.exists():
            write_vtab(root, on_disk)
        paths = [f"data.root={root}", f"output_dir={tmp_path / 'runs'}"]
        tiny = [*TINY, "recipe.epochs=1", "method=linear"]
        return compose_config([*tiny, "data=vtab1k", *paths, f"data.task={task}", *overrides])

    return make


def test_a_name_stands_for_the_tasks_of_its_group(vtab: Callable[..., Config]) -> None:
    assert list_tasks(vtab("all")) == list(CLASS_COUNTS)
    assert [len(list_tasks(vtab(group))) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert list_tasks(vtab("eurosat")) == []
    assert list_tasks(compose_config([*TINY, "data=digits"])) == []


def test_missing_tasks_are_one_error_before_anything_is_written(vtab: Callable[..., Config], tmp_path: Path) -> None:
    there = [*SPECIALIZED, "cifar100", "oxford_pet"]
    config = vtab("all", on_disk=there)
    with pytest.raises(
        ValueError, match="lacks 13 of 19 tasks: caltech101, dtd, oxford_flowers102, svhn, sun397, clev"
    ):
        train_suite(config, list_tasks(config))
    assert not (tmp_path / "runs").exists()


def test_all_problems_of_all_tasks_come_at_once(vtab: Callable[..., Config], tmp_path: Path) -> None:
    config = vtab("specialized", on_disk=SPECIALIZED[1:])
    for task in ("eurosat", "resisc45"):
        (tmp_path / "vtab-1k" / task / "images" / "train800" / "000003.png").unlink()
    with pytest.raises(ValueError, match="nothing was started") as caught:
        train_suite(config, list_tasks(config))
    for words in (
        "lacks 1 of 4 tasks: patch_camelyon",
        "eurosat/train800.txt:4: image 'images/train800/000003.png' is missing",
        "resisc45/train800.txt:4: ",
    ):
        assert words in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_every_task_is_the_run_that_its_name_alone_would_have_been(
    vtab: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train(vtab("resisc45"), "typed alone").row
    config = vtab("specialized")
    assert train_suite(config, list_tasks(config), lambda task: f"suite {task}") == []
    rows = {row.task: row for row in find_rows([config.output_dir])}
    assert set(rows) == set(SPECIALIZED)
    assert rows["resisc45"] == alone
    assert rows["eurosat"].command == "suite eurosat"
    assert all((run_folder(vtab(task)) / "result.json").exists() for task in SPECIALIZED)
    shown = capsys.readouterr().out
    assert "is finished" in shown
    mean = sum(row.top1 or 0 for row in rows.values()) / 4
    assert f"top-1 %: specialized (4) {mean:.2f}, mean of 4 tasks {mean:.2f}" in shown
    assert "mean of 19" not in shown

    (Path(config.data.root) / "resisc45" / "test.txt").unlink()  # type: ignore[attr-defined]
    assert train_suite(config, list_tasks(config)) == []  # finished tasks need their data no more
    assert capsys.readouterr().out.count("is finished") == 4


def test_a_failing_task_does_not_stop_the_others(
    vtab: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: Config, command: str) -> Any:
        if config.data.task == "eurosat":  # type: ignore[attr-defined]
            raise FloatingPointError("the loss is nan\nsecond line")
        if config.data.task == "resisc45":  # type: ignore[attr-defined]
            raise RuntimeError
        return train(config, command)

    monkeypatch.setattr(suite, "train", broken)
    config = vtab("specialized")
    assert train_suite(config, list_tasks(config)) == ["eurosat", "resisc45"]
    shown, errors = capsys.readouterr()
    assert len(find_rows([config.output_dir])) == 2
    assert "2 of 4 tasks failed" in errors
    assert "  eurosat: the loss is nan\n  resisc45: RuntimeError\n" in errors
    assert errors.count("Traceback") == 1  # of what no user can fix
    assert "mean of 2 tasks" in shown


def test_a_stop_stops_the_suite(vtab: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def stopped(config: Config, command: str) -> Any:
        started.append(config.data.task)  # type: ignore[attr-defined]
        raise Interrupted(15, 3)

    monkeypatch.setattr(suite, "train", stopped)
    config = vtab("specialized")
    with pytest.raises(Interrupted):
        train_suite(config, list_tasks(config))
    assert started == ["patch_camelyon"]


def test_a_dry_run_tries_every_task_and_keeps_nothing(
    vtab: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = vtab("specialized", "dry_run=true")
    assert train_suite(config, list_tasks(config)) == []
    assert capsys.readouterr().out.count("dry run passed") == 4
    assert not Path(config.output_dir).exists()


def test_the_19_tasks_end_with_both_averages(
    vtab: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(vtab("eurosat"))
    accuracy = {task: 30.0 + 2 * place for place, task in enumerate(CLASS_COUNTS)}

    def known(config: Config, command: str) -> Any:
        task = config.data.task  # type: ignore[attr-defined]
        row = dataclasses.replace(trained.row, task=task, top1=accuracy[task], mean_per_class=None)
        return dataclasses.replace(trained, row=row)

    monkeypatch.setattr(suite, "train", known)
    monkeypatch.setattr(suite, "check_suite", lambda config, tasks: None)
    config = vtab("all")
    assert train_suite(config, list_tasks(config)) == []
    shown = capsys.readouterr().out
    # 30, 32, ..., 66: natural 30..42, specialized 44..50, structured 52..66
    wanted = "natural (7) 36.00, specialized (4) 47.00, structured (8) 59.00"
    assert f"top-1 %: {wanted}, mean of 19 tasks 48.00, mean of 3 groups 47.33" in shown
    assert "mean per class %:" not in shown
    assert all(task in shown for task in CLASS_COUNTS)
