"""Group rows that differ only in the seed into settings, with mean and standard deviation over seeds."""

import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vision_peft.printable import printable
from vision_peft.results.figures import get_figure, is_tested
from vision_peft.results.row import FINISHED, Row, find_size_field

Metric = str  # name of a figure, see `figures.py`
PANEL = ("dataset", "task", "backbone", "img_size", "num_frames", "protocol")  # what is compared side by side agrees in
RECIPE = ("n_train", "img_size", "num_frames", "views", "normalisation", "head", "batch_size", "epochs", "lr")
RECIPE += ("weight_decay",)
TUNED = ("lr", "weight_decay")  # what papers choose for each method, and each task, on its own
COMPUTED = ("precision", "world_size")
WEIGHTS = "sha256"  # of a file of weights, in `settings`
UNKNOWN = "unknown"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """The runs of one method setting on one task, one per seed; there is at least one."""

    rows: tuple[Row, ...]  # that have finished
    lost: tuple[Row, ...] = ()  # of other seeds, that have not

    @property
    def row(self) -> Row:
        """Give any of the rows, for what all of them share."""
        return (self.rows or self.lost)[0]

    def mean(self, name: str) -> float | None:
        """Average a field over the seeds that have a value; None if none has."""
        values = [value for row in self.rows if (value := get_figure(row, name)) is not None]
        return statistics.fmean(values) if values else None

    def std(self, name: str) -> float | None:
        """Compute the standard deviation over seeds (n - 1); None with fewer than two."""
        values = [value for row in self.rows if (value := get_figure(row, name)) is not None]
        return statistics.stdev(values) if len(values) > 1 else None

    def describe_seeds(self) -> str:
        """Count the seeds: "3", or "2 of 3" where the others have not finished."""
        return f"{len(self.rows)}" + f" of {len(self.rows) + len(self.lost)}" * bool(self.lost)

    def describe_lost(self) -> str:
        """Describe the seeds that have not finished: "1 of 3 seeds diverged at update 40"; empty if all have."""
        total = len(self.rows) + len(self.lost)
        of_status: dict[str, list[str]] = defaultdict(list)
        for row in self.lost:
            of_status[row.status].append("" if row.updates is None else str(row.updates))
        return ", ".join(
            f"{len(at)} of {total} seed{'s' * (total > 1)} {status}" + f" at update {' and '.join(at)}" * all(at)
            for status, at in of_status.items()
        )


def group_by_seed(rows: Iterable[Row]) -> list[Setting]:
    """Group rows that differ only in the seed, in the order in which each setting first appears.

    Two rows are of one setting if nothing that makes the experiment differs: settings, data, method, backbone,
    protocol, recipe. Rows of earlier versions, which do not hold all of that, are never of one setting with later ones,
    and with each other only if they agree in precision, processes and numbers of items too.
    """
    settings: dict[str, list[Row]] = defaultdict(list)
    for row in drop_repeats(rows):
        settings[_setting_key(row)].append(row)
    return [
        Setting(
            tuple(sorted((row for row in group if row.status == FINISHED), key=lambda row: row.seed)),
            tuple(sorted((row for row in group if row.status != FINISHED), key=lambda row: row.seed)),
        )
        for group in settings.values()
    ]


def drop_repeats(rows: Iterable[Row]) -> list[Row]:
    """Leave out rows of a setting and seed that are there already: the same run twice is not a second measurement.

    One that read test goes before one that did not, and that before one that has not finished; else the first counts.
    What is left out is named in the log, but for the search trial of a run that read test.
    """
    kept: dict[tuple[str, int], Row] = {}
    for row in rows:
        place = _setting_key(row), row.seed
        first = kept.setdefault(place, row)
        if first is row:
            continue
        kept[place] = max(first, row, key=_rank)
        if first.status != row.status or is_tested(first) == is_tested(row):
            other = row if kept[place] is first else first
            where = f"{row.label} on {' '.join(filter(None, (row.dataset, row.task)))}: seed {row.seed} occurs twice"
            if other.file is None:
                log.warning("%s, the second row is left out", printable(where))
            else:
                log.warning("%s, %s counts, %s is left out", *map(printable, (where, kept[place].file, other.file)))
    return list(kept.values())


def _rank(row: Row) -> tuple[bool, bool]:
    return row.status == FINISHED, is_tested(row)


def list_settings(row: Row) -> dict[str, Any]:
    """List what was set besides method, task and seed: recipe, data, then all else that differs from the defaults.

    Keys lose the sections `recipe` and `backbone`: `mixup`, `tubelet_size`, `data.balanced`. What the row holds in a
    field of its own is not repeated.
    """
    found = {name: getattr(row, name) for name in (*RECIPE, *COMPUTED)}
    found |= {"settings": UNKNOWN if row.settings is None else "known", "data": (row.data_digest or UNKNOWN)[:8]}
    for key, value in (row.settings or {}).items():
        short = key.removeprefix("recipe.").removeprefix("backbone.")
        known = short in (*found, *PANEL) and getattr(row, short, None) == value
        if not (known or _is_in_head(row, short, value)) and not key.startswith("method") and not key.endswith(".name"):
            found[key if short in found else short] = str(value)[:8] if short == WEIGHTS else value
    return found


def list_chosen_settings(row: Row) -> dict[str, Any]:
    """List the settings with the penalty that val chose as `weight_decay`, where a head was solved for along a path.

    What groups rows is `list_settings`: the path is the same for every seed, what val chooses on it is not.
    """
    found, penalties = list_settings(row), [entry for entry in row.curve if "penalty" in entry]
    chosen = next((entry for entry in penalties if entry.get("epoch") == row.chosen_epoch), None)
    return found if chosen is None else found | {"weight_decay": chosen["penalty"]}


def _is_in_head(row: Row, key: str, value: Any) -> bool:
    """Tell whether the head of the row says a setting: "attentive depth=2" does so of its kind and its depth."""
    words = row.head.split()
    is_option = key.startswith("head_options.") and f"{key.removeprefix('head_options.')}={value}" in words
    return is_option or (key == "head" and words[:1] == [value])


def list_method_fields(row: Row) -> dict[str, Any]:
    """List the fields of the methods without those that are their sizes."""
    flat: dict[str, Any] = {}
    for place, method in enumerate(row.methods, start=1):
        prefix = "" if len(row.methods) == 1 else f"{method['name']}."
        if any(other["name"] == method["name"] for other in row.methods[: place - 1]):
            prefix = f"{method['name']}_{place}."
        size = find_size_field(method["fields"])
        flat |= {prefix + name: value for name, value in method["fields"].items() if name != size}
    return flat


def _setting_key(row: Row) -> str:
    own = [getattr(row, name) for name in ("setting", "data_digest", "task_kind", *PANEL, *RECIPE)]
    if row.setting is None:
        own += [getattr(row, name) for name in COMPUTED]
    if row.data_digest is None:
        own += [row.n_val, row.n_test]
    return json.dumps([row.methods, own], sort_keys=True)
