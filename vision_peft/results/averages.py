"""Average accuracies over the tasks of a benchmark, and over its groups of tasks."""

import statistics
from collections.abc import Mapping, Sequence

from vision_peft.results.figures import get_figure
from vision_peft.results.settings import Metric, Setting

Groups = Mapping[str, Sequence[str]]  # tasks of a benchmark by the name of their group
Mean = tuple[float, float | None]  # mean and, over several seeds, standard deviation (n - 1)


def average_tasks(accuracy: Mapping[str, float], groups: Groups) -> dict[str, float]:
    """Average the accuracies (%) of single tasks; the result is keyed by label.

    A group is averaged if all of its tasks are present. The two benchmark averages that papers report, over all tasks
    and over the groups' means, need every task; otherwise the label of the one mean counts the tasks that are present.
    """
    wanted = list_tasks(groups)
    means = {
        f"{group} ({len(tasks)})": statistics.fmean(accuracy[task] for task in tasks)
        for group, tasks in groups.items()
        if all(task in accuracy for task in tasks)
    }
    if wanted and len(means) == len(groups):
        over_groups = statistics.fmean(means.values())
        means[f"mean of {len(wanted)} tasks"] = statistics.fmean(accuracy[task] for task in wanted)
        if len(groups) > 1:
            means[f"mean of {len(groups)} groups"] = over_groups
    elif len(accuracy) > 1:
        means[f"mean of {len(accuracy)} tasks"] = statistics.fmean(accuracy.values())
    return means


def average_tasks_over_seeds(settings: Mapping[str, Setting], groups: Groups, metric: Metric) -> dict[str, Mean]:
    """Average settings keyed by task; if all tasks have the same seeds, with the deviation of the seeds' averages."""
    means = average_tasks({task: setting.mean(metric) or 0.0 for task, setting in settings.items()}, groups)
    of_seed = [{row.seed: get_figure(row, metric) or 0.0 for row in setting.rows} for setting in settings.values()]
    if any(rows.keys() != of_seed[0].keys() for rows in of_seed) or len(of_seed[0]) < 2:
        return {label: (mean, None) for label, mean in means.items()}
    seeds = [
        average_tasks({task: rows[seed] for task, rows in zip(settings, of_seed, strict=True)}, groups)
        for seed in of_seed[0]
    ]
    return {label: (mean, statistics.stdev(one[label] for one in seeds)) for label, mean in means.items()}


def list_tasks(groups: Groups) -> list[str]:
    """List all tasks of a benchmark, group by group."""
    return [task for tasks in groups.values() for task in tasks]
