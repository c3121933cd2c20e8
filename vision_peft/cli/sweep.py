"""Train every run of a sweep, several at a time, and show them in one table.

    vision-peft sweep sweep=methods_x_sizes data=digits --seeds 0,1,2 --jobs 2
    vision-peft sweep sweep=learning_rate method=lora data=digits read_test=false
    vision-peft sweep sweep=bottleneck_size data=digits --list
    vision-peft sweep sweep=data_share data=digits --slurm --jobs 32 --gpus 1 --minutes 120 --partition gpu

A sweep is a file of configs/sweep/ (or of --config-dir) with `runs` and `across`. Overrides are those of train, and
take precedence over those of the sweep. Finished runs are skipped and interrupted ones resumed, so the same command
continues after a stop. If another sweep is training a run, this one waits for it. The output of each run is in
OUTPUT_DIR/logs/. With --slurm every run is a job (pip install "vision_peft[slurm]"): this command submits up to --jobs
of them at a time and waits for all. Ctrl-C ends the command, not the jobs.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._errors import USER_ERROR
from vision_peft.cli._numbers import parse_positive, parse_seeds
from vision_peft.cli._roots import check_roots
from vision_peft.cli._verb import add_config_dir, announce_loading, make_parser, overrides_of, suggest_next
from vision_peft.cli.submit import add_resources, list_resources, read_resources
from vision_peft.config.command_line import read_command_line
from vision_peft.config.commands import door
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import list_configs
from vision_peft.distributed.submit_job import check_submission
from vision_peft.printable import for_shell, show

INTERRUPTED = 130
SEVERAL = "--seeds 0,1 runs several seeds, a file of configs/sweep/ several values"


def main(argv: Sequence[str]) -> int:
    """Parse, train what is missing, print the table."""
    parser = make_parser("sweep", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="sweep=NAME, and overrides as for train")
    parser.add_argument(
        "--seeds", type=parse_seeds, default=[], metavar="0,1,2", help="seeds of every run (default: seed)"
    )
    parser.add_argument("--jobs", type=parse_positive, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--list", action="store_true", help="print the runs and exit")
    parser.add_argument("--slurm", action="store_true", help="submit every run as a job")
    add_resources(parser)
    add_config_dir(parser)
    options = parser.parse_intermixed_args(argv)
    if not options.slurm and (given := list_resources(parser, options)):
        raise ConfigError([f"{', '.join(given)}: for jobs of Slurm, so give --slurm too"])
    names = [word.partition("=")[2] for word in options.overrides if word.startswith("sweep=")]
    if len(names) != 1:
        known = list_configs("sweep")
        raise ConfigError([f"give exactly one sweep=NAME, got {len(names)}; there are {', '.join(known)}"])
    options.overrides = [word for word in options.overrides if not word.startswith("sweep=")]
    overrides = overrides_of(options)
    check_roots(read_command_line(overrides, SEVERAL).runs)
    announce_loading()
    from vision_peft.results.table import format_rows
    from vision_peft.search.sweep import describe_failed, do_runs, list_runs, read_sweep
    from vision_peft.search.sweep_jobs import LocalJob, SubmittedJob

    runs = list_runs(read_sweep(names[0], options.config_dir), overrides, options.seeds)
    if options.list:
        show("\n".join(for_shell([*door("train"), *run.words]) for run in runs))
        return 0
    output_dir = runs[0].config.output_dir
    if options.slurm:
        resources = read_resources(options)
        check_submission(resources)
        start = functools.partial(SubmittedJob, resources=resources, folder=Path(output_dir, "jobs"))
    else:
        start = LocalJob
    outcome = do_runs(runs, options.jobs, show, start)
    if outcome.rows:
        show(f"\n{format_rows(outcome.rows, mean_over_seeds=True)}")
    if outcome.stopped:
        return INTERRUPTED
    if outcome.failed:
        again = "without overwrite=true" if runs[0].config.overwrite else "again"
        text = f"of the runs failed; the same command {again} runs them:"
        show("\n  ".join([f"\n{len(outcome.failed)} {text}", *describe_failed(outcome.failed)]), sys.stderr)
        return USER_ERROR
    if outcome.passed:
        show(f"\n{len(outcome.passed)} of {len(runs)} dry runs passed; nothing was kept")
        return 0
    suggest_next(["report", output_dir], ["plot", output_dir])
    return 0
