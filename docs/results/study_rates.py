"""Which learning rate a method recommends: the rung with the best mean on val of the study's five data sets.

    python docs/results/study_rates.py    # the table, and what the methods recommend where that is another rate

Only rungs that were tried on every data set count: further ones were tried where val found the last of them best.
"""

import math
import statistics
from collections.abc import Mapping

from common_budget import SIZED
from study import DATA, list_settings, open_book

import vision_peft as vp
from vision_peft.results.report import format_table

FORMS = {"dtl_plus": "dtl"}  # settings that speak for a method of another name
Rates = dict[float, float]  # learning rate -> mean top-1 on val, %


def read_rates(setting: str) -> Rates:
    """Average the trials of a setting over the data sets; a run that diverged counts as 0."""
    found = []
    for data in DATA:
        best: Rates = {}
        for line in open_book(setting, data).trials:
            best[line["lr"]] = max(line["val_top1"] or 0.0, best.get(line["lr"], 0.0))
        found.append(best)
    everywhere = set.intersection(*(set(rates) for rates in found))
    return {rate: statistics.fmean(rates[rate] for rates in found) for rate in sorted(everywhere)}


def choose_rate(rates: Rates) -> float:
    """Choose the best one, the lower at a tie."""
    return max(sorted(rates), key=lambda rate: rates[rate])


def list_chosen() -> dict[str, float]:
    """Say for each method which rate the study chose for it; methods whose search is not done are left out."""
    rates = {FORMS.get(name, name): read_rates(name) for name in list_settings() if name not in SIZED}
    return {name: choose_rate(of) for name, of in rates.items() if name in vp.METHODS and len(of) >= 3}


def make_table(labels: Mapping[str, str]) -> list[str]:
    """Make a table of the means, a row for each of the settings in `labels` (setting -> what it is called)."""
    rates = {setting: of for setting in labels if (of := read_rates(setting))}
    rungs = sorted({rung for of in rates.values() for rung in of})
    table = [["method", *(f"{rung:g}" for rung in rungs)]]
    for setting, of in rates.items():
        best = choose_rate(of)
        table.append([labels[setting], *(_format(of.get(rung, math.nan), bold=rung == best) for rung in rungs)])
    return format_table(table, [False, *[True] * len(rungs)])


def _format(mean: float, *, bold: bool) -> str:
    if math.isnan(mean):
        return ""
    return f"**{mean:.1f}**" if bold else f"{mean:.1f}"


def main() -> None:
    """Print both."""
    print("\n".join(make_table({name: name for name in list_settings() if name not in SIZED})))
    for name, rate in list_chosen().items():
        if (recommended := vp.METHODS[name].recommended["lr"]) != rate:
            print(f"{name} recommends {recommended:g}; val chose {rate:g}")


if __name__ == "__main__":
    main()
