"""Runs that differ in more than their seed, as a user trains and compares them on the command line."""

import csv
import re
from pathlib import Path

from support.forked import run_tool
from support.tiny_run import TINY


def test_settings_stay_apart_and_a_diverged_seed_is_counted_in_table_picture_and_csv(
    photos: Path, tmp_path: Path
) -> None:
    words = [*TINY, "data=folder", f"data.root={photos}", "method=lora", "recipe.epochs=1"]
    done = run_tool("train.py", tmp_path, "-m", *words, "seed=0,1", "recipe.augment=none,flip", "recipe.mixup=0,0.8")
    assert done.returncode == 0, done.stderr
    done = run_tool(
        "train.py", tmp_path, *words, "seed=2", "recipe.mixup=0.8", "recipe.optimizer=sgd", "recipe.lr=1e30"
    )
    assert done.returncode == 2
    (status,) = tmp_path.glob("runs/**/status.json")

    done = run_tool("report.py", tmp_path, "runs", "--out", "table.md", COLUMNS="500")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == f"{status.parent.relative_to(tmp_path)} has not finished (diverged): left out"
    text = (tmp_path / "table.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    assert sorted(", ".join(sorted(line[1].split(", "))) for line in table[2:]) == [
        "",
        "augment=flip",
        "augment=flip, mixup=0.8",
        "mixup=0.8",
    ]
    assert {(line[0], line[2]) for line in table[2:]} == {("LoRA-8", "2")}
    (note,) = [line for line in text.splitlines() if "diverged" in line]
    assert note.startswith("* LoRA-8 (")
    assert "mixup=0.8" in note
    assert "optimizer=sgd" in note
    assert "): 1 of 1 seed diverged at update " in note

    done = run_tool("plot.py", tmp_path, "runs", "--out", "picture")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "picture.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(line["n_seeds"] for line in lines) == ["0", "2", "2", "2", "2"]
    assert "1 of 1 seed diverged at update" in next(line["not_finished"] for line in lines if line["n_seeds"] == "0")
    picture = (tmp_path / "picture.svg").read_text()
    for label in ("LoRA-8", "LoRA-8 (augment=flip)", "LoRA-8 (mixup=0.8)"):
        assert f">{label}</text>" in picture
    assert re.search(r">LoRA-8 \((mixup=0.8, augment=flip|augment=flip, mixup=0.8)\)</text>", picture)
