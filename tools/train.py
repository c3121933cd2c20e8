"""Train: python tools/train.py [group=config] [key=value] ...; --help tells more."""

import sys
from typing import Any

import hydra

from vision_peft.training import command_line
from vision_peft.training.suite import tasks_of, train_suite
from vision_peft.training.train import train

failed: list[str] = []  # tasks of suites


@hydra.main(config_path="../configs", config_name="config", version_base="1.3")
def main(composed: Any) -> None:
    """Train what Hydra composed; called once per run of a sweep."""
    with command_line.one_line_errors():
        config = command_line.checked(composed)
        if tasks := tasks_of(config):
            failed.extend(train_suite(config, tasks, command_line.command))
        else:
            train(config, command_line.command())


if __name__ == "__main__":
    with command_line.one_line_errors():
        sys.argv[1:] = command_line.prepare(sys.argv[1:])
    main()
    sys.exit(2 if failed else 0)
