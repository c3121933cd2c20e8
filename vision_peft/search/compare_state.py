"""compare.json: what a comparison has measured and decided, so that the same command goes on with the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vision_peft.printable import printable
from vision_peft.safe_files import read_file, write_file
from vision_peft.strict_json import parse_json

FILE = "compare.json"
MAX_BYTES = 10**7
OPEN, DONE, SKIPPED = "open", "done", "skipped"
RATIOS = ("inference", "merged")  # a forward pass as it is, and merged, to the backbone
LARGEST = 1e15  # seconds, or times as slow


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
    ratios: dict[str, float | None] = field(default_factory=dict)  # by `RATIOS`


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
    """Read and check a file.

    Raises:
        ValueError: it holds something else.
    """
    try:
        raw = parse_json(read_file(path, MAX_BYTES))
        _check_keys(raw, State, "it", ("of", "budget_s", "memory", "candidates"))
        if not isinstance(raw["candidates"], dict):
            raise ValueError(f"candidates must be an object, got {printable(raw['candidates'], 40)}")
        for name, each in raw["candidates"].items():
            _check_keys(each, Progress, f"candidates.{printable(name, 40)}")
        state = State(**{**raw, "candidates": {name: Progress(**each) for name, each in raw["candidates"].items()}})
        _check_state(state)
        for name, each in state.candidates.items():
            _check_progress(f"candidates.{printable(name, 40)}.", each)
    except ValueError as error:
        raise ValueError(
            f"{path} is not what a comparison writes there ({error}): overwrite=true starts over"
        ) from error
    return state


def _check_keys(raw: Any, kind: type[State] | type[Progress], where: str, needed: Sequence[str] = ()) -> None:
    """Raise ValueError where `raw` is no object of fields of `kind`, those that are `needed` among them."""
    names = [item.name for item in fields(kind)]
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be an object, got {printable(raw, 40)}")
    if missing := [name for name in needed if name not in raw]:
        raise ValueError(f"{where} must have {missing[0]}")
    if unknown := [name for name in raw if name not in names]:
        raise ValueError(f"{where} must have no other keys than {', '.join(names)}, got {printable(unknown[0], 40)}")


def _check_state(state: State) -> None:
    _check("of", "an object", state.of, isinstance(state.of, dict))
    _check("memory", "a text or null", state.memory, isinstance(state.memory, str | None))
    for name in ("budget_s", "used_s"):
        _check_seconds(name, getattr(state, name))
    if state.level is not None:
        levels = state.of.get("levels")
        count = len(levels) if isinstance(levels, list) else 0
        sound = type(state.level) is int and 0 <= state.level < count
        _check("level", f"one of the {count} levels, from 0, or null", state.level, sound)


def _check_progress(where: str, progress: Progress) -> None:
    words, ratios, states = progress.words, progress.ratios, (OPEN, DONE, SKIPPED)
    texts = isinstance(words, list) and all(isinstance(word, str) for word in words)
    _check(f"{where}words", "a list of texts", words, texts)
    _check(f"{where}state", f"one of {', '.join(states)}", progress.state, progress.state in states)
    _check(f"{where}why", "a text", progress.why, isinstance(progress.why, str))
    _check_seconds(f"{where}took_s", progress.took_s)
    for name in ("start_s", "update_s", "estimate_s"):
        if (value := getattr(progress, name)) is not None:
            _check_seconds(f"{where}{name}", value)
    both = (progress.start_s is None) == (progress.update_s is None)
    _check(f"{where}start_s", "a number where update_s is one", progress.start_s, both)
    known = isinstance(ratios, dict) and {*ratios} <= {*RATIOS}
    sound = known and all(ratio is None or _is_number(ratio) for ratio in ratios.values())
    _check(f"{where}ratios", f"numbers or null by {' and '.join(RATIOS)}", ratios, sound)


def _check_seconds(name: str, value: Any) -> None:
    _check(name, f"seconds from 0 to {LARGEST:g}", value, _is_number(value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST


def _check(name: str, wanted: str, got: Any, sound: bool) -> None:
    if not sound:
        raise ValueError(f"{name} must be {wanted}, got {printable(got, 40)}")


def _cut(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
