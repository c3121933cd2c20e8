"""What the table of a comparison says below itself."""

import json
from pathlib import Path

from support.rows import sample_row

from vision_peft.memory.plan import MEMORY
from vision_peft.results.comparison import Entry
from vision_peft.results.row import Row
from vision_peft.search.compare_entries import describe_excess

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
