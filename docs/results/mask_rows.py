"""Make the rows of segmentation and depth: frozen probe, LoRA and AdaptFormer under one budget.

    python docs/results/mask_rows.py camvid11                    # needs tasks/ in the current folder
    python docs/results/mask_rows.py kitchen --methods linear
    python docs/results/mask_rows.py --show                      # what there is

The rule: every method has `EPOCHS` epochs a run and the rates of `METHODS` to choose from, seed 0; val chooses rate
and epoch by the metric of the task (protocol=val_select). The chosen rate is trained with the seeds 0 and 1, each of
which reads test once. Adapters stand in the last two blocks: what the frozen ones below make is computed once. It can
be stopped, and goes on where it was: rows/<set>/<method>.jsonl holds every run.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from vision_peft.results.row import to_values
from vision_peft.training import compose_config, train

ROWS = Path(__file__).parent / "rows"
SEEDS = (0, 1)
EPOCHS = 16
SHARED = ["recipe.head=seg_linear", "recipe.batch_size=8", "backbone.img_size=[168,224]", f"recipe.epochs={EPOCHS}"]
SETS = {
    "camvid11": [*SHARED, "data=segmentation", "data.root=tasks/segmentation/camvid11"],
    "kitchen": [*SHARED, "data=depth", "data.root=tasks/depth/kitchen"],
}
LAST = "method.blocks=[10,11]"
METHODS = {  # and the rates to choose from
    "linear": (["method=linear"], (3e-3, 1e-2, 3e-2)),
    "lora": (["method=lora", LAST], (1e-3, 3e-3)),
    "adaptformer": (["method=adaptformer", LAST], (1e-3, 3e-3)),
}

Line = dict[str, Any]


def run(path: Path, words: list[str], lr: float, seed: int, tried: dict[str, list[Any]] | None) -> Line:
    """Train, or find the row; test is read where `tried` says what was compared before."""
    lines = [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.exists() else []
    for line in lines:
        if (line["lr"], line["seed"], bool(line["n_tested"])) == (lr, seed, tried is not None):
            return line
    words = [*words, f"recipe.lr={lr:g}", f"seed={seed}"]
    config = compose_config([*words, "output_dir=runs", *(["read_test=false"] if tried is None else [])])
    values = to_values(train(config, " ".join(["vision-peft train", *words]), tried).row)
    assert values is not None
    line = {**values, "n_tested": 0 if tried is None else values["n_test"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def quality(line: Line) -> float:
    """Return what val compares, the higher the better."""
    figure = line["val_figure"]
    return -math.inf if figure is None else -figure if line["lower_is_better"] else figure


def study(name: str, method: str) -> list[Line]:
    """Search, then train the chosen setting with every seed."""
    own, rates = METHODS[method]
    path, words = ROWS / name / f"{method}.jsonl", [*SETS[name], *own]
    best = max((run(path, words, rate, 0, None) for rate in rates), key=quality)
    return [run(path, words, best["lr"], seed, {"recipe.lr": list(rates)}) for seed in SEEDS]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if arguments.show:
        for path in sorted(path for name in SETS for path in (ROWS / name).glob("*.jsonl")):
            for line in map(json.loads, path.read_text("utf-8").splitlines()):
                tested = {name: round(own, 4) for name, own in line["figures"].items() if own is not None}
                where = f"lr {line['lr']:g} seed {line['seed']} val {line['val_figure']}"
                print(path.parent.name, path.stem, where, tested if line["n_tested"] else "trial")
        return
    for method in arguments.methods:
        for line in study(arguments.set, method):
            print(f"== {arguments.set} {method} seed {line['seed']} lr {line['lr']:g}: {line['figures']}", flush=True)


if __name__ == "__main__":
    main()
