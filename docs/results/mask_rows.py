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
from pathlib import Path

from search_rows import Line, quality, run, show_rows

ROWS = Path(__file__).parent / "rows"
SEEDS = (0, 1)
EPOCHS = 16
SHARED = ["recipe.head=seg_linear", "recipe.batch_size=8", "backbone.img_size=[168,224]"]
SETS = {
    "camvid11": [*SHARED, "data=segmentation", "data.root=tasks/segmentation/camvid11"],
    "kitchen": [*SHARED, "data=depth", "data.root=tasks/depth/kitchen"],
}
LAST = "method.blocks=[10,11]"
METHODS = {  # and the rates to choose from, as many for each
    "linear": (["method=linear"], (3e-3, 1e-2, 3e-2)),
    "lora": (["method=lora", LAST], (1e-3, 3e-3, 1e-2)),
    "adaptformer": (["method=adaptformer", LAST], (1e-3, 3e-3, 1e-2)),
}


def study(name: str, method: str) -> list[Line]:
    """Search, then train the chosen setting with every seed."""
    own, rates = METHODS[method]
    path, words = ROWS / name / f"{method}.jsonl", [*SETS[name], *own]
    best = max((run(path, words, rate, EPOCHS, 0, None) for rate in rates), key=quality)
    return [run(path, words, best["lr"], EPOCHS, seed, {"recipe.lr": list(rates)}) for seed in SEEDS]


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
