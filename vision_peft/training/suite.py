"""A whole benchmark by one command: the tasks that `data.task=all`, or a group's name, stands for, in turn."""

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch

from vision_peft.config.parse import Config
from vision_peft.data.problems import UnknownTask
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import LostProcess, join, print_rank0, rank0_first, reached_by_all
from vision_peft.distributed.stopping import Interrupted
from vision_peft.printable import show
from vision_peft.results.averages import average_tasks
from vision_peft.results.row import Row
from vision_peft.results.table import format_rows
from vision_peft.runs.find_run import find_run
from vision_peft.runs.run_folder import find_finished_row
from vision_peft.training.build import load_splits
from vision_peft.training.trained import train

ALL = "all"
LONGEST_APART_S = 60  # seconds between two processes that fail at the same task
# What a user can fix; anything else is a fault of the program and shows its traceback.
FIXABLE = (ValueError, OSError, ImportError, FloatingPointError, torch.OutOfMemoryError)


def list_tasks(config: Config) -> list[str]:
    """List the tasks that `data.task` stands for; none if it names one task."""
    suite, task = config.data.suite, dataclasses.asdict(config.data).get("task")
    return [name for group, names in suite.items() if task in (ALL, group) for name in names]


def train_suite(config: Config, tasks: Sequence[str], command: Callable[[str], str] = lambda task: "") -> list[str]:
    """Train every task as if it had been typed alone; print one table and the averages at the end.

    Finished tasks are reported, interrupted ones resume. A task that fails does not stop the others; of several
    processes all must fail at it, else the suite stops.

    Args:
        config: the config whose `data.task` is replaced.
        tasks: names of tasks, see `list_tasks`.
        command: the command line that starts the run of a task again.

    Returns:
        The tasks that failed.

    Raises:
        ValueError: data that cannot be read, of all tasks that are not finished, before the first one starts.
        Interrupted, LostProcess, KeyboardInterrupt: the whole suite stops; the same command again goes on there.
    """
    compute = choose_compute(config.device, config.precision, config.distributed.strategy)
    join(compute, config.distributed.timeout_s)
    with rank0_first():
        check_suite(config, tasks)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for place, task in enumerate(tasks, start=1):
        print_rank0(f"\n[{place}/{len(tasks)}] data.task={task}")
        try:
            rows.append(train(_one_task(config, task), command(task)).row)
        except (Interrupted, LostProcess):
            raise
        except Exception as error:
            if not reached_by_all(f"failed/{task}", LONGEST_APART_S):
                raise
            failed[task] = next(iter(str(error).splitlines()), "") or type(error).__name__
            if compute.is_main and (not isinstance(error, FIXABLE) or os.environ.get("HYDRA_FULL_ERROR")):
                show(traceback.format_exc(), sys.stderr)
            if compute.is_main:
                show(f"error: data.task={task}: {error}", sys.stderr)
    if rows and not config.dry_run:
        print_rank0("\n" + "\n".join(_table(config, rows)))
    if failed and compute.is_main:
        lines = [f"  {task}: {text}" for task, text in failed.items()]
        summary = f"{len(failed)} of {len(tasks)} tasks failed, the same command again runs only what is missing:"
        show("\n".join(["", summary, *lines]), sys.stderr)
    return list(failed)


def check_suite(config: Config, tasks: Sequence[str]) -> None:
    """Read the lists of every task that is not finished; one ValueError names all that is missing or wrong."""
    missing: list[str] = []
    problems: list[str] = []
    for task in tasks:
        single = _one_task(config, task)
        if not config.dry_run and find_finished_row(single, find_run(single)) is not None:
            continue
        try:
            load_splits(single)
        except UnknownTask:
            missing.append(task)
        except (ValueError, OSError) as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
    if missing:
        root = dataclasses.asdict(config.data).get("root")
        problems.insert(
            0,
            f"data.root={root} lacks {len(missing)} of {len(tasks)} tasks: {', '.join(missing)}; "
            "run those that are there with  -m data.task=<task>,<task>",
        )
    if problems:
        raise ValueError("\n  ".join(["nothing was started:", *problems]) if len(problems) > 1 else problems[0])


def _one_task(config: Config, task: str) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, task=task))


def _table(config: Config, rows: Sequence[Row]) -> Iterator[str]:
    yield format_rows(rows)
    yield ""
    for metric, name in (("top1", "top-1 %"), ("mean_per_class", "mean per class %")):
        of_task = {str(row.task): value for row in rows if (value := getattr(row, metric)) is not None}
        if means := average_tasks(of_task, config.data.suite):
            yield f"{name}: " + ", ".join(f"{label} {value:.2f}" for label, value in means.items())
