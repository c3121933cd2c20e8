"""Choose what a table or a picture shows, and say what it does not show."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.results.figures import choose_metric, get_figure
from vision_peft.results.labels import disambiguate
from vision_peft.results.row import FINISHED, Row
from vision_peft.results.settings import PANEL, Metric, Setting, drop_repeats, group_by_seed

OF_DATA = ("dataset", "task")  # of `PANEL`: what `name_data` names
MOST_NOTES = 10  # on single settings


@dataclass(frozen=True)
class Selection:
    """The settings of a table or picture, and notes on runs that are not in it."""

    settings: list[Setting]  # those of which no seed has finished among them
    notes: list[str]

    @property
    def measured(self) -> list[Setting]:
        """List the settings that have something to show."""
        return [setting for setting in self.settings if setting.rows]


class NothingMeasuredError(ValueError):
    """No row has the figure that a table or picture is of: `why` without the verb, `settings` of the rows."""

    def __init__(self, verb: str, why: str, settings: list[Setting]) -> None:
        self.why, self.settings = printable(why, LONGEST_LINE), settings
        super().__init__(f"nothing to {verb}: {self.why}")


def select_measured(rows: Sequence[Row], metric: Metric, verb: str, without_row: int = 0) -> Selection:
    """Group the rows that have `metric`, and those of test runs that have not finished, by setting.

    Args:
        rows: of runs; search trials, which do not read test, are left out and counted.
        metric: accuracy that is shown.
        verb: what is done with it, for the error.
        without_row: runs of which nothing is known but that they have not finished.

    Raises:
        ValueError: an unknown metric, or one that the rows have in several units.
        NothingMeasuredError: no row has it.
    """
    choose_metric(rows, metric)
    rows = drop_repeats(rows)
    tested = [row for row in rows if not _is_trial(row, metric)]
    settings = group_by_seed(tested)
    notes = describe_lost(settings)
    if not any(setting.rows for setting in settings):
        why = f"none of {len(rows)} rows has {metric}"
        why += " (search trials do not read test)" if len(tested) < len(rows) else ""
        raise NothingMeasuredError(verb, "; ".join([why, *notes]), settings)
    if len(units := split_by_unit([setting.row for setting in settings if setting.rows], metric)) > 1:
        names = " and ".join(f"{of[0].dataset} ({of[0].figure_words.get(metric, of[0].task_kind)})" for of in units)
        told = printable(f"{metric} of {names}", LONGEST_LINE)
        raise ValueError(f"nothing to {verb} together: {told}: give the runs of one kind and unit")
    return Selection(settings, [*notes, *describe_left_out(rows, len(rows) - len(tested), without_row)])


def split_by_unit(rows: Iterable[Row], metric: Metric) -> list[list[Row]]:
    """Split rows by kind of task and by the unit of `metric`, which no table mixes."""
    units: dict[tuple[str, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        units[row.task_kind, row.figure_words.get(metric)].append(row)
    return list(units.values())


def describe_lost(settings: Sequence[Setting]) -> list[str]:
    """Describe the settings of which seeds have not finished, each in one note."""
    labels = disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])
    differing = [name for name in PANEL if len({str(getattr(setting.row, name)) for setting in settings}) > 1]
    notes = []
    for label, setting in zip(labels, settings, strict=True):
        if setting.lost:
            place = [text for name, text in describe_panel(setting.row).items() if name in differing]
            notes.append(f"{', '.join([label, *place])}: {setting.describe_lost()}")
    more = len(notes) - MOST_NOTES
    return notes if more <= 0 else [*notes[:MOST_NOTES], f"seeds of {more} more settings have not finished"]


def describe_panel(row: Row) -> dict[str, str]:
    """Describe each of the fields that a panel shares and that is not None: "digits", "224 px", "8 frames"."""
    words = {"img_size": "{} px", "num_frames": "{} frames"}
    values = {name: getattr(row, name) for name in PANEL}
    if not isinstance(row.img_size, int):
        values["img_size"] = " x ".join(map(str, row.img_size))
    return {name: words.get(name, "{}").format(value) for name, value in values.items() if value is not None}


def name_data(told: Mapping[str, str]) -> str:
    """Name data set and task of what `describe_panel` says, once where both say the same: "vtab1k clothing".

    Data that are found in a folder have its name as their task: fashion_mnist of /usr/share/datasets/fashion-mnist.
    """
    names = {re.sub(r"[\W_]", "", name.lower()) or name: name for key in reversed(OF_DATA) if (name := told.get(key))}
    return " ".join(reversed(names.values()))


def _is_trial(row: Row, metric: Metric) -> bool:
    """Whether a run did not read test, or if it has not finished, would not have."""
    return get_figure(row, metric) is None if row.status == FINISHED else row.n_test == 0


def describe_left_out(rows: Sequence[Row], trials: int = 0, without_row: int = 0) -> list[str]:
    """Count what is left out, and rows that do not hold all that is compared."""
    early = sum(row.setting is None for row in rows)
    counts = {
        "without test accuracy left out": trials,
        "without a row left out, unfinished": without_row,
        "of an earlier version, which recorded only some settings: what differs in others is not told apart": early,
    }
    return [f"{count} run{'s' * (count > 1)} {words}" for words, count in counts.items() if count]
