"""What the fault campaign shares: photographs, runs that nobody harmed, and the table of what was lost.

`FAULTS_TABLE=table.md pytest -m faults` writes the table.
"""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.program import EVERYTHING, finish, left_behind
from filelock import FileLock
from PIL import Image

SPLITS = {"train": 16, "val": 4, "test": 4}  # images a class


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
    root, generator = place / "photos", np.random.default_rng(0)
    with FileLock(place / "photos.lock"):
        if not root.exists():
            for split, images in SPLITS.items():
                for channel, name in enumerate(("red", "green", "blue")):
                    (root / split / name).mkdir(parents=True)
                    for index in range(images):
                        pixels = generator.integers(0, 160, (12, 10, 3), dtype=np.uint8)
                        pixels[..., channel] += 95
                        Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def everything(photos: Path) -> list[str]:
    """Overrides of a run that takes seconds and uses all that keeps a state or draws a number."""
    return [*EVERYTHING, "data=folder", f"data.root={photos}"]


@pytest.fixture
def undisturbed(place: Path) -> Callable[..., dict[str, Any]]:
    """`undisturbed("name", *overrides, processes=2)`: what the run leaves that nobody harms; made once by all tests."""

    def run(name: str, *overrides: str, **how: Any) -> dict[str, Any]:
        with FileLock(place / f"{name}.lock"):
            if not (place / f"{name}.pickle").exists():
                finish(place / name, *overrides, **how)
                (place / f"{name}.pickle").write_bytes(pickle.dumps(left_behind(place / name)))
            return pickle.loads((place / f"{name}.pickle").read_bytes())

    return run


Note = Callable[..., None]


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


def _table(notes: list[list[Any]]) -> str:
    rows = ["| fault | runs | faults | updates lost at most | same adapter and figures |", "|---|---|---|---|---|"]
    for case in sorted({case for case, *_ in notes}):
        _, faults, lost, equal = zip(*(each for each in notes if each[0] == case), strict=True)
        told, promised = [n for n in lost if n is not None], [same for same in equal if same is not None]
        result = f"{sum(promised)} of {len(promised)}" if promised else "not promised"
        rows.append(f"| {case} | {len(faults)} | {sum(faults)} | {max(told) if told else '-'} | {result} |")
    return "\n".join(rows) + "\n"
