"""`tools/evaluate.py` gives the figures that training reported."""

import json
import subprocess
from pathlib import Path

import pytest
from support.forked import run_tool

from vision_peft.config.errors import ConfigError
from vision_peft.data.datasets.digits import Digits
from vision_peft.results.row import read_row
from vision_peft.training.evaluate_saved import evaluate_saved

TINY = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.img_size=32"]
TINY += ["backbone.kwargs.depth=2", "backbone.kwargs.embed_dim=24", "recipe.epochs=1", "device=cpu"]


def run(repository: Path, folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool(tool, folder, *arguments)


def test_evaluating_a_run_gives_the_same_figures_and_mistakes_are_one_line(repository: Path, tmp_path: Path) -> None:
    trained = run(repository, tmp_path, "train.py", *TINY)
    assert trained.returncode == 0, trained.stderr
    (result,) = tmp_path.glob("runs/**/result.json")
    done = run(repository, tmp_path, "evaluate.py", str(result.parent), "--json", "figures.json")
    assert done.returncode == 0, done.stderr
    row, figures = read_row(result), json.loads((tmp_path / "figures.json").read_text())
    assert figures == {name: getattr(row, name) for name in figures}
    names = {"top1", "top5", "n_bad", "n_non_finite", "mean_per_class", "ece", "ece_raw", "per_class", "confusion"}
    names.add("correct")
    assert set(figures) == names
    assert f"digits test: top-1 {row.top1:.2f} %" in done.stdout

    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "other.yaml").write_text("name: digits\nseed: 1\n")
    again = evaluate_saved(result.parent, ["data=other", "device=cpu", "split=val"], tmp_path / "mine")
    assert again.data == Digits(seed=1)
    with pytest.raises(ConfigError, match=r"data=other: no such config.*; there are .*cifar100"):
        evaluate_saved(result.parent, ["data=other"])
    with pytest.raises(ConfigError, match="--config-dir=nowhere is not a folder"):
        evaluate_saved(result.parent, ["data=other"], "nowhere")

    wrong = run(repository, tmp_path, "evaluate.py", str(result.parent), "splt=val")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown key splt (did you mean split?)")
    assert len(wrong.stderr.splitlines()) == 1
