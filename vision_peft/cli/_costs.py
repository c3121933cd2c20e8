"""The cost table of `vision-peft benchmark`: what was asked for, how far it is, where it goes."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vision_peft.benchmarks.plan import Group, choose_methods, choose_peers, plan_methods, plan_preset
from vision_peft.cli._progress import Countdown
from vision_peft.cli._verb import announce_loading, write_output
from vision_peft.config.command_line import Composed, read_command_line
from vision_peft.config.commands import command_of
from vision_peft.config.find_configs import list_configs
from vision_peft.printable import show

COST_KEYS = ("methods=", "peers=")
ROUNDS = 7


def report_costs(options: argparse.Namespace, overrides: list[str], further: Mapping[str, Sequence[str]]) -> int:
    """Measure what methods cost, print the table and write it where `--out` says."""
    groups = _plan(options, overrides, further)
    first, *others = groups
    composed = [_compose(first)]  # whose names and keys are checked before torch is loaded
    announce_loading()
    from vision_peft.benchmarks.cost_table import format_costs, to_csv, to_markdown
    from vision_peft.benchmarks.costs import read_costs, to_json
    from vision_peft.benchmarks.measure_costs import Keeper, check_configs, measure_costs, start_costs

    configs = [{name: run.parse() for name, run in composed[0].items()}]
    check_configs(configs[0].values(), options.preset, options.threads)
    for group in others:
        configs.append({name: run.parse() for name, run in _compose(group).items()})
        check_configs(configs[-1].values(), options.preset, options.threads)
    costs = start_costs(next(iter(configs[0].values())), _command(options, overrides), options.threads or 1)
    files = {ending: Path(f"{options.out}{ending}") for ending in (".json", ".md", ".csv")} if options.out else {}
    before = read_costs(files[".json"]) if files else None
    if before is not None and before.is_same_machine(costs):
        costs = before
    elif before is not None:
        was = "by other code, by another clock or on another machine"
        show(f"{files['.json']} was measured {was}: measuring everything again", sys.stderr)
    rounds = options.rounds or ROUNDS
    progress = Countdown(sum(group.count() * (1 + 2 * rounds) for group in groups), "measurements")
    done = iter(range(1, sys.maxsize))

    def save() -> None:
        for ending, write in {".json": to_json, ".md": to_markdown, ".csv": to_csv}.items():
            if files:
                write_output(files[ending], write(costs))

    deadline = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    keeper = Keeper(save, lambda: progress.show(next(done)), deadline)
    finished = measure_costs(list(zip(groups, configs, strict=True)), rounds, costs, keeper)
    progress.clear()
    save()
    show(format_costs(costs))
    if not finished:
        hint = "the same command continues from there" if files else "with --out FILE the same command could continue"
        show(f"--minutes {options.minutes:g} ran out before everything was measured: {hint}", sys.stderr)
    return 0


def _compose(group: Group) -> dict[str, Composed]:
    return {name: read_command_line(group.words_of(name)).runs[0] for name in group.settings}


def _plan(options: argparse.Namespace, overrides: list[str], further: Mapping[str, Sequence[str]]) -> list[Group]:
    if options.json or options.updates is not None or options.seconds is not None:
        raise ValueError(
            "--json, --updates and --seconds are for the pipeline; the cost table takes --out and --rounds"
        )
    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {options.rounds}")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}")
    asked = {key: [w.removeprefix(key) for w in overrides if w.startswith(key)] for key in COST_KEYS}
    shared = [word for word in overrides if not word.startswith(COST_KEYS)]
    folders = (Path(options.config_dir),) if options.config_dir else ()
    methods = [name for text in asked["methods="] for name in choose_methods(text, list_configs("method", folders))]
    peers = [name for text in asked["peers="] for name in choose_peers(text)]
    if options.preset:
        if methods:
            raise ValueError("--preset has its own methods: leave methods= out, and add others with --against")
        return plan_preset(options.preset, shared, further, peers if asked["peers="] else None)
    if any(word.startswith("method=") for word in shared):
        raise ValueError('method= cannot be combined with methods=: add a setting with --against "method=..."')
    return plan_methods(methods, peers, shared, further)


def _command(options: argparse.Namespace, overrides: Sequence[str]) -> str:
    """Return the command that measures this table."""
    flags = [f"--against={text}" for text in options.against]
    given = {key: getattr(options, key) for key in ("preset", "rounds", "threads", "out")}
    flags += [f"--{key}={value}" for key, value in given.items() if value]
    return command_of(list(overrides), flags, "benchmark")
