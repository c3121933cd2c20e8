"""What an HTML report shows of one setting: its runs with their commands, curves, confusions, hardest items, fields."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vision_peft.results.commands import describe_provenance, show_command
from vision_peft.results.figures import get_figure
from vision_peft.results.html_data import Data, shorten
from vision_peft.results.labels import find_path, format_tried, format_value
from vision_peft.results.row import Row
from vision_peft.results.row_bounds import MAX_HARDEST
from vision_peft.results.settings import Setting, list_chosen_settings

MOST_RUNS = 10  # of a setting that are listed
MOST_POINTS = 60  # of a curve
LARGEST_MATRIX = 30  # classes; of more the pairs that are mixed up most
MOST_PAIRS = 20
MOST_FIELDS = 40
LONGEST_COMMAND = 4000  # letters
LONGEST_NAME = 80  # of a class or an item
Picture = Callable[[Row, str], str | None]  # thumbnail of an item of test as a data URI


def list_runs(setting: Setting) -> Data:
    """List the runs of a setting, with the exact command of each."""
    rows = setting.rows[:MOST_RUNS]
    runs = [[row.seed, _write(get_figure(row, row.metric)), _find_epoch(row), show_command(row)] for row in rows]
    cut = [[*first, text if len(text) <= LONGEST_COMMAND else ""] for *first, text in runs]
    return {"runs": cut, "more_runs": len(setting.rows) - len(rows), "lost": setting.describe_lost()}


def _find_epoch(row: Row) -> int | None:
    """Find the chosen epoch; k-NN and a head that is solved for have none."""
    return row.chosen_epoch if find_path(row) is None else None


def list_facts(setting: Setting) -> Data:
    """List fields of the methods, settings, what a search tried, and where the runs were made."""
    row = setting.row
    fields = [
        [f"{method['name']}.{name}", format_value(value)]
        for method in row.methods
        for name, value in method["fields"].items()
    ]
    fields += [[name, format_value(value)] for name, value in list_chosen_settings(row).items() if value is not None]
    tried = [[key, ", ".join(map(format_tried, values[:MOST_PAIRS]))] for key, values in (row.tried or {}).items()]
    return {
        "fields": [
            *fields[:MOST_FIELDS],
            *([["more", len(fields) - MOST_FIELDS]] if len(fields) > MOST_FIELDS else []),
        ],
        "searched": tried[:MOST_FIELDS],
        "made": describe_provenance(setting.rows),
    }


def trace_curves(setting: Setting) -> Data | None:
    """Trace loss on train and the figure on val over the epochs of every seed; None where there are fewer than two.

    A head that is solved for is traced along its penalties, k-NN along its k: `along` names them.
    """
    row, path = setting.row, find_path(setting.row)
    name = f"val_{row.metric}"
    curves = [curve for each in setting.rows[:MOST_RUNS] if (curve := _trace(each, path or "epoch", name)) is not None]
    return {"curves": curves, "planned": row.epochs, "along": path} if curves else None


def _trace(row: Row, along: str, name: str) -> list[Any] | None:
    """Return seed, epochs (or k), losses on train, figures on val of the phase where val chose, or of the only one."""
    phases: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in row.curve:
        phases[str(entry.get("phase"))].append(entry)
    entries = max(phases.values(), key=lambda found: sum(_is_number(entry.get(name)) for entry in found), default=[])
    if len(entries) < 2:
        return None
    taken = entries
    if len(entries) > MOST_POINTS:
        taken = [entries[place * (len(entries) - 1) // (MOST_POINTS - 1)] for place in range(MOST_POINTS)]
    columns = [[_number(entry.get(key)) for entry in taken] for key in (along, "train_loss", name)]
    return [row.seed, *columns]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _number(value: Any) -> float | None:
    return shorten(float(value)) if _is_number(value) else None


def sum_confusion(setting: Setting) -> Data | None:
    """Sum the confusion matrices of the seeds; of many classes the pairs that are mixed up most often."""
    row = setting.row
    names = [*row.per_class]
    matrices = [each.confusion for each in setting.rows if each.confusion is not None and [*each.per_class] == names]
    if (
        not names
        or not matrices
        or any(len(counts) != len(names) for matrix in matrices for counts in (matrix, *matrix))
    ):
        return None
    places = range(len(names))
    total = [[sum(matrix[truth][answer] for matrix in matrices) for answer in places] for truth in places]
    pairs = sorted(
        ((total[truth][answer], truth, answer) for truth in places for answer in places if truth != answer),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    found: Data = {
        "pairs": [[count, *_cut(names[i] for i in pair)] for count, *pair in pairs[:MOST_PAIRS] if count > 0]
    }
    found |= {"unit": "pixels" if row.task_kind == "segmentation" else "items", "seeds": len(matrices)}
    if len(names) <= LARGEST_MATRIX:
        found |= {"classes": _cut(names), "counts": total}
    return {"confusion": found}


def list_hardest(setting: Setting, picture: Picture | None = None) -> Data | None:
    """List the items that were answered wrongly and surely, with most of the seeds first."""
    found: dict[tuple[str, str], list[tuple[Row, dict[str, Any]]]] = defaultdict(list)
    for row in setting.rows:
        for each in row.hardest:
            found[each["item"], each["true"]].append((row, each))
    if not found:
        return None
    order = sorted(found.items(), key=lambda one: (-len(one[1]), -_mean_confidence(one[1]), one[0]))
    hardest = []
    for (item, truth), given in order[:MAX_HARDEST]:
        answers = dict.fromkeys(each["answered"] for _, each in given)
        line = [*_cut((item, truth, " or ".join(answers))), shorten(_mean_confidence(given)), len(given)]
        hardest.append([*line, picture(given[0][0], item)] if picture else line)
    return {"hardest": hardest, "of_seeds": sum(bool(row.hardest) for row in setting.rows)}


def _mean_confidence(given: Sequence[tuple[Row, dict[str, Any]]]) -> float:
    return sum(each["confidence"] for _, each in given) / len(given)


def _cut(names: Iterable[str]) -> list[str]:
    """Cut long names in their middle: what tells names of classes and paths of items apart is often at the end."""
    half = (LONGEST_NAME - 3) // 2
    return [name if len(name) <= LONGEST_NAME else f"{name[:half]}...{name[-half:]}" for name in names]


def _write(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
