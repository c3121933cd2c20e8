"""What the fault campaign shares: photographs, runs that nobody harmed, and the table of what was lost.

`FAULTS_TABLE=table.md pytest -m faults` writes the table.
"""

import contextlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support.harm import small_disk
from support.program import finish, last_step, resumed_at, run_folder, saved_step
from support.tiny_run import EVERYTHING, TINY, left_behind, write_photos

Undisturbed = Callable[..., dict[str, Any]]
Note = Callable[..., None]
GoesOn = Callable[..., int]
UPDATES_PER_EPOCH, EPOCHS = 6, 12  # 48 images in batches of 8, each in 2 parts


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of pytest share."""
    if not Path("/proc/self/environ").exists():
        pytest.skip(f"finds processes in /proc, which {sys.platform} does not have")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "faults"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def photos(place: Path) -> Path:
    """A tree train/val/test of red, green and blue noise."""
    root = place / "photos"
    with FileLock(place / "photos.lock"):
        if not root.exists():
            write_photos(root, {"train": 16, "val": 4, "test": 4})
    return root


@pytest.fixture(scope="session")
def everything(photos: Path) -> list[str]:
    """Overrides of a run that takes seconds and uses all that keeps a state or draws a number."""
    return [*TINY, *EVERYTHING, f"recipe.epochs={EPOCHS}", "data=folder", f"data.root={photos}"]


@pytest.fixture
def undisturbed(place: Path) -> Undisturbed:
    """`undisturbed("name", *overrides, processes=2)`: what the run leaves that nobody harms; made once by all tests."""

    def run(name: str, *overrides: str, **how: Any) -> dict[str, Any]:
        with FileLock(place / f"{name}.lock"):
            if not (place / f"{name}.pickle").exists():
                finish(place / name, *overrides, **how)
                (place / f"{name}.pickle").write_bytes(pickle.dumps(left_behind(run_folder(place / name))))
            return pickle.loads((place / f"{name}.pickle").read_bytes())

    return run


@pytest.fixture
def note(place: Path) -> Note:
    """`note("case", faults=1, lost=2, equal=True)`: one more run of a case; the table says what all of them came to.

    `lost` is the number of updates that were done and had to be done again, None where the case cannot tell. `equal`:
    whether the run ended with the adapter, bit for bit, and the figures of the undisturbed one; None where that is not
    promised.
    """

    def add(case: str, *, faults: int = 1, lost: int | None = None, equal: bool | None = None) -> None:
        with FileLock(place / "notes.lock"):
            with (place / "notes.jsonl").open("a") as file:
                file.write(json.dumps([case, faults, lost, equal]) + "\n")
            if target := os.environ.get("FAULTS_TABLE"):
                lines = (place / "notes.jsonl").read_text().splitlines()
                Path(target).write_text(_table([json.loads(line) for line in lines]), encoding="utf-8")

    return add


@pytest.fixture
def goes_on(note: Note, tmp_path: Path) -> GoesOn:
    """`goes_on("case", folder, whole, *overrides, at_most=1, processes=2)`: the same command again, after a fault.

    It must resume from the newest state that loads, with `at_most` so many updates to do again, and leave what the
    undisturbed run left (`whole`). Notes the case, and returns the update that it resumed from.
    """

    def check(case: str, folder: Path, whole: dict[str, Any], *overrides: str, at_most: int, **how: Any) -> int:
        saved = saved_step(folder, tmp_path / "copy")
        lost = last_step(folder) - saved
        printed = finish(folder, *overrides, **how)
        found, resumed = left_behind(run_folder(folder)), resumed_at(printed)
        changed = [name for name in whole if found[name] != whole[name]]
        note(case, lost=lost, equal=resumed == saved and not changed)
        assert resumed == saved, printed
        assert changed == [], printed
        assert 0 <= lost <= at_most
        return resumed

    return check


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, or no test where none can be mounted."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk", 2))
        except OSError as error:
            pytest.skip(str(error))
        yield tmp_path / "disk"


def _table(notes: list[list[Any]]) -> str:
    rows = ["| fault | runs | faults | updates lost at most | same adapter and figures |", "|---|---|---|---|---|"]
    for case in sorted({case for case, *_ in notes}):
        _, faults, lost, equal = zip(*(each for each in notes if each[0] == case), strict=True)
        told, promised = [n for n in lost if n is not None], [same for same in equal if same is not None]
        result = f"{sum(promised)} of {len(promised)}" if promised else "not promised"
        rows.append(f"| {case} | {len(faults)} | {sum(faults)} | {max(told) if told else '-'} | {result} |")
    return "\n".join(rows) + "\n"
