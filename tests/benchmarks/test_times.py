"""What is timed comes in turn; the times themselves are not asserted."""

import time

import pytest
import torch

from vision_peft.benchmarks.times import Run, describe_clock, measure_seconds, measure_times

CPU = torch.device("cpu")


def test_every_round_runs_all_once_and_starts_with_another() -> None:
    order: list[str] = []
    runs = {
        name: Run(lambda name=name: order.append(name), lambda name=name: order.append(f"prepare {name}"))
        for name in "abc"
    }
    done: list[int] = []
    rounds = list(measure_times(runs, range(1, 3), CPU, lambda: done.append(1)))
    assert [name for name in order if "prepare" not in name] == ["b", "c", "a", "c", "a", "b"]
    assert order[0] == "prepare b"
    assert order[::2] == [f"prepare {name}" for name in order[1::2]]
    assert [set(taken) for taken in rounds] == [{*"abc"}, {*"abc"}]
    assert len(done) == 6


def test_what_finds_no_memory_is_left_out_from_then_on() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise torch.OutOfMemoryError

    rounds = list(measure_times({"big": Run(fail), "small": Run(lambda: None)}, range(2), CPU))
    assert rounds[0]["big"] is None
    assert set(rounds[1]) == {"small"}
    assert len(calls) == 1


def test_only_the_time_of_this_process_counts_on_a_cpu() -> None:
    assert measure_seconds(lambda: time.sleep(0.3), CPU) < 0.2


def test_what_several_threads_take_is_time_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", iter([10.0, 13.0, 20.0, 26.0]).__next__)
    assert measure_seconds(lambda: None, CPU, threads=2) == 3
    assert list(measure_times({"only": Run(lambda: None)}, [0], CPU, threads=2)) == [{"only": 6}]
    assert describe_clock(CPU, 2) == "wall-clock time of 2 threads"


@pytest.mark.parametrize("repeats", [1, 3])
def test_repeats_are_averaged(monkeypatch: pytest.MonkeyPatch, repeats: int) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def run() -> None:
        clock[0] += 2

    assert measure_seconds(run, CPU, repeats) == 2
    assert clock[0] == 2 * repeats
