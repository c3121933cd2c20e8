"""The leaderboard is what its script makes of the committed rows, and of these what has read test."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from vision_peft.results.row import to_values


@pytest.fixture(scope="module")
def script(repository: Path) -> Any:
    return runpy.run_path(str(repository / "docs" / "results" / "make_leaderboard.py"), run_name="make_leaderboard")


def put(folder: Path, *lines: dict[str, Any]) -> Path:
    (folder / "set").mkdir()
    (folder / "set" / "method.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_page_and_table_are_those_of_the_committed_rows(repository, script):
    page, table = script["make_leaderboard"](script["read_rows"](script["ROWS"]))
    wanted = "run python docs/results/make_leaderboard.py"
    assert (repository / "docs" / "leaderboard.md").read_text(encoding="utf-8") == page, wanted
    assert (repository / "docs" / "leaderboard.csv").read_bytes().decode() == table, wanted
    seeds = sum(int(line["n_seeds"]) for line in csv.DictReader(table.splitlines()))
    lines = [json.loads(text) for path in script["ROWS"].glob("*/*.jsonl") for text in path.read_text().splitlines()]
    tested = [
        line for line in lines if line.get("status") == "finished" and (line["top1"] is not None or line.get("figures"))
    ]
    assert seeds == len(tested) > 100


def test_trials_and_diverged_runs_are_not_on_it_and_seeds_are_averaged(make_row, script, tmp_path):
    logged = {"data_digest": "1" * 64, "command": "vision-peft train method=lora"}
    rows = [make_row("lora", {"rank": 8}, seed=seed, top1=90.0 + seed, **logged) for seed in (0, 1)]
    trial = make_row("lora", {"rank": 8}, seed=5, top1=None, n_test=0, mean_per_class=None, top5=None, **logged)
    diverged = {"lr": 1.0, "epochs": 5, "seed": 0, "top1": None, "status": "diverged", "reason": "nan"}
    folder = put(tmp_path, *(to_values(row) or {} for row in (*rows, trial)), diverged)
    page, table = script["make_leaderboard"](script["read_rows"](folder))
    (line,) = csv.DictReader(table.splitlines())
    assert (line["method"], line["seeds"], line["mean"], line["std"]) == ("LoRA-8", "0 1", "90.5000", "0.7071")
    assert "| LoRA-8 | no search recorded |     2 |" in page
    assert "90.50 ± 0.71" in page
    assert "vision-peft train -m method=lora seed=0,1" in page


def test_seeds_that_did_not_finish_are_counted(make_row, script, tmp_path):
    logged = {"data_digest": "1" * 64, "command": "vision-peft train method=lora"}
    rows = [make_row("lora", {"rank": 8}, seed=seed, tried={"recipe.head": ["linear"]}, **logged) for seed in (0, 1)]
    lost = make_row("lora", {"rank": 8}, seed=2, top1=None, status="diverged", updates=40, **logged)
    page, table = script["make_leaderboard"](
        script["read_rows"](put(tmp_path, *(to_values(row) or {} for row in (*rows, lost))))
    )
    (line,) = csv.DictReader(table.splitlines())
    assert (line["n_seeds"], line["seeds"], line["not_finished"]) == ("2", "0 1", "1 of 3 seeds diverged at update 40")
    assert "| LoRA-8 | head linear   | 2 of 3 |" in page
    assert "* LoRA-8: 1 of 3 seeds diverged at update 40" in page


def test_a_row_without_its_command_or_that_is_none_is_named_with_its_line(make_row, script, tmp_path):
    whole = to_values(make_row(data_digest="1" * 64)) or {}
    folder = put(tmp_path, whole, whole | {"command": "", "data_digest": None}, whole | {"top1": "high"})
    with next(folder.glob("*/*.jsonl")).open("a") as file:
        file.write('\n{}\n5\n{"method": [], "status": "finished"}\n')
    with pytest.raises(ValueError, match="needs") as error:
        script["read_rows"](folder)
    wanted = ["line 2: a row of the leaderboard needs command, data_digest", "line 3 is not a result row", "line 4"]
    wanted += ["line 5 is not a result row", "line 6 must hold one JSON object", "line 7 is not a result row"]
    assert [text in line for text, line in zip(wanted, str(error.value).splitlines(), strict=True)] == [True] * 6


def test_rows_of_other_protocol_size_or_data_are_in_tables_of_their_own(make_row, script):
    logged = {"data_digest": "1" * 64}
    rows = [make_row(**logged), make_row(**logged, protocol="last_epoch"), make_row(**logged, img_size=56)]
    of_study = make_row(**logged)
    of_study.file = Path("rows/study_digits/adaptformer.jsonl")
    page, _ = script["make_leaderboard"]([*rows, make_row(data_digest="2" * 64), of_study])
    assert page.count("| method ") == page.count("\n## ") == 5
    assert "\n## digits, 224 px, study\n" in page
