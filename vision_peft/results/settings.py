"""Group rows that differ only in the seed into settings, with mean and standard deviation over seeds."""

import json
import logging
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from vision_peft.results.row import Row, find_size_field

Metric = Literal["top1", "mean_per_class"]
METRICS = ("top1", "mean_per_class")
PANEL = ("dataset", "task", "backbone", "protocol")
RECIPE = ("n_train", "img_size", "num_frames", "views", "normalisation", "head", "batch_size", "epochs", "lr")
RECIPE += ("weight_decay",)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """The runs of one method setting on one task, one per seed."""

    rows: tuple[Row, ...]

    @property
    def row(self) -> Row:
        """Give any of the rows, for what all of them share."""
        return self.rows[0]

    def mean(self, name: str) -> float | None:
        """Average a field over the seeds that have a value; None if none has."""
        values = [value for row in self.rows if (value := getattr(row, name)) is not None]
        return statistics.fmean(values) if values else None

    def std(self, name: str) -> float | None:
        """Compute the standard deviation over seeds (n - 1); None with fewer than two."""
        values = [value for row in self.rows if (value := getattr(row, name)) is not None]
        return statistics.stdev(values) if len(values) > 1 else None


def group_by_seed(rows: Iterable[Row]) -> list[Setting]:
    """Group rows that differ only in the seed, in the order in which each setting first appears.

    A seed that occurs twice in a setting is not a second measurement: the first row counts (a row that read test before
    one that did not), the other is left out with a logged warning.
    """
    settings: dict[str, dict[int, Row]] = {}
    for row in rows:
        of_seed = settings.setdefault(_setting_key(row), {})
        first = of_seed.get(row.seed)
        if first is not None and first.top1 is not None and row.top1 is not None:
            log.warning("%s on %s: seed %d occurs twice, the second row is left out", row.label, row.dataset, row.seed)
        if first is None or first.top1 is None:
            of_seed[row.seed] = row
    return [Setting(tuple(of_seed[seed] for seed in sorted(of_seed))) for of_seed in settings.values()]


def flatten_fields(row: Row) -> dict[str, Any]:
    """Flatten the settings of a row besides task and seed: method fields (without the size) and recipe.

    Fields of stacked methods are prefixed with the method's name: `lora.targets`, `vpt.deep`.
    """
    flat: dict[str, Any] = {}
    for place, method in enumerate(row.methods, start=1):
        prefix = "" if len(row.methods) == 1 else f"{method['name']}."
        if any(other["name"] == method["name"] for other in row.methods[: place - 1]):
            prefix = f"{method['name']}_{place}."
        size = find_size_field(method["fields"])
        flat |= {prefix + name: value for name, value in method["fields"].items() if name != size}
    return flat | {name: getattr(row, name) for name in RECIPE}


def _setting_key(row: Row) -> str:
    return json.dumps([row.methods, [getattr(row, name) for name in PANEL + RECIPE]], sort_keys=True)
