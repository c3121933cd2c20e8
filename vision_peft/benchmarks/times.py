"""Time several things in turn, so that whatever else the machine does meets all of them alike.

On a CPU what is measured is the CPU time of this process with one thread, which other processes change little, or
wall-clock time with several threads, for which the machine must have nothing else to do; on a GPU it is the time
between two events there.
"""

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)
SHORTEST_S = 0.1  # of one reading on a GPU: what is shorter is repeated, as launching it takes time too
MOST_REPEATS = 20


@dataclass(frozen=True)
class Run:
    """Something to time."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None  # before each time, not timed


def describe_clock(device: torch.device, threads: int = 1) -> str:
    """Say what `measure_times` measures on a device."""
    if device.type != "cpu":
        return "time between two events on the GPU"
    return "CPU time of one thread" if threads == 1 else f"wall-clock time of {threads} threads"


def measure_times(
    runs: Mapping[K, Run],
    rounds: Iterable[int],
    device: torch.device,
    done: Callable[[], object] = lambda: None,
    threads: int = 1,
) -> Iterator[dict[K, float | None]]:
    """Time each of `runs` once in every round, and give the seconds round by round.

    Each round starts with another run, and calls `done` after each. A run for which memory does not suffice has None,
    and is left out from then on. `threads` says how many torch has been told to use on a CPU.
    """
    left, repeats = dict(runs), dict[K, int]()
    for number in rounds:
        keys, taken = list(left), dict[K, float | None]()
        start = number % max(len(keys), 1)
        for key in [*keys[start:], *keys[:start]]:
            try:
                left[key].prepare()
                if key not in repeats:
                    repeats[key] = _choose_repeats(left[key].run, device)
                taken[key] = measure_seconds(left[key].run, device, repeats[key], threads)
            except torch.OutOfMemoryError:
                taken[key] = None
                del left[key]
            done()
        yield taken


def _choose_repeats(run: Callable[[], object], device: torch.device) -> int:
    """Choose how often a run is repeated in one reading; on a GPU this runs it twice, the first time to warm up."""
    if device.type == "cpu":
        return 1
    run()
    return min(MOST_REPEATS, math.ceil(SHORTEST_S / measure_seconds(run, device)))


def measure_seconds(run: Callable[[], object], device: torch.device, repeats: int = 1, threads: int = 1) -> float:
    """Measure the seconds that one of `repeats` runs in a row takes; see `describe_clock`."""
    if device.type != "cuda":
        read = time.process_time if threads == 1 else time.perf_counter
        started = read()
        for _ in range(repeats):
            run()
        return (read() - started) / repeats
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(repeats):
        run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / repeats
