"""Make the leaderboard of the committed rows: docs/leaderboard.md and docs/leaderboard.csv.

    python docs/results/make_leaderboard.py          # write both
    python docs/results/make_leaderboard.py --check  # compare them with the rows, as CI does

Rows are lines of rows/*/*.jsonl. Those that have finished and read test are shown, by data set, task, data, size of the
input, protocol and backbone; what makes a row one of them is written in docs/results/rows.md.
"""

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from vision_peft.printable import for_csv, for_markdown
from vision_peft.results.commands import collect_commands, describe_provenance
from vision_peft.results.figures import describe_metric, format_number, is_tested
from vision_peft.results.labels import disambiguate, format_value, list_tried
from vision_peft.results.report import format_table
from vision_peft.results.row import DIVERGED, FINISHED, Row, parse_row
from vision_peft.results.selection import OF_DATA, describe_lost, describe_panel, name_data
from vision_peft.results.settings import PANEL, Setting, group_by_seed
from vision_peft.results.table import format_bytes, format_count, format_seconds

DOCS = Path(__file__).resolve().parents[1]
ROWS = DOCS / "results" / "rows"
STUDY = "study"  # of docs/results/study.py, in rows/study_<set>; all others are of the common rule
PAGE, TABLE = "leaderboard.md", "leaderboard.csv"
LOGGED = ("command", "versions", "device", "data_digest", "setting")  # without which a row is none of these
HEADER = """# Leaderboard

Made by `docs/results/make_leaderboard.py` of the committed rows in `docs/results/rows`, and of nothing else: change
rows, not this page. [How rows are added](results/rows.md#adding-rows). Numbers with every digit, commits and commands:
[leaderboard.csv](leaderboard.csv).

Compare within one table only: elsewhere the data, the size of the input, the protocol or the backbone is another one,
or, with "study" in the title, the [rule](results/rows.md#adding-rows) by which learning rate and epochs were chosen.
Every figure is of test, which was read once a seed; mean ± standard deviation (n - 1) over seeds. `trained` leaves the
head out, `adapter` is what lies on disk, with the head.
"""
COLUMNS = (
    "section",
    *PANEL,
    "data_digest",
    "method",
    "name",
    "metric",
    "n_seeds",
    "seeds",
    "mean",
    "std",
    "lr",
    "epochs",
)
COLUMNS += (
    "params_trained",
    "params_stored",
    "params_head",
    "adapter_bytes",
    "train_seconds",
    "device",
    "commits",
    "commands",
    "not_finished",
)


def read_rows(folder: Path) -> list[Row]:
    """Read the rows that have finished and read test, and those that were to read test and have not finished.

    Raises:
        ValueError: a line that is not a row, or without what tells how it was made; all such lines are named.
    """
    rows, problems = [], []
    for path in sorted(folder.glob("*/*.jsonl")):
        for number, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
            where = f"{path.relative_to(folder)}, line {number}"
            try:
                values = json.loads(text)
                if isinstance(values, dict) and "methods" not in values and values.get("status") == DIVERGED:
                    continue  # a trial, of which there is only what the search needs
                row = parse_row(text, where)
            except ValueError as error:
                problems.append(str(error) if where in str(error) else f"{where}: {error}")
                continue
            if row.status != FINISHED and row.n_test:
                row.file = path
                rows.append(row)
            elif is_tested(row):
                missing = [name for name in LOGGED if not getattr(row, name)]
                problems += [f"{where}: a row of the leaderboard needs {', '.join(missing)}"] * bool(missing)
                row.file = path
                rows.append(row)
    if problems:
        raise ValueError("\n".join(problems))
    return rows


def make_leaderboard(rows: list[Row]) -> tuple[str, str]:
    """Return the page as Markdown, and its numbers as CSV."""
    sections: dict[tuple[Any, ...], list[Setting]] = defaultdict(list)
    for rule in sorted({_find_rule(row) for row in rows}):
        for setting in group_by_seed(row for row in rows if _find_rule(row) == rule):
            row = setting.row
            size = (row.img_size,) * 2 if isinstance(row.img_size, int) else tuple(row.img_size)
            named = row.dataset, row.task or "", size, row.num_frames or 0, row.protocol, row.backbone
            sections[*named, row.metric, row.data_digest or "", rule].append(setting)
    parts, numbers = [HEADER], []
    for key in sorted(sections):
        about = describe_panel(sections[key][0].row)
        title = ", ".join(filter(None, (name_data(about), about["img_size"], key[-1])))
        rest = [text for name, text in about.items() if name not in (*OF_DATA, "img_size")]
        lost = describe_lost(sections[key])
        settings = _rank([setting for setting in sections[key] if setting.rows])
        if not settings:
            continue  # no seed of any has finished
        labels = disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])
        parts += _write_section(title, rest, settings, labels, lost)
        numbers += [_list_numbers(title, setting, label) for setting, label in zip(settings, labels, strict=True)]
    with io.StringIO(newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(map(for_csv, cells) for cells in (COLUMNS, *numbers))
        return "\n".join(parts), file.getvalue()


def _find_rule(row: Row) -> str:
    """Name the rule by which a row was made, where it is not the common one: what two rules tried does not compare."""
    return STUDY if row.file is not None and row.file.parent.name.startswith(f"{STUDY}_") else ""


def _rank(settings: list[Setting]) -> list[Setting]:
    metric, sign = settings[0].row.metric, 1 if settings[0].row.lower_is_better else -1
    return sorted(settings, key=lambda setting: (sign * (setting.mean(metric) or 0.0), setting.row.label))


def _write_section(
    title: str, about: list[str], settings: list[Setting], labels: list[str], lost: list[str]
) -> list[str]:
    row = settings[0].row
    digest = (row.data_digest or "unknown")[:8]
    of_data = f"{row.n_train:,} training, {row.n_val:,} val and {row.n_test:,} test items, data {digest}"
    table = [
        ["method", "chosen on val", "seeds", describe_metric([row], row.metric), "trained", "adapter", "a training"]
    ]
    for setting, label in zip(settings, labels, strict=True):
        own, mean, std = setting.row, setting.mean(row.metric) or 0.0, setting.std(row.metric)
        searched = [key.rpartition(".")[2] for key in list_tried(own)]
        values = [f"{name} {_write(getattr(own, name))}" for name in searched if hasattr(own, name)]
        chosen = ", ".join(values or searched) or "no search recorded"
        figure = format_number(mean) + ("" if std is None else f" ± {format_number(std, mean)}")
        sizes = [format_count(own.params_trained), format_bytes(setting.mean("adapter_bytes") or 0)]
        seconds = format_seconds(setting.mean("train_seconds") or 0)
        table.append([label, chosen, setting.describe_seeds(), figure, *sizes, seconds])
    commands = [line for setting in settings for line in collect_commands(setting.rows, {})]
    provenance = describe_provenance([row for setting in settings for row in setting.rows])
    notes = [f"* {for_markdown(note, starts=True)}" for note in (*lost, *provenance)]
    block = ["```bash", *commands, "```"]
    head = f"## {for_markdown(title)}"
    shared = f"{for_markdown(', '.join(about))}; {of_data}."
    right = [False, False, True, True, True, True, True]
    lines = [head, "", shared, "", *format_table(table, right), "", *notes, ""]
    return [*lines, "<details><summary>Commands</summary>", "", *block, "", "</details>", ""]


def _write(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else format_value(value)


def _list_numbers(title: str, setting: Setting, label: str) -> list[Any]:
    row, metric = setting.row, setting.row.metric
    where = ["" if (value := getattr(row, name)) is None else value for name in PANEL]
    mean = ["" if value is None else f"{value:.4f}" for value in (setting.mean(metric), setting.std(metric))]
    seeds = " ".join(str(own.seed) for own in setting.rows)
    commits = " ".join(dict.fromkeys(own.commit or "" for own in setting.rows))
    sizes = [row.params_trained, row.params_stored, row.params_head, f"{setting.mean('adapter_bytes') or 0:.0f}"]
    made = [
        f"{setting.mean('train_seconds') or 0:.1f}",
        row.device,
        commits,
        " && ".join(collect_commands(setting.rows, {})),
        setting.describe_lost(),
    ]
    named = [
        title,
        *where,
        row.data_digest,
        label,
        row.method,
        metric,
        len(setting.rows),
        seeds,
        *mean,
        row.lr,
        row.epochs,
    ]
    return [*named, *sizes, *made]


def main() -> int:
    """Write the page and the table, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the files are not those of the rows")
    arguments = parser.parse_args()
    wanted: dict[str, str] = dict(zip((PAGE, TABLE), make_leaderboard(read_rows(ROWS)), strict=True))
    stale = [name for name, text in wanted.items() if not _is(DOCS / name, text)]
    if arguments.check:
        for name in stale:
            print(f"docs/{name} is not made of the committed rows: run python docs/results/make_leaderboard.py")
        return int(bool(stale))
    for name in stale:
        (DOCS / name).write_text(wanted[name], encoding="utf-8", newline="")
    print(f"wrote {', '.join(stale)}" if stale else "nothing has changed")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() == text.encode()


if __name__ == "__main__":
    sys.exit(main())
