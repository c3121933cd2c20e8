"""What a comparison compares: a file of `configs/compare/` with methods, their sizes, and levels of search."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_peft.config.command_line import Composed
from vision_peft.config.errors import ConfigError
from vision_peft.config.find_configs import list_configs, read_uncomposed
from vision_peft.suggest import did_you_mean
from vision_peft.tuning.head_kinds import MAP_KINDS

# Factors on the learning rate that a method recommends, in the order of trying: enough for the largest level that ships
RATES = (1, 3, 1 / 3, 10, 1 / 10, 30, 1 / 30, 100, 1 / 100)
Rungs = tuple[tuple[int, int], ...]  # settings and epochs of each round
Values = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A method of the comparison."""

    name: str
    words: tuple[str, ...]  # overrides
    size_key: str | None = None
    sizes: tuple[Any, ...] = ()

    def list_settings(self, lr: float, number: int) -> list[Values]:
        """List the first settings: rates about `lr`, to one digit, each with every size."""
        rates = [float(f"{lr * factor:.1g}") for factor in RATES]
        if self.size_key is None:
            return [{"recipe.lr": rate} for rate in rates][:number]
        pairs = itertools.product(rates, self.sizes)
        return [{"recipe.lr": rate, self.size_key: size} for rate, size in pairs][:number]


@dataclass(frozen=True)
class Comparison:
    """What a file of `configs/compare/` holds."""

    candidates: tuple[Candidate, ...]
    levels: tuple[Rungs, ...]  # the largest first


def count_epochs(rungs: Rungs) -> int:
    """Count the epochs that a method gets in all."""
    return sum(settings * epochs for settings, epochs in rungs)


def read_comparison(name: str, config_dir: str | Path | None = None) -> Comparison:
    """Read the comparison of that name.

    Raises:
        ConfigError: there is none, or the file holds something else.
    """
    raw, path = read_uncomposed("compare", name, config_dir)
    if not isinstance(raw, dict) or raw.keys() != {"methods", "levels"} or not isinstance(raw["methods"], dict):
        raise ConfigError([f"{path}: wanted methods (what is typed by name) and levels (rounds of the search)"])
    candidates = [_read_candidate(str(key), value, path) for key, value in raw["methods"].items()]
    if not candidates:
        raise ConfigError([f"{path}: methods names none"])
    levels = raw["levels"]
    if not isinstance(levels, list) or not levels:
        raise ConfigError([f"{path}: levels must be a list such as [[[4, 2], [2, 5], [1, 10]]]"])
    return Comparison(tuple(candidates), tuple(_read_rungs(level, path) for level in levels))


def _read_candidate(name: str, raw: Any, path: Path) -> Candidate:
    entry: Any = {"train": raw} if isinstance(raw, str) else raw
    known = isinstance(entry, dict) and {"train"} <= entry.keys() <= {"train", "sizes"}
    sizes: Any = entry.get("sizes", {}) if known else None
    if not isinstance(sizes, dict) or not isinstance(entry["train"], str) or len(sizes) > 1:
        raise ConfigError([f"{path}: {name} must be what is typed, or have train and perhaps sizes (of one key)"])
    words = tuple(shlex.split(entry["train"]))
    for key, values in sizes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError([f"{path}: {name}: sizes.{key} must be a list of values"])
        return Candidate(name, words, str(key), tuple(values))
    return Candidate(name, words)


def _read_rungs(raw: Any, path: Path) -> Rungs:
    def is_rung(pair: Any) -> bool:
        return isinstance(pair, list) and len(pair) == 2 and all(type(each) is int and each > 0 for each in pair)

    if not isinstance(raw, list) or not raw or not all(map(is_rung, raw)):
        raise ConfigError([f"{path}: each of levels must list rounds as [settings, epochs], got {str(raw)[:60]}"])
    rungs = tuple((settings, epochs) for settings, epochs in raw)
    if any(later > earlier for (earlier, _), (later, _) in itertools.pairwise(rungs)):
        raise ConfigError([f"{path}: a round cannot have more settings than the one before, got {raw}"])
    return rungs


def find_kind(run: Composed) -> str:
    """Return the file of `configs/compare/` for such data: photos, clips, or masks where the head answers maps."""
    if str(run.raw["recipe"].get("head")).partition(" ")[0] in MAP_KINDS:
        return "masks"
    return "default" if run.raw["backbone"].get("num_frames") is None else "clips"


def choose_candidates(known: Sequence[Candidate], text: str | None, config_dir: str | Path | None) -> list[Candidate]:
    """Choose the candidates that `methods=LoRA,vpt` names: of the comparison, or configs of methods; all without it.

    Raises:
        ConfigError: names that are neither.
    """
    if text is None:
        return [*known]
    by_name = {_fold(candidate.name): candidate for candidate in known}
    configs = list_configs("method", (Path(config_dir),) if config_dir else ())
    found: dict[str, Candidate] = {}
    problems = []
    for name in filter(None, map(str.strip, text.strip("[]").split(","))):
        candidate = by_name.get(_fold(name)) or (Candidate(name, (f"method={name}",)) if name in configs else None)
        if candidate is None:
            names = [*(each.name for each in known), *configs]
            hint = did_you_mean(name.lower(), [each.lower() for each in names])
            problems.append(f"methods={name}: no such method{hint}; there are {', '.join(names)}")
        else:
            found[candidate.name] = candidate
    if not problems and not found:
        problems = ["methods= is empty: leave it out, or give methods=lora,vpt"]
    if problems:
        raise ConfigError(problems)
    return [*found.values()]


def _fold(name: str) -> str:
    return name.lower().replace("-", " ").replace("_", " ")


def describe_rungs(rungs: Rungs) -> str:
    """Describe a level: "4, 2 and 1 settings for 2, 5 and 10 epochs"."""
    columns: Mapping[str, list[str]] = {
        "settings": [str(settings) for settings, _ in rungs],
        "epochs": [str(epochs) for _, epochs in rungs],
    }
    words = [f"{_join(values)} {name}" for name, values in columns.items()]
    return " for ".join(words)


def _join(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"
