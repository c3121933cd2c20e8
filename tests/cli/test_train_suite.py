"""`tools/train.py data.task=<group>` as a user starts it."""

import subprocess
from pathlib import Path

import pytest
from support.forked import run_tool
from support.tiny_run import TINY
from support.tiny_vtab import write_vtab

from vision_peft.data.datasets.vtab1k import VTAB1k
from vision_peft.results.find_rows import find_rows

SPECIALIZED = list(VTAB1k.suite["specialized"])


@pytest.fixture
def run(repository: Path, tmp_path: Path):
    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        tiny = [*TINY, "recipe.epochs=1", "data=vtab1k", "data.root=vtab-1k"]
        return run_tool("train.py", tmp_path, *tiny, *arguments, PYTHONWARNINGS="ignore")

    return start


@pytest.mark.slow
def test_a_sweep_runs_the_suite_for_each_method_and_one_broken_task_loses_no_other(run, tmp_path: Path) -> None:
    write_vtab(tmp_path / "vtab-1k", SPECIALIZED)
    for image in (tmp_path / "vtab-1k" / "resisc45" / "images" / "train800").iterdir():
        image.write_text("<html>not found</html>")
    done = run("-m", "method=linear,lora", "data.task=specialized")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("1 of 4 tasks failed") == 2
    assert done.stdout.count("[4/4] data.task=diabetic_retinopathy") == 2
    assert done.stdout.count("mean of 3 tasks") == 4
    rows = find_rows([tmp_path / "runs"])
    finished = [task for task in SPECIALIZED if task != "resisc45"]
    assert sorted((row.method, row.task) for row in rows) == sorted(
        (method, task) for method in ("linear", "lora") for task in finished
    )
    (row,) = [row for row in rows if (row.method, row.task) == ("lora", "eurosat")]
    again = run(*row.command.split()[2:])
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout


def test_tasks_by_name_run_with_m_and_cfg_shows_the_group(run, tmp_path: Path) -> None:
    write_vtab(tmp_path / "vtab-1k", ["eurosat", "gravel"])
    done = run("-m", "method=linear", "data.task=eurosat,gravel")
    assert done.returncode == 0, done.stderr
    assert {row.task for row in find_rows([tmp_path / "runs"])} == {"eurosat", "gravel"}
    missing = run("method=linear", "data.task=specialized")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: data.root=vtab-1k lacks 3 of 4 tasks: patch_camelyon, resisc45, diab")
    shown = run("method=linear", "data.task=all", "--cfg", "job")
    assert shown.returncode == 0
    assert "  task: all\n" in shown.stdout
