"""Make docs/results/study.md, its pictures and its report of the committed rows of the study, and of nothing else.

    python docs/results/study_page.py            # study.md, study.png, study_tasks.png and study.html
    python docs/results/study_page.py --check    # compare the page with the rows, as CI does

It also fills the last two columns of the table of methods (docs/methods.md): the mean of the study, the default rate.

The words are those of study_page.txt; tables of the rows are put in where it has {braces}. Pictures and report have all
settings that every data set has with every seed.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from common_budget import ROWS, SEEDS, SIZED, SIZES, unpack
from make_leaderboard import STUDY, read_rows
from study import DATA, LEFT_OUT, list_cells, list_settings, open_book
from study_rates import make_table as make_rates

import vision_peft as vp
from vision_peft.cli.main import main as run_verb
from vision_peft.results.labels import list_searched
from vision_peft.results.report import format_table
from vision_peft.results.row import Row
from vision_peft.results.settings import group_by_seed
from vision_peft.results.significance import compare_all, correct_for_number, drop_undrawn
from vision_peft.results.table import format_count
from vision_peft.results.task_means import average_over_tasks

HERE = Path(__file__).resolve().parent
PAGE, TEXT, METHODS_PAGE = HERE / "study.md", HERE / "study_page.txt", HERE.parent / "methods.md"
TITLES = ("clothing", "satellite scenes", "sign digits", "CIFAR-10", "Fashion-MNIST")  # of DATA
STUDENT = 2.776  # 97.5th percentile of Student's t with 4 degrees of freedom, one fewer than data sets
Rows = dict[str, dict[str, list[Row]]]  # by setting and data set


def read_study() -> Rows:
    """Read the rows that read test, of settings that have every seed on every data set."""
    found: Rows = defaultdict(lambda: defaultdict(list))
    for row in read_rows(ROWS):
        if row.file is not None and row.file.parent.name.startswith(f"{STUDY}_"):
            found[row.file.stem][row.file.parent.name.removeprefix(f"{STUDY}_")].append(row)
    whole = [name for name in list_settings() if sorted(found[name]) == sorted(DATA)]
    return {name: found[name] for name in whole if all(len(rows) == len(SEEDS) for rows in found[name].values())}


def average(of_data: dict[str, list[Row]]) -> tuple[float, float]:
    """Average top-1 over the data sets: mean and standard deviation (n - 1) over seeds, %."""
    means, _ = average_over_tasks([row for rows in of_data.values() for row in rows], "top1")
    (setting,) = group_by_seed(means)
    return setting.mean("top1") or 0.0, setting.std("top1") or 0.0


def sort_by_mean(found: Rows, settings: Collection[str]) -> list[str]:
    """List those of the settings that were found, the best mean first."""
    return sorted((name for name in found if name in settings), key=lambda name: -average(found[name])[0])


def list_sizes(found: Rows) -> list[list[str]]:
    """List the sizes of each method that has more than its default one, from few parameters to many."""
    groups = [[f"{name}_{low}", name, f"{name}_{high}"] for name, (_, low, high) in SIZES.items()]
    there = [[name for name in group if name in found] for group in groups]
    return [sorted(own, key=lambda name: found[name][DATA[0]][0].params_trained) for own in there if len(own) > 1]


def make_table(found: Rows, settings: Sequence[str]) -> list[str]:
    """Make a table of settings."""
    table = [["method", "trained", "rate", "by default", *TITLES, "mean", "a training"]]
    for name in settings:
        rows = [row for data in DATA for row in found[name][data]]
        cells = []
        for data in DATA:
            values = [row.top1 or 0.0 for row in found[name][data]]
            cells.append(_format(statistics.fmean(values), statistics.stdev(values)))
        counts = sorted({row.params_trained for row in rows})
        trained = " to ".join(dict.fromkeys(map(format_count, (counts[0], counts[-1]))))
        recommended = f"{vp.METHODS[rows[0].method].recommended['lr']:g}" if _is_searched(rows) else ""
        told = [_label(rows), trained, _describe_rates(rows), recommended]
        table.append([*told, *cells, _format(*average(found[name])), f"{_find_usual_seconds(name):.0f} s"])
    return format_table(table, [False, True, False, False, *[True] * (len(TITLES) + 2)])


def _count_seconds(settings: Collection[str]) -> float:
    """Count the seconds of all trainings of settings, trials too."""
    lines = [line for name in settings for data in DATA for line in open_book(name, data).lines]
    return sum(line.get("total_seconds") or 0.0 for line in lines)


def _find_usual_seconds(setting: str) -> float:
    """Find the median of the seconds that a training of a setting took, trials too."""
    lines = [line for data in DATA for line in open_book(setting, data).lines]
    return statistics.median(seconds for line in lines if (seconds := line.get("total_seconds")) is not None)


def _label(rows: Sequence[Row]) -> str:
    """Label a method, without a size that val chose for each data set."""
    return rows[0].label if len({row.sizes for row in rows}) == 1 else rows[0].title


def _is_searched(rows: Sequence[Row]) -> bool:
    return "lr" in list_searched(rows[0])


def _describe_rates(rows: Sequence[Row]) -> str:
    """Describe the learning rates that val chose, or what it chose instead."""
    if not _is_searched(rows):
        return ", ".join(list_searched(rows[0])) or "penalty"
    rates = sorted({row.lr for row in rows})
    return " to ".join(dict.fromkeys(f"{rate:g}" for rate in (rates[0], rates[-1])))


def _format(mean: float, std: float) -> str:
    return f"{mean:.1f} ± {std:.1f}"


def describe_differences(found: Rows, settings: Collection[str]) -> list[str]:
    """Say which methods the sign test over seeds and data sets tells apart from the best one."""
    rows = [row for name in found if name in settings for data in DATA for row in found[name][data]]
    tables, notes = compare_all(rows, "top1", "seeds")
    return [f"* {text}" for text in (*(table.describe() for table in tables), *notes)]


def compare_with_full(found: Rows, settings: Collection[str]) -> list[str]:
    """Make a table of the settings that the sign test does not tell apart from full fine-tuning."""
    rows = [row for name in found if name in settings for data in DATA for row in found[name][data]]
    ((pairs, *_), _) = compare_all(rows, "top1", "seeds")
    full = _label(found["full"][DATA[0]])
    alike = {
        pair.a if pair.b == full else pair.b for pair in pairs.pairs if full in (pair.a, pair.b) and not pair.differs
    }
    table = [
        ["method", "trained, of full", "full is better by", "95 % of it over data sets", "full is better, worse, level"]
    ]
    for name in sort_by_mean(found, settings):
        row = found[name][DATA[0]][0]
        if row.label in alike:
            share = f"1/{found['full'][DATA[0]][0].params_trained / row.params_trained:.0f}"
            table.append([row.label, share, *describe_difference(found["full"], found[name])])
    return format_table(table, [False, True, True, True, True])


def describe_difference(of_a: dict[str, list[Row]], of_b: dict[str, list[Row]]) -> list[str]:
    """Describe a minus b: in points, with 95 % of Student's t over the data sets, and by the pairs of seeds."""
    pairs = [
        (data, *pair) for data in DATA for pair in zip(_list_top1(of_a[data]), _list_top1(of_b[data]), strict=True)
    ]
    means = [statistics.fmean(a - b for of, a, b in pairs if of == data) for data in DATA]
    mean, reach = statistics.fmean(means), STUDENT * statistics.stdev(means) / len(means) ** 0.5
    each = drop_undrawn(pairs)
    better, worse = sum(a > b for _, a, b in each), sum(a < b for _, a, b in each)
    return [
        f"{mean:.1f}",
        f"{mean - reach:.1f} to {mean + reach:.1f}",
        f"{better}, {worse}, {len(each) - better - worse}",
    ]


def _list_top1(rows: Sequence[Row]) -> list[float]:
    return [row.top1 or 0.0 for row in sorted(rows, key=lambda row: row.seed)]


def compare_sizes(found: Rows) -> list[str]:
    """Make a table of the largest size of each method beside its smallest; corrected for all methods with sizes."""
    groups = [group for group in list_sizes(found) if len(group) == 3]
    pairs = []
    for small, _, large in groups:
        tables, _ = compare_all(
            [row for name in (large, small) for data in DATA for row in found[name][data]], "top1", "seeds"
        )
        pairs += [pair for table in tables for pair in table.pairs]
    table = [
        ["method", "larger is better by", "95 % of it over data sets", "larger is better, worse, level", "p, Holm"]
    ]
    for (small, _, large), pair in zip(groups, correct_for_number(pairs, len(SIZES)), strict=True):
        names = f"{found[large][DATA[0]][0].label} over {found[small][DATA[0]][0].label}"
        table.append([names, *describe_difference(found[large], found[small]), f"{pair.p_holm:.2g}"])
    return format_table(table, [False, True, True, True, True])


def describe_progress(found: Rows) -> str:
    """Say how much of the study there is, and what it took."""
    settings = list_settings()
    trainings, hours = sum(len(open_book(*cell).lines) for cell in list_cells()), _count_seconds(settings) / 3600
    usual = [name for name in settings if name not in SIZED]
    whole = f"{sum(name in found for name in usual)} of {len(usual)} methods and forms of methods"
    sized = f"{sum(name in found for name in SIZED)} of {len(settings) - len(usual)} further sizes"
    return f"{whole} and {sized} have all data sets; {trainings} trainings took {hours:.0f} hours of one thread"


def _join(names: Sequence[str]) -> str:
    first, last = ", ".join(f"`{name}`" for name in names[:-1]), f"`{names[-1]}`"
    return f"{first} and {last}" if first else last


def write_page() -> str:
    """Write the page."""
    found = read_study()
    usual = [name for name in list_settings() if name not in SIZED]
    sizes = [name for group in list_sizes(found) for name in group]
    return TEXT.read_text("utf-8").format(
        usual="\n".join(make_table(found, sort_by_mean(found, usual))),
        beside_full="\n".join(compare_with_full(found, usual)),
        sizes="\n".join(make_table(found, sizes)),
        larger="\n".join(compare_sizes(found)),
        rates="\n".join(make_rates({name: _label(found[name][DATA[0]]) for name in found if name not in SIZED})),
        differences="\n".join(describe_differences(found, usual)),
        progress=describe_progress(found),
        left_out=_join(LEFT_OUT),
        sizes_left_out=describe_missing_sizes(found),
    )


def describe_missing_sizes(found: Rows) -> str:
    """Name the further sizes that lack data sets; empty if none does."""
    missing = [name for name in SIZED if name not in found]
    return f"\n* Of the further sizes {_join(missing)}, for the time that they take." if missing else ""


def fill_methods_page(text: str) -> str:
    """Put the mean of the study and the default learning rate at the end of each line of the table of methods."""
    found = read_study()
    firsts = {name: of_data[DATA[0]][0] for name, of_data in found.items()}
    means = [(row.methods[0], _format(*average(found[name]))) for name, row in firsts.items() if row.head == "linear"]
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if setting := re.fullmatch(r"\| `\w+`[^|]*\| `(\w+)(\(.*?\))` \|.*", line):
            method = eval(f"vp.{setting[1]}{setting[2]}", {"vp": vp})
            rate = f"{method.recommended['lr']:g}" if "lr" in method.recommended else ""
            described = json.loads(json.dumps({"name": method.name, "fields": method.recorded_fields()}))
            mean = next((mean for fields, mean in means if fields == described), "")
            lines[number] = " | ".join([*line.split(" | ")[:6], mean, f"{rate} |"])
    return "\n".join(lines)


def draw() -> None:
    """Draw the pictures and write the report."""
    found = read_study()
    with tempfile.TemporaryDirectory() as folder:
        for data in DATA:
            unpack(f"{STUDY}_{data}", Path(folder))
        runs = [str(path) for name in found for path in Path(folder).glob(f"*/{name}")]
        drawn, above = Path(folder, "study"), [run for run in runs if Path(run).name != "knn"]  # it is far below
        run_verb(["plot", *above, "--mean", f"--out={drawn}"])
        run_verb(["plot", *(run for run in runs if Path(run).name not in SIZED), f"--out={drawn}_tasks"])
        for name in ("study.png", "study_tasks.png"):
            (HERE / name).write_bytes(Path(folder, name).read_bytes())
        run_verb(["report", *runs, "-o", str(HERE / "study.html")])


def main() -> int:
    """Make all, or compare the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the page is not that of the rows")
    check, page = parser.parse_args().check, write_page()
    wanted = {PAGE: page, METHODS_PAGE: fill_methods_page(METHODS_PAGE.read_text("utf-8"))}
    if check:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
        if stale:
            print(f"{' and '.join(stale)}: not made of the committed rows: run python docs/results/study_page.py")
        return int(bool(stale))
    draw()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
