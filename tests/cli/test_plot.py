import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROW = {
    **dict.fromkeys(["seed", "views", "world_size", "batch_size", "epochs", "n_train", "n_val", "n_test"], 1),
    **dict.fromkeys(["lr", "weight_decay", "train_seconds"], 0.5),
    **dict.fromkeys(["top5", "val_top1", "step_ms", "images_per_s", "data_wait_share", "peak_memory_mb"]),
    **dict.fromkeys(["task", "num_frames", "flops_forward", "commit"]),
    **dict.fromkeys(["normalisation", "head", "precision", "device", "command"], "any"),
    "backbone": "vit_tiny",
    "dataset": "digits",
    "protocol": "val_select",
    "img_size": 56,
    "versions": {},
    "params_head": 10,
    "params_backbone": 1000,
    "adapter_bytes": 500,
}


def put(folder: Path, name: str, size: int, seed: int, top1: float | None) -> None:
    methods = [{"name": name, "fields": {"bottleneck": size} if size else {}}]
    row = ROW | {"methods": methods, "seed": seed, "top1": top1, "mean_per_class": 50.0}
    row |= {"params_trained": 3 * size, "params_stored": 2 * size}
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(row))


@pytest.fixture
def plot(repository, tmp_path):
    """Run the tool as a user does."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(repository / "tools" / "plot.py"), *arguments]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"} | environment
        options = {"capture_output": True, "encoding": "utf-8", "timeout": 120}
        return subprocess.run(command, cwd=tmp_path, env=environment, **options)

    return run


@pytest.fixture
def plot_here(repository, tmp_path, monkeypatch, capsys):
    """Run the tool in this process, which saves importing torch again: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["plot.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(repository / "tools" / "plot.py"), run_name="__main__")
        return exit_.value.code, *capsys.readouterr()

    return run


def test_the_mean_over_tasks_is_one_panel_of_the_methods_that_have_all(plot_here, tmp_path):
    for task, top1 in (("a", 60.0), ("b", 80.0)):
        put(tmp_path / "runs" / task, "adaptformer", 64, 0, top1)
        row = json.loads((tmp_path / "runs" / task / "result.json").read_text())
        (tmp_path / "runs" / task / "result.json").write_text(json.dumps(row | {"task": task}))
    put(tmp_path / "runs" / "l", "linear", 0, 0, 70.0)
    code, _, complaint = plot_here("runs", "--mean")
    assert code == 2
    assert "not in the mean of 3 tasks, as tasks or seeds are missing: linear probe, AdaptFormer-64" in complaint
    shutil.rmtree(tmp_path / "runs" / "l")
    assert plot_here("runs", "--mean")[0] == 0
    with (tmp_path / "accuracy.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["method"], line["dataset"], line["mean"]) == ("AdaptFormer-64", "mean of 2 tasks", "70.0000")


def test_a_tree_of_runs_becomes_a_table_a_picture_and_a_csv(repository, plot, tmp_path):
    for seed, top1 in ((0, 80.0), (1, 84.0)):
        put(tmp_path / "runs" / f"a{seed}", "adaptformer", 64, seed, top1)
    put(tmp_path / "runs" / "l", "linear", 0, 0, 70.0)
    (tmp_path / "runs" / "open" / "state").mkdir(parents=True)
    (tmp_path / "runs" / "open" / "config.yaml").touch()
    done = plot("runs", "--out", "figures/digits")
    assert done.returncode == 0, done.stderr
    assert f"82.00 ± {8**0.5:.2f}" in done.stdout
    written = [str(Path("figures", f"digits.{kind}")) for kind in ("png", "svg", "pdf", "csv")]
    shown = done.stdout.splitlines()
    assert shown[-4:-1] == ["wrote " + ", ".join(written), "", "next:"]
    assert shown[-1] == f"  python {repository / 'tools' / 'report.py'} runs"
    unfinished, *loading = done.stderr.splitlines()
    assert unfinished == f"{Path('runs', 'open')} has not finished (no result.json yet): left out"
    assert loading == ["loading PyTorch and timm ..."]
    with (tmp_path / "figures" / "digits.csv").open(newline="") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert (lines["AdaptFormer-64"]["mean"], lines["AdaptFormer-64"]["std"]) == ("82.0000", f"{8**0.5:.4f}")
    assert (lines["linear probe"]["mean"], lines["linear probe"]["std"]) == ("70.0000", "")
    assert "AdaptFormer-64" in (tmp_path / "figures" / "digits.svg").read_text()


def test_metric_and_axis_can_be_chosen_and_a_plain_terminal_is_enough(plot, tmp_path):
    put(tmp_path / "a", "adaptformer", 64, 0, 80.0)
    put(tmp_path / "b", "adaptformer", 64, 1, 84.0)
    put(tmp_path / "c", "lora", 8, 0, 82.0)
    options = ("--metric", "mean_per_class", "--x", "stored", "--width", "column", "--significance", "seeds")
    done = plot("a", "b", "c", *options, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "(1 comparison is too few to show any difference)" in done.stdout
    (pair,) = csv.DictReader((tmp_path / "accuracy.pairs.csv").read_text().splitlines())
    assert (pair["a"], pair["b"], pair["n"]) == ("AdaptFormer-64", "LoRA-8", "1")
    text = (tmp_path / "accuracy.svg").read_text()
    assert "mean per-class accuracy (%)" in text
    assert "stored parameters, head excluded" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "no such file or folder: run (did you mean runs?)"),
        (
            ["empty"],
            "no result found: empty does not contain a run; wanted a result.json, a run folder or a folder of runs",
        ),
        (["broken"], f"{Path('broken', 'result.json')} is not valid JSON"),
        (["trial"], "nothing to plot: none of 1 rows has top1"),
        (["runs", "--out", "broken/result.json/x"], "broken/result.json"),
        (["runs", "--out="], "out must be the path of the files without extension, such as accuracy, got nothing"),
        (["runs", "--out=."], "out must be the path of the files without extension, such as accuracy, got ."),
        (["runs", "--out=.."], "such as accuracy, got .."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(plot_here, tmp_path, arguments, message):
    put(tmp_path / "runs" / "a", "adaptformer", 64, 0, 80.0)
    put(tmp_path / "trial", "adaptformer", 64, 0, None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    code, _, errors = plot_here(*arguments)
    assert code == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.glob("*.png"))


def test_a_folder_that_is_there_or_a_slash_at_the_end_names_a_folder(plot_here, tmp_path):
    put(tmp_path / "runs" / "a", "adaptformer", 64, 0, 80.0)
    for folder in ("there", "other"):
        (tmp_path / folder).mkdir()
    for out in ("there", "other/", "new/"):
        code, _, _ = plot_here("runs", f"--out={out}")
        folder = out.rstrip("/")
        assert code == 0
        names = [f"accuracy.{kind}" for kind in ("csv", "pdf", "png", "svg")]
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names
    assert not list(tmp_path.glob("*.png"))


def test_help_shows_commands_to_copy_and_every_option(repository, plot_here):
    code, shown, _ = plot_here("--help")
    assert code == 0
    for word in (
        f"python {repository / 'tools' / 'plot.py'} runs",
        "--out",
        "--metric",
        "--x",
        "--pareto",
        "--width",
        "result.json",
    ):
        assert word in shown


def test_a_wrong_choice_names_the_right_ones(plot_here, tmp_path):
    put(tmp_path / "runs", "adaptformer", 64, 0, 80.0)
    code, _, errors = plot_here("runs", "--metric", "top2")
    assert code == 2
    assert "top1" in errors
    assert "mean_per_class" in errors
