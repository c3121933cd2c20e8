"""What the table of a comparison says below itself."""

import json
from pathlib import Path
from typing import Any

from support.rows import sample_row

from vision_peft.config.command_line import compose_config
from vision_peft.memory.plan import MEMORY
from vision_peft.results.comparison import Entry
from vision_peft.results.row import Row
from vision_peft.search.candidates import Candidate
from vision_peft.search.compare_entries import count_tried_epochs, describe_excess, describe_less
from vision_peft.search.compare_state import DONE, Progress
from vision_peft.search.competitor import Competitor
from vision_peft.search.halving import halve
from vision_peft.search.trials import Trial

PLAN = {"accumulate": 1, "precision": "fp32", "recompute": "none", "draws": False, "items": 8, "key": "", "words": ""}


def make_entry(folder: Path, peak_mb: float | None, limit: int | None) -> Entry:
    folder.mkdir()
    if limit is not None:
        plan = PLAN | {"limit_bytes": limit, "predicted_bytes": limit, "before_bytes": 0}
        (folder / MEMORY).write_text(json.dumps(plan))
    return Entry(folder.name, Row(**sample_row(peak_memory_mb=peak_mb)), folder=str(folder))


def test_who_took_more_memory_than_its_limit_is_named(tmp_path: Path) -> None:
    above = make_entry(tmp_path / "k-NN", 1206.0, 10**9)
    others = [
        make_entry(tmp_path / "LoRA", 999.0, 10**9),
        make_entry(tmp_path / "full", 9999.0, None),
        make_entry(tmp_path / "VPT", None, 10**9),
        Entry("SSF", why="no time"),
    ]
    assert describe_excess([above, *others]) == ["more memory than the limit: k-NN (1.2 GB of 1.0 GB)"]
    assert describe_excess(others) == []


def compete(name: str, settings: int, worst_lr: float = 1.0) -> Competitor:
    """A candidate that tried so many settings in the rounds of `RUNGS`; rates from `worst_lr` on diverged."""

    def run(values: dict[str, Any]) -> Trial:
        epochs, lr = values["recipe.epochs"], values["recipe.lr"]
        lost: dict[str, Any] = (
            {"status": "diverged", "curve": [{"epoch": 0}]} if lr >= worst_lr else {"status": "finished"}
        )
        return Trial(values, Row(**sample_row(metric="top1", val_top1=50.0, epochs=epochs, **lost)))

    candidate = Candidate(name, ("method=lora",))
    trials = halve(candidate.list_settings(1e-3, settings), RUNGS, run)
    return Competitor(candidate, [], compose_config(["method=lora"]), Progress(state=DONE), trials)


RUNGS = ((8, 5), (4, 10), (2, 20))


def test_what_was_tried_is_counted_from_the_trials() -> None:
    whole, fewer, lost = compete("LoRA", 8), compete("SSF", 5), compete("full", 8, worst_lr=1e-3)
    assert [count_tried_epochs(each.trials) for each in (whole, fewer, lost)] == [120, 105, 5 + 3 * 5 + 30 + 40]
    assert describe_less([whole], RUNGS) == ""
    words = "SSF (5 of 8 settings, 105 epochs), full (8 of 8 settings, 90 epochs, 5 trials diverged)"
    assert describe_less([whole, fewer, lost], RUNGS) == words
    lost.progress.state = "skipped"
    assert describe_less([whole, lost], RUNGS) == ""
