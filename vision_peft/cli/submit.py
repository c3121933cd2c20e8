"""Submit a training to Slurm; at its time limit it is queued again and resumes.

    pip install "vision_peft[slurm]"
    vision-peft submit --nodes 2 --gpus 8 --minutes 480 --partition gpu method=vpt recipe.lr=1e-2

It uses submitit and starts one torchrun per node. It takes the overrides of train, --config-dir and --memory, and
checks them before it submits. The training must see the same files as this command: submit from a file system that
all nodes share.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._numbers import parse_number, parse_positive
from vision_peft.cli._verb import add_config_dir, announce_loading, make_parser, overrides_of
from vision_peft.config.command_line import read_command_line
from vision_peft.config.commands import through_the_door
from vision_peft.config.flags import write_memory_as_key
from vision_peft.distributed.submit_job import Resources, check_submission, submit_training
from vision_peft.printable import show

SEVERAL = "submit a job for each of them, or a sweep with  vision-peft sweep --slurm"


def main(argv: Sequence[str]) -> int:
    """Check, submit, say where the log is."""
    parser = make_parser("submit", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train")
    add_resources(parser)
    parser.add_argument("--logs", type=Path, default=Path("jobs"), metavar="DIR", help="folder of logs (default: jobs)")
    add_config_dir(parser)
    options = parser.parse_intermixed_args(write_memory_as_key(argv))
    resources, overrides = read_resources(options), overrides_of(options)
    command_line = read_command_line(overrides, through_the_door(SEVERAL))
    check_submission(resources)
    announce_loading()
    command_line.check_values()
    job = submit_training(overrides, resources, options.logs)
    show(f"job {job.job_id}: {job.paths.stdout}")
    return 0


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what a job asks Slurm for."""
    group = parser.add_argument_group("Slurm job")
    group.add_argument("--nodes", type=parse_positive, default=1, help="number of nodes (default: 1)")
    group.add_argument("--gpus", type=parse_number, default=1, help="per node, a process each; 0: the CPU (default: 1)")
    group.add_argument("--cpus", type=parse_positive, default=8, help="CPU cores per GPU (default: 8)")
    group.add_argument("--minutes", type=parse_positive, default=480, help="time limit; it then resumes (default: 480)")
    group.add_argument("--partition", help="Slurm partition")
    group.add_argument("--local", action="store_true", help="run on this machine in the background, as a test")


def list_resources(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """List the flags of `add_resources` that were given another value than their default."""
    names = ("nodes", "gpus", "cpus", "minutes", "partition", "local")
    return [f"--{name}" for name in names if getattr(options, name) != parser.get_default(name)]


def read_resources(options: argparse.Namespace) -> Resources:
    """Read what `add_resources` added."""
    return Resources(options.nodes, options.gpus, options.cpus, options.minutes, options.partition, options.local)
