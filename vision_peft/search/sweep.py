"""Sweeps: which runs one stands for, and doing them, several at a time, in processes of their own.

A sweep is a file of `configs/sweep/`: `runs`, the overrides of each line of the table, and `across`, further keys of
which every value goes with every line.
"""

import itertools
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vision_peft.config.command_line import compose_config, with_values
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import read_uncomposed
from vision_peft.config.parse import Config
from vision_peft.distributed.stopping import starts_over
from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.results.row import RESULT, STATUS, Row
from vision_peft.runs.find_run import find_run
from vision_peft.runs.folder_lock import FolderLock
from vision_peft.runs.run_files import LOCK
from vision_peft.runs.run_folder import find_diverged_row, find_finished_row
from vision_peft.search.sweep_jobs import Job, LocalJob, StartJob

LOOK_EVERY_S = 0.5
MOST_RUNS = 10_000
LOGS = "logs"  # below output_dir: what each run printed


@dataclass(frozen=True)
class Sweep:
    """What a file of `configs/sweep/` holds."""

    runs: tuple[tuple[str, ...], ...]
    across: Mapping[str, tuple[Any, ...]]


@dataclass
class SweepRun:
    """One training of a sweep."""

    words: list[str]  # overrides
    config: Config
    folder: Path
    name: str  # what it has of its own
    seconds: float = 0.0  # that it took here

    def __post_init__(self) -> None:
        self._before = self._stamp_row()

    @property
    def log(self) -> Path:
        """The file that its output goes into."""
        below = self.folder.relative_to(self.config.output_dir)
        return Path(self.config.output_dir, LOGS, "--".join(below.parts) + ".txt")

    def find_row(self) -> Row | None:
        """Find the row of the run, if it need not be done again: it has finished or diverged.

        Where the sweep starts over, a row from before it counts as none.
        """
        if starts_over(self.config.overwrite) and self._stamp_row() == self._before:
            return None
        row = find_finished_row(replace(self.config, overwrite=False), self.folder)
        return find_diverged_row(self.folder) if row is None and self.folder.is_dir() else row

    def _stamp_row(self) -> list[tuple[int, int]]:
        """Stamp the files with a row: written anew they have another number or another time."""
        found = [path.stat() for name in (RESULT, STATUS) if (path := self.folder / name).is_file()]
        return [(each.st_ino, each.st_mtime_ns) for each in found]

    def is_taken(self) -> bool:
        """Whether another process trains it right now."""
        if not (self.folder / LOCK).is_file():
            return False
        try:
            FolderLock(self.folder / LOCK).release()
        except BlockingIOError:
            return True
        return False


@dataclass
class Outcome:
    """What became of a sweep."""

    rows: list[Row] = field(default_factory=list)
    failed: list[SweepRun] = field(default_factory=list)
    passed: list[SweepRun] = field(default_factory=list)  # dry runs, which leave no row
    stopped: bool = False


def read_sweep(name: str, config_dir: str | Path | None = None) -> Sweep:
    """Read the sweep of that name.

    Raises:
        ConfigError: there is none, or the file holds something else.
    """
    return _check(*read_uncomposed("sweep", name, config_dir))


def _check(raw: Any, path: Path) -> Sweep:
    if not isinstance(raw, dict) or not {"runs"} <= raw.keys() <= {"runs", "across"}:
        raise ConfigError([f"{path}: wanted runs (a list of overrides) and perhaps across (a list of values by key)"])
    runs, across = raw["runs"], raw.get("across") or {}
    if not isinstance(runs, list) or not runs or not all(isinstance(each, str) for each in runs):
        raise ConfigError([f"{path}: runs must be a list of texts such as 'method=lora method.rank=4'"])
    wrong = not isinstance(across, dict) or not all(isinstance(each, list) and each for each in across.values())
    if wrong:
        raise ConfigError([f"{path}: across must hold a list of values for each key"])
    found = tuple(tuple(shlex.split(each)) for each in runs)
    return Sweep(found, {str(key): tuple(values) for key, values in across.items()})


def list_runs(sweep: Sweep, overrides: Sequence[str], seeds: Sequence[int] = ()) -> list[SweepRun]:
    """List the trainings of a sweep, seed by seed, so that early ones already make a table; `overrides` go on top.

    Raises:
        ConfigError: the problems of all runs; `seeds` and a seed among the overrides.
    """
    typed = {word.partition("=")[0].lstrip("+"): word for word in overrides}
    if seeds and "seed" in typed:
        several = ",".join(map(str, seeds))
        raise ConfigError([f"wanted one of --seeds {several} and {printable(typed['seed'])}, got both"])
    count = len(sweep.runs) * max(len(seeds), 1)
    for values in sweep.across.values():
        count *= len(values)
    if count > MOST_RUNS:
        raise ConfigError([f"the sweep has {count:,} runs, and at most {MOST_RUNS:,} are started: split it into parts"])
    found: dict[Path, SweepRun] = {}
    problems: dict[str, None] = {}
    for seed, words, values in itertools.product(seeds or [None], sweep.runs, _combine(sweep.across)):
        own = with_values(list(words), {**values, **({} if seed is None else {"seed": seed})})
        run = [*overrides, *(word for word in own if word.partition("=")[0].lstrip("+") not in typed)]
        try:
            config = compose_config(run)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
            continue
        folder = find_run(config)
        found.setdefault(folder, SweepRun(run, config, folder, " ".join(own)))
    if problems:
        raise ConfigError(problems)
    return [*found.values()]


def _combine(across: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*across.values()):
        yield dict(zip(across, values, strict=True))


def do_runs(runs: Sequence[SweepRun], jobs: int, tell: Callable[[str], None], start: StartJob = LocalJob) -> Outcome:
    """Do the runs that are not done, `jobs` at a time, and collect the rows of all.

    The output of each goes into its log. What another process trains at the moment is waited for. A run that fails
    stops no other. Ctrl-C has local ones save their state and end.

    Args:
        runs: of a sweep.
        jobs: trainings at a time; local ones have their share of the cores each and, of several GPUs, one of them.
        tell: is given a line at each event.
        start: starts a training.
    """
    outcome, slots = Outcome(), dict[int, _Started]()
    waiting = [run for run in runs if run.config.dry_run or run.find_row() is None]
    if before := len(runs) - len(waiting):
        tell(f"{before} of {len(runs)} runs are done already")
    taken: list[SweepRun] = []
    took: list[float] = []

    def wait_for(run: SweepRun) -> None:
        tell(f"another process trains {run.folder}: waiting for it")
        taken.append(run)

    try:
        while waiting or slots or taken:
            for slot in sorted({*range(jobs)} - slots.keys())[: len(waiting)]:
                run = waiting.pop(0)
                if run.is_taken() and not run.config.dry_run:
                    wait_for(run)
                else:
                    slots[slot] = _Started(run, slot, jobs, start)
            time.sleep(LOOK_EVERY_S)
            looked = [(run, run.is_taken()) for run in taken]
            waiting += [run for run, still in looked if not still and run.find_row() is None]
            taken = [run for run, still in looked if still]
            for slot, started in [*slots.items()]:
                if (end := started.job.find_end()) is None:
                    continue
                del slots[slot]
                run, run.seconds = started.run, started.seconds
                passed = run.config.dry_run and started.job.has_passed()
                row = None if run.config.dry_run else run.find_row()
                if row is None and not run.config.dry_run and run.is_taken():
                    wait_for(run)
                    continue
                took += [run.seconds] * (passed or row is not None)
                outcome.passed += [run] * passed
                outcome.failed += [run] * (row is None and not passed)
                number = len(runs) - len(waiting) - len(slots) - len(taken)
                left = _describe_left(took, len(waiting) + len(slots), jobs)
                what = f"{end}, see {run.log}" if row is None else _describe(row)
                what = "dry run passed" if passed else what
                tell(f"[{number}/{len(runs)}] {run.name}: {what} ({run.seconds:.0f} s){left}")
    except KeyboardInterrupt:
        outcome.stopped = True
        again = "the same command without overwrite=true" if runs[0].config.overwrite else "the same command"
        tell(f"stopping: runs on this machine save their state; {again} continues from there")
    finally:
        for started in slots.values():
            if reason := started.job.stop():
                tell(f"{started.run.name}: {reason}")
    outcome.rows = [row for run in runs if not run.config.dry_run and (row := run.find_row()) is not None]
    return outcome


class _Started:
    """A run and its job."""

    def __init__(self, run: SweepRun, slot: int, jobs: int, start: StartJob) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        self.run, self._at = run, time.monotonic()
        self.job: Job = start(run, slot, jobs)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._at


def _describe(row: Row) -> str:
    from vision_peft.results.figures import describe_metric, format_number, get_figure, get_val_score

    figure, where = get_figure(row, row.metric), "test"
    if figure is None:
        figure, where = get_val_score(row), "val"
    if figure is None:
        return row.status
    words = describe_metric([row], row.metric).replace(" on test", "")
    return f"{words.partition(',')[0]} {format_number(figure)} on {where}"


def _describe_left(took: Iterable[float], left: int, jobs: int) -> str:
    took = [*took]
    if not took or not left:
        return ""
    minutes = sum(took) / len(took) * left / jobs / 60
    return f", {left} left, about {max(round(minutes), 1)} min"


def describe_failed(runs: Sequence[SweepRun]) -> list[str]:
    """Describe the runs that failed: the last line that each printed."""
    lines = []
    for run in runs:
        text = run.log.read_bytes()[-2000:].decode("utf-8", "replace").strip()
        lines.append(f"{run.name}: {printable(text.rpartition(chr(10))[2], LONGEST_LINE)}")
    return lines
