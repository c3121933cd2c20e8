"""A comparison of two methods on tiny images: the same search for both, what does not fit, killed and gone on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.killed import Killed
from support.rows import sample_row
from support.tiny_run import TINY

import vision_peft as vp
from vision_peft.config.command_line import compose_config, read_command_line
from vision_peft.memory.choose import DoesNotFit
from vision_peft.results.comparison import Entry
from vision_peft.results.find_rows import find_rows
from vision_peft.results.row import Row
from vision_peft.search import compare as module
from vision_peft.search.candidates import Candidate, find_kind, read_comparison
from vision_peft.search.compare import Contest
from vision_peft.search.compare_entries import list_entries
from vision_peft.search.compare_state import DONE, SKIPPED, Progress
from vision_peft.search.competitor import check_comparable
from vision_peft.search.estimate import Speed, estimate_seconds
from vision_peft.search.trials import Trial

PROBE = Candidate("linear probe", ("method=linear", "recipe=lbfgs"))
LORA = Candidate("LoRA", ("method=lora",), "method.rank", (2, 4))
FULL = Candidate("full", ("method=full",))
WORDS = [word for word in TINY if not word.startswith("recipe.epochs")]
SMALL = ((2, 1), (1, 2))
LEVELS = (((4, 500), (1, 999)), SMALL)
Start = Callable[..., Contest]


@pytest.fixture
def start(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A contest in `tmp_path`, whose updates are said to take a hundredth of a second, but for those of full: 10."""

    def measure(config: Any) -> Speed:
        return Speed(0.1, 10.0 if config.methods[0].name == "full" else 0.01)

    monkeypatch.setattr(module, "measure_speed", measure)

    def make(*candidates: Candidate, more: tuple[str, ...] = (), levels: Any = LEVELS, **limits: Any) -> Contest:
        words = [*WORDS, "data=folder", f"data.root={photos}", f"output_dir={tmp_path / 'runs'}", *more]
        lines: list[str] = []
        limits = {"budget_s": 60.0, "memory": None} | limits
        contest = Contest(words, candidates, levels, **limits, tell=lines.append)
        contest.lines = lines  # pyright: ignore[reportAttributeAccessIssue]
        return contest

    return make


def finish(contest: Contest) -> list[Entry]:
    contest.measure()
    contest.plan()
    contest.run()
    contest.measure_inference()
    return list_entries(contest)


def without_times(entries: list[Entry]) -> list[Any]:
    """All of the entries that no clock and no memory has a say in."""
    kept = ("top1", "correct", "val_top1", "lr", "params_trained", "adapter_bytes", "tried", "command", "curve")
    return [
        (entry.name, entry.why, entry.tried, entry.folder, entry.command, [getattr(entry.row, name) for name in kept])
        for entry in entries
        if entry.row
    ]


@pytest.mark.filterwarnings("ignore:.*no training image")
def test_methods_get_the_same_search_and_a_killed_comparison_ends_with_the_same_table(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> Contest:
        return start(PROBE, LORA, levels=(SMALL,), budget_s=1e5)

    entries = finish(begin())
    assert [entry.name.partition("-")[0] for entry in entries] == ["linear probe", "LoRA"]
    assert [entry.tried for entry in entries] == ["15 penalties", "4 epochs"]
    rows = [row for row in find_rows([tmp_path / "runs"]) if row.method == "lora"]
    tried = sorted((row.epochs, row.sizes[0], row.lr, row.top1 is None) for row in rows)
    assert [epochs for epochs, *_ in tried] == [1, 1, 2]
    assert {size for _, size, _, _ in tried[:2]} == {2, 4}
    assert [row.top1 is not None for row in rows].count(True) == 1  # test was read for the chosen setting only
    chosen = entries[1].row
    assert chosen is not None
    assert chosen.val_top1 == max(row.val_top1 or 0 for row in rows)
    assert chosen.tried == {"method.rank": [2, 4], "recipe.epochs": [1, 2], "recipe.lr": [vp.LoRA.recommended["lr"]]}
    assert entries[1].predicted_bytes is not None
    assert entries[1].inference is not None
    assert entries[1].merged is not None
    again = begin()
    assert without_times(finish(again)) == without_times(entries)
    assert again.lines == []  # pyright: ignore[reportAttributeAccessIssue]  # nothing was left to do

    real, calls = module.run_trial, iter(range(9))

    def die(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise Killed
        return real(*arguments)

    (tmp_path / "runs").rename(tmp_path / "whole")
    monkeypatch.setattr(module, "run_trial", die)
    with pytest.raises(Killed):
        finish(begin())
    monkeypatch.setattr(module, "run_trial", real)
    assert without_times(finish(begin())) == without_times(entries)


def test_a_method_that_does_not_fit_into_the_budget_is_left_out_with_its_estimate(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = start(PROBE, FULL)
    contest.measure()
    contest.plan()
    assert contest.state.level == 1  # the largest level would not even suffice for the probe and full together
    searched = []

    def search(competitor: Any) -> None:
        searched.append(competitor.name)
        competitor.progress.state, competitor.progress.took_s = DONE, 2 * competitor.progress.estimate_s

    monkeypatch.setattr(contest, "_search", search)
    contest.run()
    assert searched == ["linear probe"]
    full = next(each.progress for each in contest.all if each.name == "full")
    assert full.state == SKIPPED
    late = (contest.all[0].progress.estimate_s or 0) / 2  # a run, of two that took twice as long as estimated
    need = estimate_seconds(contest.all[1].config, full, contest.splits, LEVELS[1], late)
    assert need > 60
    assert full.why.startswith(f"it is estimated to take {need // 60:.0f} min {need % 60:.0f} s, and 5")
    assert full.why.endswith(" s of the budget were left")


def test_the_largest_level_that_fits_is_taken(start: Start) -> None:
    for budget, level in ((20.0, 1), (3600.0, 0)):
        contest = start(LORA, budget_s=budget)
        contest.measure()
        contest.plan()
        assert contest.state.level == level


def test_a_budget_that_is_too_small_for_the_cheapest_is_one_error(start: Start) -> None:
    contest = start(FULL, budget_s=30.0)
    contest.measure()
    with pytest.raises(ValueError, match=r"--budget 30 s is too small: full, the cheapest, .* --budget \d+m or more"):
        contest.plan()


def test_a_search_ends_where_the_budget_does(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = start(LORA)
    contest.measure()
    contest.plan()
    monkeypatch.setattr(module, "run_trial", lambda config, values, command: slow(contest, values))
    with pytest.raises(ValueError, match="LoRA: the budget was used up after 1 of its 3 trials"):
        contest.run()


def slow(contest: Contest, values: Any) -> Any:
    contest.started -= 100
    return Trial(values, Row(**sample_row(metric="top1", val_top1=50.0, status="finished")))


def test_too_little_memory_for_any_method_is_one_error(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise DoesNotFit("memory=1MB: the smallest that works here is about 600 MB; give as much")

    contest = start(LORA, PROBE, memory="1MB")
    contest.measure()
    contest.plan()
    monkeypatch.setattr(module, "run_trial", refuse)
    with pytest.raises(ValueError, match=r"be compared: .*: memory=1MB: .* 600 MB; .*, and likewise 1 more"):
        contest.run()


def test_a_method_that_does_not_fit_the_backbone_is_left_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Any) -> Speed:
        if config.methods[0].name == "lora":
            raise ValueError("LoRA needs blocks\nand more")
        return Speed(0.1, 0.01)

    monkeypatch.setattr(module, "measure_speed", refuse)
    contest = start(LORA, PROBE)
    contest.measure()
    assert [each.progress.why for each in contest.all] == ["LoRA needs blocks", ""]
    contest = start(LORA, more=("seed=1", f"output_dir={contest.folder}-other"))
    with pytest.raises(ValueError, match="none of the methods can be trained here: LoRA: LoRA needs blocks"):
        contest.measure()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_method_that_memory_does_not_hold_is_left_out(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(config: Any, *_: Any) -> Speed:
        if config.methods[0].name in failing:
            raise error
        return Speed(0.1, 0.01)

    failing = ["lora"]
    monkeypatch.setattr(module, "measure_speed", refuse)
    monkeypatch.setattr(module, "run_trial", refuse)
    contest = start(LORA, FULL, PROBE)
    contest.measure()
    contest.plan()
    failing = ["lora", "full", "linear"]
    with pytest.raises(ValueError, match=r"no method could be compared: .*: out of memory: give --memory"):
        contest.run()
    assert {each.progress.why for each in contest.all} == {module.OUT_OF_MEMORY}


def test_a_folder_with_a_comparison_of_other_data_is_refused(start: Start, tmp_path: Path) -> None:
    start(LORA).save()
    with pytest.raises(ValueError, match=r"holds another comparison \(seed: 0 there, 1 here\): .*output_dir=FOLDER"):
        start(LORA, more=("seed=1",))
    start(LORA, more=("seed=1", "overwrite=true"))
    (tmp_path / "runs" / "compare.json").write_text('{"of": 3}')
    with pytest.raises(ValueError, match="is not what a comparison writes there"):
        start(LORA)


def test_estimates_count_every_part_of_a_search() -> None:
    speed, items = Progress(start_s=1.0, update_s=0.5), {"train": 320, "val": 64, "test": 96}
    lora = compose_config(["method=lora"])
    per_epoch = 10 * 0.5 + 2 * 0.4 * 0.5
    test = 1 + 3 * 0.4 * 0.5
    assert estimate_seconds(lora, speed, items, ((2, 1), (1, 3))) == pytest.approx(3 + 5 * per_epoch + test)
    probe = compose_config(["method=linear", "recipe.epochs=7"])
    once = 12 * 0.4 * 0.5
    assert estimate_seconds(probe, speed, items, ((2, 4),)) == pytest.approx(2 * (1 + once + 4 * 10 * 0.05) + test)


@pytest.mark.slow
def test_a_comparison_killed_by_sigkill_ends_with_the_same_table(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "compare").mkdir(parents=True)
    text = "methods: {probe: method=linear recipe=lbfgs, LoRA: method=lora}\nlevels: [[[2, 1], [1, 2]]]\n"
    (own / "compare" / "small.yaml").write_text(text)
    words = [*WORDS, "data=folder", f"data.root={photos}", "compare=small", f"--config-dir={own}", "--budget=9h"]
    command = [sys.executable, "-m", "vision_peft", "compare", *words]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(command, cwd=whole, check=True, capture_output=True)
    for results in (1, 3):
        process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len([*killed.rglob("result.json")]) < results and process.poll() is None:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=killed, check=True, capture_output=True)
    names = ("method", "test", "low", "val", "lr", "epochs", "adapter_bytes", "command")
    tables = []
    for folder in (whole, killed):
        header, *lines = (folder / "runs" / "compare.csv").read_text().splitlines()
        places = [header.split(",").index(name) for name in names]
        tables.append(sorted([line.split(",")[place] for place in places] for line in lines))
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=vtab1k", "data.root=.", "data.task=all"], "works on one task: give data.task=NAME"),
        (["dry_run=true"], "has no dry run"),
    ],
)
def test_what_is_no_single_comparison_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"compare {message}"):
        check_comparable(compose_config(words))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["data=segmentation", "data.root=street", "recipe.head=seg_linear"], "masks"),
        (["data=moving_digits", "backbone=dinov2_small_pypi_clips"], "clips"),
        (["data=digits"], "default"),
    ],
)
def test_heads_are_solved_for_on_images_and_nothing_votes_under_a_head_for_maps(words: list[str], name: str) -> None:
    assert find_kind(read_command_line(words).runs[0]) == name
    typed = [" ".join(candidate.words) for candidate in read_comparison(name).candidates]
    assert any("recipe=lbfgs" in each for each in typed) == (name == "default")
    assert any("method=knn" in each for each in typed) == (name != "masks")
