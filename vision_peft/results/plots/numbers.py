"""Write the numbers of a plot as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vision_peft.printable import for_csv
from vision_peft.results.figures import write_digits
from vision_peft.results.labels import format_value
from vision_peft.results.plots.axes import XAxis
from vision_peft.results.plots.panels import Panel
from vision_peft.results.settings import PANEL, Metric, Setting, list_settings
from vision_peft.safe_files import write_file

COUNTS = ("params_trained", "params_stored", "params_head")
COLUMNS = ("method", "name", "settings", *PANEL, "metric", "n_seeds", "mean", "std", "not_finished", *COUNTS)
COLUMNS += ("x", "x_mean", "x_std", "on_front")


def write_csv(path: Path, settings: Sequence[Setting], panels: Sequence[Panel], axis: XAxis, metric: Metric) -> None:
    """Write one line per setting with mean and standard deviation (n - 1) over the seeds that finished.

    `method` is what the plot calls it, `name` what is typed; `x_mean` is in the unit of the axis and empty where the
    rows do not have it; `on_front` is yes or no where a Pareto front was asked for.
    """
    drawn = {id(setting): panel for panel in panels for setting in panel.settings}
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for setting in settings:
            row, panel = setting.row, drawn.get(id(setting))
            settings_text = [
                f"{method['name']}.{name}={format_value(value)}"
                for method in row.methods
                for name, value in method["fields"].items()
            ]
            settings_text += [f"{name}={format_value(value)}" for name, value in list_settings(row).items()]
            where = ["" if (value := getattr(row, name)) is None else value for name in PANEL]
            mean = [write_digits(value) for value in (setting.mean(metric), setting.std(metric))]
            accuracy = [metric, len(setting.rows), *mean, setting.describe_lost()]
            x = [axis.field, *(write_digits(value) for value in (axis.get(setting), axis.spread(setting)))]
            front = "" if panel is None or not panel.front else "yes" if setting in panel.front else "no"
            cells = [row.label, row.method, "; ".join(settings_text), *where, *accuracy]
            writer.writerow(map(for_csv, [*cells, *(getattr(row, name) for name in COUNTS), *x, front]))
        write_file(path, file.getvalue())
