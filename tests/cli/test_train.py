"""`vision-peft train` as a user starts it, from another folder than the checkout."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.forked import run_tool

import vision_peft as vp
from vision_peft.results.find_rows import find_rows
from vision_peft.results.row import read_row

TINY = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.img_size=32"]
TINY += ["backbone.kwargs.depth=2", "backbone.kwargs.embed_dim=24", "recipe.epochs=1", "device=cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(repository: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool("train.py", folder, *arguments)


def test_help_tells_a_newcomer_what_to_type(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for words in (
        *(f"method={name} " for name in vp.METHODS),
        "a bottleneck beside the frozen MLP of every block.",
        "data=digits ",
        "backbone=dinov2_small_pypi ",
        "recipe=default ",
        "recipe.lr=1e-3",
        "+method_2=vpt",
        "dry_run=true",
        "Examples:",
    ):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_is_written(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, *TINY, "method.bottelneck=8")
    assert done.returncode == 2
    assert done.stderr == "error: unknown key method.bottelneck: did you mean method.bottleneck?\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_trains_every_combination_and_the_same_sweep_again_only_reports(
    repository: Path, tmp_path: Path
) -> None:
    sweep = [*TINY, "-m", "seed=1", "method=lora,linear", "+method_2=vpt", "method_2.tokens=2"]
    done = run(repository, tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    rows = find_rows([tmp_path / "runs"])
    assert sorted((row.seed, row.label) for row in rows) == [
        (1, "LoRA-8 + VPT-deep-2"),
        (1, "linear probe + VPT-deep-2"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    words = rows[0].command.split()[2:]
    assert "+method_2=vpt" in words
    again = run(repository, tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout
    assert f"{rows[0].top1:.2f}" in again.stdout


def test_a_run_of_a_sweep_that_fails_loses_no_other(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, *TINY, "-m", "recipe.lr=1e30,1e-3", "recipe.optimizer=sgd", "max_bad_steps=0")
    assert done.returncode == 2
    statuses = {row.lr: row.status for row in find_rows([tmp_path / "runs"])}
    assert statuses == {1e-3: "finished", 1e30: "diverged"}
    assert "error: the loss is " in done.stderr
    *_, told, command = done.stderr.splitlines()
    assert told.startswith("1 of the runs failed; the same sweep runs only the missing ones")
    assert command.startswith(f"  python {repository / 'tools' / 'train.py'} ")
    assert "recipe.lr=1e+30" in command


@pytest.mark.slow
def test_a_run_killed_with_sigkill_resumes_and_ends_with_the_same_adapter(repository: Path, tmp_path: Path) -> None:
    overrides = [*TINY, "recipe.epochs=4", "save_every=3", "recipe.ema=0.9", "method.dropout=0.2"]
    assert run(repository, tmp_path, *overrides, "output_dir=whole").returncode == 0
    words = [sys.executable, str(repository / "tools" / "train.py"), *overrides, "output_dir=killed"]
    process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("killed/**/latest")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("killed/**/result.json"))
    resumed = run(repository, tmp_path, *overrides, "output_dir=killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from update" in resumed.stdout
    (whole,), (killed,) = (list(tmp_path.glob(f"{name}/**/adapter.safetensors")) for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()
    rows = [read_row(path.parents[1] / "result.json") for path in (whole, killed)]
    assert rows[0].curve == rows[1].curve


def test_sigterm_saves_and_ends_with_the_code_that_asks_for_a_requeue(repository: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(repository / "tools" / "train.py"), *TINY, "recipe.epochs=200", "save_every=1"]
    process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/**/latest")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 85
    assert "the same command again resumes there" in out


def test_what_the_data_refuses_is_one_line_too(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, *TINY, "data=folder", "data.root=nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
