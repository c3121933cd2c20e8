"""A search on val: every point of the config's `grid` is trained as a trial that never opens test.

A trial is a run like any other, with protocol=val_select and read_test=false: it has a folder and a result.json of its
own, is found again when it is finished and resumes where it was interrupted. Best: the highest val top-1, at a tie the
lower val loss, then the earlier.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_peft.config.command_line import command_of, with_values
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config, parse_config, to_dict
from vision_peft.config.renames import describe_renamed_key
from vision_peft.config.sections import METHOD_KEYS, flatten
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import is_distributed, join, on_rank0, print_rank0, rank0_first
from vision_peft.distributed.stopping import starts_over
from vision_peft.results.figures import (
    describe_figure,
    describe_metric,
    format_number,
    get_val_score,
    rank_val_score,
)
from vision_peft.results.row import DIVERGED, Row, from_values, to_values
from vision_peft.results.table import format_rows
from vision_peft.runs.find_run import find_run
from vision_peft.runs.run_folder import find_diverged_row, find_finished_row
from vision_peft.suggest import did_you_mean
from vision_peft.training.build import describe_data_since, load_splits
from vision_peft.training.progress import Diverged
from vision_peft.training.suite import check_suite, list_tasks
from vision_peft.training.trained import train

SEARCHED = ("backbone", *METHOD_KEYS, "recipe")  # a seed, a task or a protocol is nothing to choose by accuracy
Values = dict[str, Any]  # of a point of the grid, by dotted key
Search = Callable[[Config, Callable[[Values], str]], list["Trial"]]


@dataclass(frozen=True)
class Trial:
    """One point of a search and the row of its run, in which test was not read."""

    values: Values
    row: Row

    @property
    def val_loss(self) -> float:
        """Loss on val at the chosen epoch; infinite where the trial diverged."""
        key, score = f"val_{self.row.metric}", get_val_score(self.row)
        losses = [entry["val_loss"] for entry in self.row.curve if entry.get(key) == score]
        return min((loss for loss in losses if loss is not None and math.isfinite(loss)), default=math.inf)

    @property
    def diverged(self) -> str | None:
        """Why there is no accuracy, None where there is one."""
        return self.row.reason or DIVERGED if self.row.status == DIVERGED else None


def read_grid(config: Config) -> dict[str, list[Any]]:
    """Values to try by dotted key, `recipe.lr: [...]`; of a key that is there twice the later, and none where null.

    Raises:
        ConfigError: no grid, unknown keys, keys that are not the search's to choose, values that are not lists.
    """
    grid = {key: values for key, values in flatten(config.grid).items() if values is not None}
    if not grid:
        example = "give grid.recipe.lr=[1e-3,1e-2], or an experiment that has a grid (vision-peft train --help)"
        raise ConfigError([f"nothing to search, the grid is empty: {example}"])
    known = [key for key in flatten(to_dict(config)) if key.split(".")[0] in SEARCHED and not key.endswith(".name")]
    problems = []
    for key, values in grid.items():
        if key not in known:
            hint = f": {renamed}" if (renamed := describe_renamed_key(key)) else did_you_mean(key, known)
            hint = hint or f"; a search chooses keys of {', '.join(SEARCHED[:2])} and recipe"
            problems.append(f"grid.{key}: there is nothing of that name to search{hint}")
        elif not isinstance(values, list | tuple) or not values:
            problems.append(f"grid.{key} must be a list of values such as [1,10], got {values!r}")
    if problems:
        raise ConfigError(problems)
    return {key: list(values) for key, values in grid.items()}


def expand_grid(config: Config) -> list[Values]:
    """Every combination of the grid, the last key fastest; ConfigError lists the values that are refused."""
    grid = read_grid(config)
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    problems: dict[str, None] = {}
    for values in found:
        try:
            trial_config(config, values)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))
    return found


def replace_values(config: Config, values: Mapping[str, Any], **settings: Any) -> Config:
    """`config` with `values` by dotted key and `settings` above the groups; ConfigError where they are refused."""
    raw = to_dict(config) | {"grid": {}} | settings
    for key, value in values.items():
        *sections, name = key.split(".")
        section = raw
        for each in sections:
            section = section[each]
        section[name] = value
    return parse_config(raw)


def trial_config(config: Config, values: Mapping[str, Any]) -> Config:
    """Make the config of a trial: trained on train, compared on val, without test."""
    return replace_values(config, values, protocol="val_select", read_test=False)


def run_trial(config: Config, values: Values, command: str = "") -> Trial:
    """Train one point, resume it or find it finished; one that diverges leaves a row that says so."""
    trial = trial_config(config, values)
    folder = find_run(trial)
    row = from_values(on_rank0(lambda: to_values(find_ended_row(trial, folder))))
    if row is not None:
        about_data = on_rank0(lambda: describe_data_since(trial, folder))
        print_rank0(f"finished before: {folder}{about_data}")
        return Trial(values, row)
    try:
        return Trial(values, train(trial, command).row)
    except Diverged as error:
        print_rank0(f"diverged: {error}")
        row = from_values(on_rank0(lambda: to_values(find_diverged_row(folder))))
        if row is None:
            raise
        return Trial(values, row)


def find_ended_row(config: Config, folder: Path) -> Row | None:
    """Find the row of a trial that need not be run again: it has finished or diverged."""
    row = find_finished_row(config, folder)
    return row if row is not None or starts_over(config.overwrite) else find_diverged_row(folder)


def search_grid(config: Config, command: Callable[[Values], str] = lambda values: "") -> list[Trial]:
    """Run a trial of every point of the grid, in its order."""
    found = expand_grid(config)
    trials = []
    for place, values in enumerate(found, start=1):
        print_rank0(f"\n[{place}/{len(found)}] {format_values(values)}")
        trials.append(run_trial(config, values, command(values)))
    return trials


def rank_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Sort trials: the best first, those that diverged last."""
    return sorted(trials, key=lambda trial: (trial.diverged is not None, -rank_val_score(trial.row), trial.val_loss))


def format_trials(trials: Sequence[Trial]) -> str:
    """Table of the trials, the best first."""
    keys = list(trials[0].values)
    lines = [[f"val {describe_figure(trials[0].row, trials[0].row.metric)}", "val loss", *keys]]
    for trial in rank_trials(trials):
        score = get_val_score(trial.row)
        figures = ["-", "-"] if score is None else [format_number(score), f"{trial.val_loss:.4f}"]
        lines.append([*figures, *(str(trial.values[key]) for key in keys), trial.diverged or ""])
    widths = [max(len(line[place]) for line in lines) for place in range(len(keys) + 2)]
    return "\n".join("  ".join([*map(str.rjust, line, widths), *line[len(widths) :]]).rstrip() for line in lines)


def _format_score(row: Row, score: float) -> str:
    """Write what val chose by: "97.50 %", "MAE 0.799"."""
    if row.metric == "top1":
        return f"{score:.2f} %"
    name, _, unit = describe_metric([row], row.metric).replace(" on test", "").partition(", ")
    return f"{name} {format_number(score)}{' ' * bool(unit)}{unit}"


def format_values(values: Mapping[str, Any]) -> str:
    """Values as they are typed."""
    return " ".join(with_values([], values))


def tune_and_test(
    config: Config,
    overrides: list[str],
    search: Search = search_grid,
    final: bool = False,
    seeds: Sequence[int] = (),
) -> list[Row]:
    """Search, print the trials and the command that reads test with the best one, and run it with `final`.

    Args:
        config: what `overrides` compose to; its protocol is that of the command. Where `data.task` stands for several
            tasks each has a search of its own.
        overrides: as they were typed, for the commands.
        search: `search_grid`, or another way to choose the points.
        final: train the best setting by the config's protocol and read test, once for each seed.
        seeds: of the command; none: the config's.

    Returns:
        The rows of the final runs.

    Raises:
        ConfigError: a grid that cannot be searched, before the first trial.
        ValueError: every trial diverged; or what the data refuses.
    """
    first, tasks = expand_grid(config)[0], list_tasks(config)
    if config.dry_run:
        train(trial_config(replace_values(config, {"data.task": tasks[0]} if tasks else {}), first))
        return []
    before = replace_values(config, first, read_test=True) if final else trial_config(config, first)
    join(choose_compute(config.device, config.precision, config.distributed.strategy), config.distributed.timeout_s)
    with rank0_first():
        if tasks:
            check_suite(before, tasks)
        else:
            load_splits(before)
    rows: list[Row] = []
    for task in tasks or [None]:
        values = {} if task is None else {"data.task": task}
        if task is not None:
            print_rank0(f"\n== data.task={task}")
        rows += _one_search(
            replace_values(config, values, grid=config.grid), with_values(overrides, values), search, final, seeds
        )
    if rows:
        print_rank0(f"\n{format_rows(rows, mean_over_seeds=True)}")
    return rows


def _one_search(config: Config, overrides: list[str], search: Search, final: bool, seeds: Sequence[int]) -> list[Row]:
    typed = [text for text in overrides if text.lstrip("+").partition("=")[0].split(".")[0] != "grid"]
    trial_settings = {"protocol": "val_select", "read_test": False}
    trials = search(config, lambda values: command_of(with_values(typed, values | trial_settings)))
    print_rank0(f"\n{format_trials(trials)}")
    best = rank_trials(trials)[0]
    score = get_val_score(best.row)
    if score is None:
        raise ValueError(f"all {len(trials)} trials diverged: try lower values of recipe.lr")
    chosen = with_values([text for text in typed if not text.startswith("read_test=")], best.values)
    found = f"{format_values(best.values)} ({_format_score(best.row, score)} on val)"
    print_rank0(f"\nval chose {found}; the command that reads test with it:")
    if len(seeds) > 1 and is_distributed():  # -m is for one process
        for seed in seeds:
            print_rank0(f"  {command_of(with_values(chosen, {'seed': seed}))}")
    elif len(seeds) > 1:
        several = [*(text for text in chosen if not text.startswith("seed=")), f"seed={','.join(map(str, seeds))}"]
        print_rank0(f"  {command_of(several, flags=['-m'])}")
    else:
        print_rank0(f"  {command_of(with_values(chosen, {'seed': seeds[0]} if seeds else {}))}")
    if not final:
        return []
    tried = {key: _list_distinct([trial.values[key] for trial in trials]) for key in best.values}
    rows = []
    for seed in seeds or [config.seed]:
        one = replace_values(config, best.values, seed=seed, read_test=True)
        rows.append(train(one, command_of(with_values(chosen, {"seed": seed})), tried).row)
    return rows


def _list_distinct(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]
