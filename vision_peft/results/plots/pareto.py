"""Find the Pareto front: the settings that no other one beats at the same cost or less."""

from collections.abc import Sequence

from vision_peft.results.figures import is_lower_better
from vision_peft.results.plots.axes import XAxis
from vision_peft.results.settings import Metric, Setting


def find_front(settings: Sequence[Setting], axis: XAxis, metric: Metric) -> list[Setting]:
    """Return the settings of a front by rising cost: each is better, in the mean over seeds, than all that cost less.

    Of settings of equal cost and mean the first counts. Those without the number of `axis` are not on a front.
    """
    sign = -1 if settings and is_lower_better(settings[0].row, metric) else 1
    found = [(axis.get(setting), setting.mean(metric), setting) for setting in settings]
    known = [(x, -sign * y, setting) for x, y, setting in found if x is not None and y is not None]
    front: list[Setting] = []
    best = float("inf")
    for _, loss, setting in sorted(known, key=lambda point: point[:2]):
        if loss < best:
            front.append(setting)
            best = loss
    return front


def shares_data(settings: Sequence[Setting]) -> bool:
    """Whether settings were trained and tested on the same data, so that one can beat another."""
    return len({(setting.row.data_digest, setting.row.n_train, setting.row.n_test) for setting in settings}) <= 1
