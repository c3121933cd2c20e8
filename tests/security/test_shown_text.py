"""Text of strangers in all places where text is read: wherever it is shown it controls, forges and marks up nothing."""

import csv
import io
import json
import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from support.adapters import tuned_model
from support.hostile_text import (
    HOSTILE,
    NASTY,
    find_unescaped,
    is_clean,
    is_clean_line,
    list_leaves,
    message_of,
    with_leaf,
)
from support.rows import sample_row

import vision_peft as vp
from vision_peft.cli.main import main
from vision_peft.config.parse import parse_config
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.formats import read_adapter_info
from vision_peft.formats.adapter_info import check, recorded_method
from vision_peft.results.find_rows import find_runs
from vision_peft.results.plots.plot import plot_accuracy
from vision_peft.results.report import make_report
from vision_peft.results.row import Row, read_row
from vision_peft.results.table import format_rows
from vision_peft.runs.run_config import read_config
from vision_peft.runs.saved_data import read_saved_data
from vision_peft.runs.texts import LogFile, Terminal
from vision_peft.tasks.classes import write_confusion

FULL = {
    "methods": [{"name": "lora", "fields": {"rank": 8, "targets": ["q"], "init": "x"}}],
    "settings": {"recipe.augment": "flip", "data.kind": "x"},
    "tried": {"recipe.optimizer": ["sgd", "adamw"]},
    "versions": {"torch": "2"},
    "resumed_with": [{"update": 3, "device": "x", "versions": {"torch": "3"}}],
    "commit": "abc",
    "task": "x",
    "status": "finished",
    "setting": "x",
    "data_digest": "x",
    "reason": "x",
    "command": "vision-peft train method=lora",
    "params_trained": 10,
    "params_stored": 10,
}


def write_row(folder: Path, row: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(row))
    return folder / "result.json"


def rows_of(folder: Path, text: str) -> list[Row]:
    """Two readable rows, of which one has `text` in every place that takes it."""
    row = sample_row(**FULL)
    plain = read_row(write_row(folder / "plain", row))
    for path in list_leaves(row):
        if path == ("status",):  # an unfinished run is not in a table
            continue
        changed = with_leaf(row, path, text)
        write_row(folder / "hostile", changed)
        refused = message_of(lambda: read_row(folder / "hostile" / "result.json"))
        assert is_clean_line(refused or ""), path
        row = row if refused else changed
    row["methods"][0]["fields"] |= {text: text}
    row["settings"] |= {text: text}
    row["versions"] |= {text: text}
    hostile = read_row(write_row(folder / "hostile", row))
    assert is_clean_line(message_of(lambda: make_report([plain, hostile])) or "")  # two kinds of task are not one table
    plain.task_kind, plain.figure_words = hostile.task_kind, hostile.figure_words
    return [plain, hostile]


STARTS = [
    HOSTILE,
    "name\n0 problems",
    "```\n# rm -rf",
    "# heading",
    "- item",
    "[a]: http://evil",
    "=cmd|' /C calc'!A0",
    "{0}",
]


@pytest.mark.parametrize("text", STARTS)
def test_tables_reports_and_csv_files_of_a_hostile_row(text: str, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, text)
    assert all(text in str(getattr(rows[1], name)) for name in ("backbone", "dataset", "task", "device", "commit"))
    assert is_clean(format_rows(rows))
    assert is_clean(format_rows(rows[1:]))
    report = make_report(rows)
    page = report.markdown()
    assert is_clean(page)
    head, _, code = page.partition("```")
    table = [line for line in head.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({len(find_unescaped(line, "|")) for line in table}) == 1
    for mark in ("<", "`", "](", "][", "]:", "://", "www."):
        assert not find_unescaped(head, mark), mark
    blocks = ("#", ">", "- ", "---", "~~~", "===", "* #", "* >", "* - ")
    assert not any(line.startswith(blocks) for line in head.split("\n"))
    fence = "`" * (3 + len(code) - len(code.lstrip("`")))
    assert page.count(f"\n{fence}\n") == 1, "nothing ends the code before its end"
    assert page.endswith(f"\n{fence}\n")
    for cell in (cell for line in csv.reader(io.StringIO(report.csv_text())) for cell in line):
        assert is_clean_line(cell)
        assert not cell.lstrip().startswith(("=", "@"))


def test_the_picture_of_a_hostile_row_and_its_numbers(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, HOSTILE)
    svg, numbers = plot_accuracy(rows, tmp_path / "accuracy", kinds=["svg"])
    texts = [node.text or "" for node in ElementTree.parse(svg).iter() if node.tag.endswith("text")]
    assert all(map(is_clean_line, texts))
    assert not any(node.tag.endswith("script") for node in ElementTree.parse(svg).iter())
    assert any("frac" in text for text in texts), "it is shown as it was typed, not as a fraction"
    for cell in (cell for line in csv.reader(numbers.read_text().splitlines()) for cell in line):
        assert is_clean_line(cell)
        assert not cell.startswith(("=", "+", "@"))


def test_notes_about_runs_in_hostile_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "name\n\x1b[31m0 problems"
    write_row(folder / "a", sample_row(**FULL))
    write_row(folder / "b", sample_row(**FULL))
    (folder / "c").mkdir()
    (folder / "c" / "config.yaml").touch()
    (folder / "c" / "log.txt").touch()
    with caplog.at_level(logging.WARNING):
        find_runs([folder])
    assert len(caplog.records) == 2
    assert all(is_clean_line(record.getMessage()) for record in caplog.records)


def refuse_all(value: Any, read: Callable[[Any], Any], texts: list[str]) -> int:
    """Read a value with `texts` at every leaf in turn; every error is one clean line. Returns how many there were."""
    errors = 0
    for path in list_leaves(value):
        for text in texts:
            changed = with_leaf(value, path, text)
            if refused := message_of(lambda changed=changed: read(changed)):
                errors += 1
                assert is_clean(refused), (path, refused)
    return errors


def test_errors_about_a_hostile_description_of_an_adapter(tmp_path: Path) -> None:
    folder = vp.save_adapter(tuned_model(), tmp_path / "adapter", class_names=["a", "b", "c", "d", "e"])
    values = json.loads((folder / "adapter.json").read_text())

    def read(changed: Any) -> None:
        info = check(changed, "adapter.json")
        for entry in info.methods:
            recorded_method(entry, "adapter.json")

    assert refuse_all(values, read, NASTY) > 20
    for path in list_leaves(values):
        changed = with_leaf(values, path[:-1], {HOSTILE: 1}) if path[:-1] else {**values, HOSTILE: 1}
        assert is_clean(message_of(lambda changed=changed: read(changed)) or ""), path
    (folder / "adapter.json").write_text(json.dumps({**values, HOSTILE: HOSTILE}))
    with pytest.raises(ValueError, match="is unknown") as unknown:
        read_adapter_info(folder)
    assert is_clean_line(str(unknown.value))


def test_errors_about_a_hostile_config(tmp_path: Path) -> None:
    raw = {
        "backbone": {"name": "vit", "kwargs": {"depth": 1}},
        "method": {"name": "lora", "targets": ["q"]},
        "data": {"name": "folder", "root": "x"},
        "recipe": {"lr": 1.0, "schedule": "cosine", "head": "linear", "betas": [0.9, 0.9]},
        "distributed": {"strategy": "ddp", "timeout_s": 1},
        "protocol": "auto",
        "seed": 1,
        "trackers": ["tensorboard"],
    }

    def read(changed: Any) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
        parse_config(read_config(tmp_path))

    assert refuse_all(raw, read, [HOSTILE]) > 8
    for section in (raw, *(raw[key] for key in ("backbone", "method", "data", "recipe", "distributed"))):
        section[HOSTILE] = HOSTILE
    with pytest.raises(ValueError, match="unknown key") as refused:
        read(raw)
    assert is_clean(str(refused.value))


def test_errors_about_hostile_data(tmp_path: Path) -> None:
    splits = {"train": {"items": 1, "digest": "x", "of": ["y"]}}
    head = {"version": 1, "digest": "x", "classes": ["a"], "splits": splits}

    def read(changed: Any) -> None:
        (tmp_path / "data.json").write_text(f"{json.dumps(changed)[:-1]}\n}}\n")
        read_saved_data(tmp_path / "data.json")

    assert refuse_all(head, read, NASTY) > 20


@pytest.mark.parametrize("text", NASTY)
def test_a_file_that_cannot_be_decoded_is_reported_in_one_line(text: str, tmp_path: Path) -> None:
    error = ImageDecodeError(f"{text}.png", f"broken {text}")
    assert is_clean_line(str(error))
    said: list[str] = []
    files = BadFiles(tmp_path / "bad_files.txt", said.append)
    files.add(error, "it counts as wrong")
    assert is_clean_line(said[0])
    path, cause = (tmp_path / "bad_files.txt").read_text().removesuffix("\n").split("\t")
    assert is_clean_line(path)
    assert is_clean_line(cause)
    with pytest.raises(ValueError, match="cannot be decoded so far") as many:
        files.check([error.path], 1, 0.0)
    assert is_clean(str(many.value))
    assert len(str(many.value).splitlines()) == 2


def test_no_word_of_a_run_controls_the_terminal_or_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    outputs = [Terminal(stream), LogFile(tmp_path / "log.txt")]
    for output in outputs:
        output.say("one\n\x1b[31mtwo\u2028\x85\x0cthree")
        output.progress("\x1b[2Jhalf\r", True)
        output.close()
    assert is_clean(stream.getvalue())
    lines = (tmp_path / "log.txt").read_text().split("\n")
    assert len(lines) == 4, "two lines and the progress, each with its time"
    assert all(map(is_clean_line, lines))
    assert all(line[4] == "-" for line in lines[:3])


def test_a_tree_of_hostile_names_is_checked_and_refused_in_clean_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cat\n0 problems", "dog\x1b[2J\u202e"]
    for split in ("train", "val", "test"):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (len(name), len(split), 0)).save(tmp_path / split / name / f"{split}.png")
    (tmp_path / "train" / names[0] / "broken\nno problems\n\x1b[31m.png").write_text("no image")
    assert main(["check-data", "data=folder", f"data.root={tmp_path}", "--workers", "1"]) == 1
    printed = capsys.readouterr()
    assert is_clean(printed.out)
    assert is_clean(printed.err)
    assert not {"0 problems", "no problems", "0 problems/broken"} & {*printed.out.splitlines()}
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "none\nerror: all is well\x1b[31m")])
    error = capsys.readouterr().err
    assert is_clean(error)
    assert [line for line in error.splitlines() if not line.startswith("  ")] == [error.splitlines()[0]]


def test_the_confusion_matrix_of_hostile_classes(tmp_path: Path) -> None:
    class Found:
        per_class = dict.fromkeys(NASTY, 1.0)
        confusion = [[1] * len(NASTY)] * len(NASTY)

    write_confusion(tmp_path / "confusion.csv", Found())  # pyright: ignore[reportArgumentType]
    table = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert [len(line) for line in table] == [1 + len(NASTY)] * (1 + len(NASTY))
    assert all(is_clean_line(cell) and not cell.startswith(("=", "@")) for line in table for cell in line)
