"""How long a search will take, from a few updates of each method on the data itself."""

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from vision_peft.benchmarks.pipeline_and_updates import run_updates
from vision_peft.config.parse import Config
from vision_peft.runs.trackers import import_trackers
from vision_peft.search.candidates import Rungs
from vision_peft.search.compare_state import Progress
from vision_peft.training.cached_features import images_are_constant

UPDATES = 3  # that are timed, behind one that is not
OF_HEAD = 0.1  # of an update: one of a head on kept features
AROUND = 2  # times what comes before the second update: a run also looks at files, saves, and reads back
OF_FORWARD = 0.4  # of an update: a forward pass alone


@dataclass(frozen=True)
class Speed:
    """Seconds of the parts that a run is made of."""

    start_s: float  # what a run takes besides its epochs
    update_s: float


def is_solved(config: Config) -> bool:
    """Whether one run finds the best setting by itself: a head that is solved for, or k-NN."""
    return config.recipe.optimizer == "lbfgs" or any(method.brings_head for method in config.methods)


def learns_head_only(config: Config) -> bool:
    """Whether features are computed once, and epochs cost what the head does."""
    still = all(not method.changes_features for method in config.methods)
    return config.reuse_features and still and images_are_constant(config)


def measure_speed(config: Config) -> Speed:
    """Build what `config` says and time a few updates; the weights are thrown away.

    Raises:
        ValueError: a method that does not fit the backbone or the data.
    """
    recipe = config.recipe
    if recipe.optimizer == "lbfgs":
        recipe = dataclasses.replace(recipe, optimizer="adamw", lr=1e-3)
    started = time.perf_counter()
    updates = run_updates(dataclasses.replace(config, recipe=recipe))
    next(updates)  # warms up
    start = time.perf_counter() - started
    times = [next(updates)[0] for _ in range(UPDATES)]
    return Speed(AROUND * start, statistics.median(times))


def estimate_seconds(
    config: Config, progress: Progress, items: Mapping[str, int], rungs: Rungs, overhead_s: float = 0.0
) -> float:
    """Estimate the seconds of a whole search with its reading of test.

    Args:
        config: of the candidate.
        progress: with what was measured.
        items: number of items of train, val and test.
        rungs: of the search; one run where the setting is solved for.
        overhead_s: that a run takes beside what was measured.
    """
    assert progress.start_s is not None
    assert progress.update_s is not None
    start, update, batch = progress.start_s + overhead_s, progress.update_s, config.recipe.batch_size
    updates = {name: math.ceil(number / batch) for name, number in items.items()}
    runs = ((1, config.recipe.epochs),) if is_solved(config) else rungs
    test = start + OF_FORWARD * update * updates["test"]
    total = 0.0
    for settings, epochs in runs:
        if learns_head_only(config):
            once = OF_FORWARD * update * (updates["train"] + updates["val"])
            run = once + epochs * updates["train"] * OF_HEAD * update
        else:
            run = epochs * update * (updates["train"] + OF_FORWARD * updates["val"])
        total += settings * (start + run)
    return total + test


def import_late(config: Config) -> None:
    """Import what a training imports at its end, so that the memory it takes is not taken for that of the first run."""
    import torch.utils.flop_counter  # noqa: F401

    import_trackers(config.trackers)
