"""What the scripts that make rows by a search on val share: a run that is done once, what val compares, a list."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vision_peft.results.row import to_values
from vision_peft.training import compose_config, train

Line = dict[str, Any]


def run(
    path: Path,
    words: list[str],
    lr: float,
    epochs: int,
    seed: int,
    tried: dict[str, list[Any]] | None,
    decay: float | None = None,
) -> Line:
    """Train, or find the row; test is read where `tried` says what was compared before. `decay` is of weights."""
    lines = [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.exists() else []
    for line in lines:
        found = (line["lr"], line["seed"], line["epochs"], bool(line["n_tested"]))
        if found == (lr, seed, epochs, tried is not None) and decay in (None, line["weight_decay"]):
            return line
    words = [*words, f"recipe.lr={lr:g}", f"recipe.epochs={epochs}", f"seed={seed}"]
    words += [] if decay is None else [f"recipe.weight_decay={decay:g}"]
    config = compose_config([*words, "output_dir=runs", *(["read_test=false"] if tried is None else [])])
    values = to_values(train(config, " ".join(["vision-peft train", *words]), tried or None).row)
    assert values is not None
    if tried is None:  # where a run of the same setting read test before
        values |= {"figures": {}, "per_class": {}, "confusion": None, "correct": None, "hardest": []}
        values |= dict.fromkeys(("top1", "top5", "mean_per_class"))
    line = {**values, "n_tested": 0 if tried is None else values["n_test"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def quality(line: Line) -> float:
    """Return what val compares, the higher the better."""
    figure = line["val_figure"]
    return -math.inf if figure is None else -figure if line["lower_is_better"] else figure


def show_rows(folders: Iterable[Path]) -> None:
    """Print every row that is there."""
    for path in sorted(path for folder in folders for path in folder.glob("*.jsonl")):
        for line in map(json.loads, path.read_text("utf-8").splitlines()):
            figures = line["figures"] or {"top1": line["top1"]}
            tested = {name: round(own, 4) for name, own in figures.items() if own is not None}
            where = f"lr {line['lr']:g} seed {line['seed']} val {line['val_figure']}"
            print(path.parent.name, path.stem, where, tested if line["n_tested"] else "trial")
