"""`vision-peft report` as a user starts it."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from cli.test_plot import put
from support.report_page import read_data

from vision_peft.config.command_line import compose_config
from vision_peft.config.parse import to_dict


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


def test_a_page_is_made_of_the_rows_alone(report, tmp_path: Path) -> None:
    for seed, top1 in ((0, 80.0), (1, 84.0)):
        folder = tmp_path / "runs" / f"a{seed}"
        put(folder, "adaptformer", 64, seed, top1)
        (folder / "adapter").mkdir()
        for name in ("config.yaml", "log.txt", "metrics.jsonl", "confusion.csv", "adapter/adapter.json"):
            (folder / name).write_text("any: text\n")
    code, shown, errors = report("runs", "-o", "pages/report.html")
    assert (code, errors) == (0, "")
    assert "82.00 ± 2.83" in shown
    assert "wrote pages/report.html" in shown
    page = (tmp_path / "pages" / "report.html").read_text("utf-8")
    data = json.dumps(read_data(page), ensure_ascii=False)
    assert "82.00 ± 2.83" in data
    assert str(tmp_path) not in page + data
    for path in sorted((tmp_path / "runs").rglob("*"), reverse=True):
        if path.is_dir() and path.name == "adapter":
            path.rmdir()
        elif path.is_file() and path.name != "result.json":
            path.unlink()
    assert report("runs", "-o", "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text("utf-8") == page


def test_thumbnails_are_of_the_data_that_the_config_of_a_run_names(
    report, tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def count_thumbnails(name: str) -> int:
        return json.dumps(read_data((tmp_path / name).read_text("utf-8"))).count("data:image/jpeg;base64,")

    names = ["test/red/0.png", "test/red/none.png"]
    hardest = [{"item": name, "true": "red", "answered": "blue", "confidence": 0.9} for name in names]
    for place, data in enumerate((photos, tmp_path / "gone")):
        folder = tmp_path / "runs" / f"a{place}"
        put(folder, "adaptformer", 64 + place, 0, 80.0)
        row = json.loads((folder / "result.json").read_text()) | {"hardest": hardest}
        (folder / "result.json").write_text(json.dumps(row))
        config = to_dict(compose_config(["data=folder", "data.root=photos"]))
        config["data"]["root"] = str(data)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert report("runs", "-o", "plain.html")[0] == 0
    assert count_thumbnails("plain.html") == 0
    assert report("runs", "-o", "with.html", "--thumbnails")[0] == 0
    assert count_thumbnails("with.html") == 1
    assert "no thumbnails of" in caplog.text
    assert "gone" in caplog.text


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
        (["runs", "--out", "table.htm"], "--out must end in .html, .md or .csv, got table.htm (did you mean .html?)"),
        (["runs", "--out", "table.md", "--thumbnails"], "--thumbnails is for an .html page: give -o report.html"),
        (["trial"], "nothing to report: none of 1 rows has top1 (search trials do not read test)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(report, tmp_path: Path, arguments: list[str], message: str) -> None:
    put(tmp_path / "runs" / "a", "adaptformer", 64, 0, 80.0)
    put(tmp_path / "trial", "adaptformer", 64, 0, None)
    code, _, errors = report(*arguments)
    assert code == 2
    assert errors == f"error: {message}\n"
