"""Train: python tools/train.py [group=config] [key=value] ...; --help tells more."""

import sys
from typing import Any

import hydra

from vision_peft.config import command_line
from vision_peft.training.suite import list_tasks, train_suite
from vision_peft.training.trained import train

failed_tasks: list[str] = []  # of suites
failed_runs: list[str] = []  # of a sweep, as commands


@hydra.main(config_path="../configs", config_name="config", version_base="1.3")
def main(composed: Any) -> None:
    """Train what Hydra composed; called once per run of a sweep."""
    with command_line.sweep_goes_on(failed_runs), command_line.one_line_errors():
        config = command_line.checked(composed)
        if tasks := list_tasks(config):
            failed_tasks.extend(train_suite(config, tasks, command_line.command))
        else:
            train(config, command_line.command())


if __name__ == "__main__":
    with command_line.one_line_errors():
        sys.argv[1:] = command_line.prepare(sys.argv[1:])
    main()
    if failed_runs:
        told = "failed; the same sweep again runs only what is missing, or one by one:"
        print(f"\n{len(failed_runs)} of the runs {told}", *failed_runs, sep="\n  ", file=sys.stderr)
    sys.exit(command_line.USER_ERROR if failed_tasks or failed_runs else 0)
