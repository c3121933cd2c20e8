"""compare.json: what a comparison has measured and decided, so that the same command goes on with the same."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vision_peft.safe_files import read_file, write_file
from vision_peft.strict_json import parse_json

FILE = "compare.json"
MAX_BYTES = 10**7
OPEN, DONE, SKIPPED = "open", "done", "skipped"


@dataclass
class Progress:
    """How far a candidate is."""

    words: list[str] = field(default_factory=list)  # overrides that make the candidate
    start_s: float | None = None  # of a run: loading, building the model
    update_s: float | None = None  # one update, its data included
    state: str = OPEN
    why: str = ""  # it was skipped
    estimate_s: float | None = None  # of its whole search at the chosen level
    took_s: float = 0.0
    ratios: dict[str, float | None] = field(default_factory=dict)  # inference: as it is, and merged, to the backbone


@dataclass
class State:
    """How far a comparison is."""

    of: dict[str, Any]  # what is compared, on what
    budget_s: float
    memory: str | None
    used_s: float = 0.0  # of all starts
    level: int | None = None  # of the search; None: not chosen yet
    candidates: dict[str, Progress] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write compare.json."""
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")


def open_state(folder: Path, of: Mapping[str, Any], budget_s: float, memory: str | None, fresh: bool) -> State:
    """Return the state of an earlier start of the same comparison, or a new one.

    With another budget or limit of memory, what was measured is kept and what was decided is not.

    Raises:
        ValueError: the folder holds another comparison, or the file something else.
    """
    path, new = folder / FILE, State(json.loads(json.dumps(of)), budget_s, memory)
    if fresh or not path.exists():
        return new
    known = _read(path)
    if differing := [key for key in {**known.of, **new.of} if known.of.get(key) != new.of.get(key)]:
        words = "; ".join(f"{key}: {_cut(known.of.get(key))} there, {_cut(new.of.get(key))} here" for key in differing)
        raise ValueError(
            f"{folder} holds another comparison ({words}): nothing was changed; give another output_dir=FOLDER, or "
            "overwrite=true to start over"
        )
    if (known.budget_s, known.memory) == (budget_s, memory):
        return known
    new.candidates = {
        name: Progress(words=each.words, start_s=each.start_s, update_s=each.update_s)
        for name, each in known.candidates.items()
    }
    return new


def _read(path: Path) -> State:
    try:
        raw = parse_json(read_file(path, MAX_BYTES))
        state = State(**{**raw, "candidates": {name: Progress(**each) for name, each in raw["candidates"].items()}})
        if not isinstance(state.of, dict) or not all(_is_sound(each) for each in state.candidates.values()):
            raise TypeError("values of other types")
        if any(type(each) not in (int, float) for each in (state.used_s, state.budget_s)):
            raise TypeError("values of other types")
        if state.level is not None and type(state.level) is not int:
            raise TypeError("values of other types")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what a comparison writes there ({str(error)[:100]}): overwrite=true starts over"
        ) from error
    return state


def _is_sound(progress: Progress) -> bool:
    kinds: dict[str, Any] = {"state": str, "why": str, "words": list, "ratios": dict}
    return progress.state in (OPEN, DONE, SKIPPED) and all(
        isinstance(getattr(progress, item.name), kinds.get(item.name, int | float | None)) for item in fields(progress)
    )


def _cut(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
