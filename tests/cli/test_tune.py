"""`tools/tune.py` as a user starts it, from another folder than the checkout."""

import shlex
import subprocess
from pathlib import Path

import pytest
from support.forked import run_tool
from support.tiny_run import TINY
from support.tiny_vtab import write_vtab

from vision_peft.results.find_rows import find_rows
from vision_peft.runs.run_config import read_config


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Overrides for a miniature task whose test images are no images."""
    task = write_vtab(tmp_path / "vtab", ["pebbles"]) / "pebbles"
    for image in (task / "images" / "test").iterdir():
        image.rename(image.with_suffix(".kept"))
        image.write_text("<html>not found</html>")
    return ["data.root=vtab", "data.task=pebbles"]


def mend(folder: Path) -> None:
    for image in (folder / "vtab" / "pebbles" / "images" / "test").glob("*.kept"):
        image.rename(image.with_suffix(".png"))


def run(repository: Path, folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool(tool, folder, *arguments, PYTHONWARNINGS="ignore")


def test_a_published_grid_is_searched_without_test_and_the_printed_command_reads_it(
    repository: Path, tmp_path: Path, data: list[str]
) -> None:
    train = repository / "tools" / "train.py"
    grid = ["grid.recipe.lr=[0.5,0.05]", "grid.recipe.weight_decay=null"]
    search = ["experiment=vpt_vtab", *TINY, *data, "method.tokens=2", *grid]
    done = run(repository, tmp_path, "tune.py", *search)
    assert done.returncode == 0, done.stderr
    rows = find_rows([tmp_path / "runs"])
    assert len(rows) == 2
    assert {(row.protocol, row.top1, row.label) for row in rows} == {("val_select", None, "VPT-deep-2")}
    assert all(row.command.startswith(f"python {train} experiment=vpt_vtab ") for row in rows)
    (command,) = (line for line in done.stdout.splitlines() if line.startswith(f"  python {train} "))
    assert run(repository, tmp_path, "train.py", *shlex.split(command)[2:]).returncode == 2  # test cannot be decoded
    mend(tmp_path)
    final = run(repository, tmp_path, "train.py", *shlex.split(command)[2:])
    assert final.returncode == 0, final.stderr
    (row,) = (row for row in find_rows([tmp_path / "runs"]) if row.top1 is not None)
    assert row.protocol == "val_select_retrain"
    assert row.command == command.strip()
    (folder,) = (tmp_path / "runs").rglob("val_select_retrain*/")
    assert read_config(folder)["recipe"]["schedule"] == "cosine_by_epoch"


def test_final_trains_the_chosen_setting_with_every_seed(repository: Path, tmp_path: Path, data: list[str]) -> None:
    mend(tmp_path)
    words = [*TINY, "data=vtab1k", *data, "method=linear", "grid.recipe.lr=[1e-2,1e-3]", "--final", "--seeds", "1,2"]
    done = run(repository, tmp_path, "tune.py", *words)
    assert done.returncode == 0, done.stderr
    assert sorted(row.seed for row in find_rows([tmp_path / "runs"]) if row.top1 is not None) == [1, 2]
    assert " -m backbone=timm " in done.stdout
    assert "±" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["grid.method.bottelneck=[8,16]"], "did you mean method.bottleneck?"),
        (["data=folder", "data.root=nowhere", "grid.recipe.lr=[1,2]"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_trial(
    repository: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    done = run(repository, tmp_path, "tune.py", *TINY, *words)
    assert done.returncode == 2
    errors = done.stderr
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert expected in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_shows_what_to_type(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, "tune.py", "--help")
    assert done.returncode == 0
    for words in ("experiment=vpt_vtab", "--final", "--seeds 0,1,2", "--optuna N", "grid.<key>=null"):
        assert words in done.stdout
