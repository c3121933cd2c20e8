"""Make the rows of tasks beyond one label an image: frozen probe, LoRA and AdaptFormer under one budget.

    python docs/results/task_rows.py miml_scenes                 # needs tasks/ in the current folder
    python docs/results/task_rows.py knee_mae --methods linear   # numbers; knee_grade: grades
    python docs/results/task_rows.py --show                      # what there is

The head reads the class token and the mean of the patches (recipe.head=class_mean), under every method.

The rule: the frozen probe is solved for (recipe=lbfgs) along a path of penalties. An adapter tries three rungs of the
ladder 1e-5, 3e-5, 1e-4, ... (what the method recommends and one on either side), `EPOCHS` epochs each, seed 0. val
chooses by the metric of the task, the penalty and the epoch too; then train and val together are trained on for as long
(protocol=val_select_retrain). The chosen setting is trained with the seeds 0 and 1, each of which reads test once; of a
solution the seed draws nothing. It can be stopped, and goes on where it was: rows/<set>/<method>.jsonl holds every run.
"""

import argparse
import math
from pathlib import Path

from search_rows import Line, quality, run, show_rows

from vision_peft.training import compose_config

ROWS = Path(__file__).parent / "rows"
LADDER = [float(f"{digit}e{power}") for power in range(-5, 0) for digit in (1, 3)]
SEEDS = (0, 1)
EPOCHS = 5
LISTS = [
    "protocol=val_select_retrain",
    "data=list",
    "data.train=train.csv",
    "data.val=val.csv",
    "data.test=test.csv",
    "backbone.img_size=112",
    "recipe.head=class_mean",
]
KNEES = [*LISTS, "data.root=tasks/ordinal/knee_kl"]
SETS = {
    "miml_scenes": [*LISTS, "data.root=tasks/multilabel/miml_scenes"],
    "knee_mae": [*KNEES, "data.target=value", "data.unit=grades"],
    "knee_grade": [*KNEES, "data.target=expert1", "data.task_kind=ordinal"],
    "knee_class": [*KNEES, "data.target=expert1"],
}
LAST = ["method.blocks=[8,9,10,11]"]  # what the frozen blocks below make is computed once
METHODS = {
    "linear": ["method=linear", "recipe=lbfgs"],
    "lora": ["method=lora", *LAST],
    "adaptformer": ["method=adaptformer", *LAST],
}


def study(name: str, method: str) -> list[Line]:
    """Search, then train the chosen setting with every seed."""
    path, words = ROWS / name / f"{method}.jsonl", [*SETS[name], *METHODS[method]]
    if method == "linear":
        return [run(path, words, 1.0, 15, 0, {})]
    recommended = compose_config(words).recipe.lr
    middle = min(range(len(LADDER)), key=lambda rung: abs(math.log(LADDER[rung] / recommended)))
    trials = [run(path, words, LADDER[rung], EPOCHS, 0, None) for rung in (middle, middle - 1, middle + 1)]
    best = max(trials, key=quality)
    tried = {"recipe.lr": sorted(line["lr"] for line in trials)}
    return [run(path, words, best["lr"], EPOCHS, seed, tried) for seed in SEEDS]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if arguments.show:
        show_rows(ROWS / name for name in SETS)
        return
    for method in arguments.methods:
        for line in study(arguments.set, method):
            print(f"== {arguments.set} {method} seed {line['seed']} lr {line['lr']:g}: {line['figures']}", flush=True)


if __name__ == "__main__":
    main()
