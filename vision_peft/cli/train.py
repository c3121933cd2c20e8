"""Train as a config says, resume, or report the run that is there already."""

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from vision_peft.cli._errors import USER_ERROR, one_line_errors
from vision_peft.cli._roots import check_roots
from vision_peft.cli._verb import announce_loading, suggest_next
from vision_peft.config import command_line
from vision_peft.config.find_configs import find_configs
from vision_peft.config.flags import parse_flags, write_memory_as_key
from vision_peft.config.help import format_help
from vision_peft.printable import show

failed_tasks: list[str] = []  # of suites
failed_runs: list[str] = []  # of a sweep, as commands
finished: list[list[str]] = []  # what can be done with the last run, or suite, that was trained


def main(argv: Sequence[str]) -> int:
    """Check the command, then let Hydra start the run, or the runs of a sweep one after another."""
    argv = write_memory_as_key(argv)
    flags = parse_flags(argv)
    if flags.help:
        show(format_help(find_configs()))
        return 0
    command = command_line.read_command_line(argv, command_line.ADD_M)
    check_roots(command.runs)
    if command.runs:
        announce_loading()
        command.check_values()
    sys.argv[1:] = command.words
    hydra.main(version_base="1.3", config_path=str(find_configs()), config_name="config")(train_composed)()
    if failed_runs:
        text = "of the runs failed; the same sweep runs only the missing ones, or run them one by one:"
        show("\n  ".join([f"\n{len(failed_runs)} {text}", *failed_runs]), sys.stderr)
    elif finished and not failed_tasks:
        suggest_next(*finished)
    return USER_ERROR if failed_tasks or failed_runs else 0


def train_composed(composed: Any) -> None:
    """Train what Hydra composed; called once per run of a sweep."""
    from vision_peft.runs.find_run import find_run
    from vision_peft.training.suite import list_tasks, train_suite
    from vision_peft.training.trained import train

    with continue_sweep(failed_runs), one_line_errors():
        config = command_line.parse_composed(composed)
        if tasks := list_tasks(config):
            failed_tasks.extend(train_suite(config, tasks, command_line.command))
        else:
            train(config, command_line.command())
        if not config.dry_run:
            look_inside = [] if tasks else [["inspect", str(find_run(config))]]
            finished[:] = [*look_inside, ["report", config.output_dir], ["plot", config.output_dir]]


@contextlib.contextmanager
def continue_sweep(failed: list[str]) -> Iterator[None]:
    """Around one run: where it is one of a sweep and fails, its command is added to `failed`, and the next one starts.

    A stop on request, Ctrl-C and a lost process end the sweep as well. Launchers that start processes of their own
    learn of a failure by the error.
    """
    try:
        yield
    except (SystemExit, Exception) as error:
        stopped, hydra_ = isinstance(error, SystemExit) and error.code != USER_ERROR, HydraConfig.get()
        if stopped or hydra_.mode != RunMode.MULTIRUN or "BasicLauncher" not in hydra_.launcher["_target_"]:
            raise
        if not isinstance(error, SystemExit):
            show(traceback.format_exc(), sys.stderr)
        failed.append(command_line.command())
