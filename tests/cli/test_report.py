"""`vision-peft report` as a user starts it."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from cli.test_plot import put


@pytest.fixture
def report(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(repository / "tools" / "report.py"), run_name="__main__")
        shown, errors = capsys.readouterr()
        return exit_.value.code, shown, errors

    return run


def test_a_tree_of_runs_becomes_markdown_and_csv(repository: Path, report, tmp_path: Path) -> None:
    for seed, top1 in ((0, 80.0), (1, 84.0)):
        put(tmp_path / "runs" / f"a{seed}", "adaptformer", 64, seed, top1)
    put(tmp_path / "runs" / "trial", "adaptformer", 64, 2, None)
    code, shown, errors = report("runs", "--out", "results/table.md")
    assert (code, errors) == (0, "")
    assert "82.00 ± 2.83" in shown
    assert "1 run without test accuracy left out" in shown
    assert (tmp_path / "results" / "table.md").read_text(encoding="utf-8") == shown.partition("\nwrote ")[0]
    plot = repository / "tools" / "plot.py"
    code, shown, _ = report("runs", "--out", "table.csv", "--metric", "mean_per_class")
    assert (code, shown.splitlines()[-4:]) == (0, ["wrote table.csv", "", "next:", f"  python {plot} runs"])
    assert ",mean_per_class," in (tmp_path / "table.csv").read_text()


def test_the_19_tasks_of_vtab_are_averaged_in_both_ways(report, tmp_path: Path) -> None:
    from vision_peft.data.datasets.vtab1k import CLASS_COUNTS

    for place, task in enumerate(CLASS_COUNTS):
        put(tmp_path / "runs" / task, "linear", 0, 0, 30.0 + 2 * place)
        file = tmp_path / "runs" / task / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": "vtab1k", "task": task}))
    code, shown, _ = report("runs")
    assert code == 0
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in shown.splitlines() if line[:1] == "|"}
    wanted = {"natural (7)": 36, "specialized (4)": 47, "structured (8)": 59, "mean of 19 tasks": 48}
    assert {name: float(cells[name]) for name in wanted} == wanted
    assert cells["mean of 3 groups"] == "47.33"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "no such file or folder: run (did you mean runs?)"),
        (["runs", "--out", "table.html"], "--out must end in .md or .csv, got table.html"),
        (["trial"], "nothing to report: none of 1 rows has top1 (search trials do not read test)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(report, tmp_path: Path, arguments: list[str], message: str) -> None:
    put(tmp_path / "runs" / "a", "adaptformer", 64, 0, 80.0)
    put(tmp_path / "trial", "adaptformer", 64, 0, None)
    code, _, errors = report(*arguments)
    assert code == 2
    assert errors == f"error: {message}\n"
