"""Make the rows of segmentation and depth: frozen probe, LoRA and AdaptFormer under one budget.

    python docs/results/mask_rows.py camvid11                    # needs tasks/ in the current folder
    python docs/results/mask_rows.py kitchen --methods linear
    python docs/results/mask_rows.py --show                      # what there is

The rule: every method has the epochs a run and the three settings of `METHODS` to choose from, seed 0: rates of an
adapter, weight decays of the frozen probe, which is nothing but its head. val chooses setting and epoch by the metric
of the task (protocol=val_select). The chosen one is trained with the seeds 0 and 1, each of which reads test once.
Adapters stand in the last two blocks: what the frozen ones below make is computed once. The frozen probe, whose
features are computed once, has more epochs, which cost it nothing. On kitchen, whose val has ten frames, an average of
the weights is what val sees (recipe.ema), or else it chooses an epoch by chance. On water7, whose images have seven
bands, the patch embedding trains too (input_tuning, alone and under the adapters in all blocks), with flips. It can be
stopped, and goes on where it was: rows/<set>/<method>.jsonl holds every run.
"""

import argparse
from pathlib import Path

from search_rows import Line, quality, run, show_rows

ROWS = Path(__file__).parent / "rows"
SEEDS = (0, 1)
SHARED = ["recipe.head=seg_linear", "recipe.batch_size=8", "backbone.img_size=[168,224]"]
WATER = ["data=segmentation", "data.root=tasks/multispectral/water7", "data.channels=7", "protocol=val_select"]
SETS = {
    "camvid11": [*SHARED, "data=segmentation", "data.root=tasks/segmentation/camvid11"],
    "kitchen": [*SHARED, "data=depth", "data.root=tasks/depth/kitchen", "recipe.ema=0.95"],
    "water7": [*WATER, "recipe.head=seg_upernet", "recipe.batch_size=8", "backbone.img_size=140"],
}
LAST = "method.blocks=[10,11]"
Setting = tuple[float, float]  # rate, weight decay
FIRM = [(1e-2, 1e-4), (1e-2, 1.0), (1e-2, 10.0)]
RATES = [(1e-3, 1e-4), (3e-3, 1e-4), (1e-2, 1e-4)]
LOWER = [(3e-4, 1e-4), (1e-3, 1e-4), (3e-3, 1e-4)]
METHODS = {  # and the epochs and settings to choose from, as many for each
    "linear": (["method=linear"], 100, FIRM),
    "lora": (["method=lora", LAST], 16, RATES),
    "adaptformer": (["method=adaptformer", LAST], 16, RATES),
}
METHODS_ON_DEPTHS = {**METHODS, "linear": (["method=linear"], 100, [(1e-3, 1.0), (1e-3, 10.0), (1e-3, 30.0)])}
BANDS = ["method=input_tuning", "method.part=patch_embed", "recipe.augment=flip"]
METHODS_ON_BANDS = {
    "linear": (["method=linear"], 100, LOWER),
    "input_tuning": (BANDS, 12, LOWER),
    "lora": ([*BANDS, "+method_2=lora"], 12, LOWER),
    "adaptformer": ([*BANDS, "+method_2=adaptformer"], 12, LOWER),
}


def choose_methods(name: str) -> dict[str, tuple[list[str], int, list[Setting]]]:
    """Choose the methods of a data set."""
    return {"kitchen": METHODS_ON_DEPTHS, "water7": METHODS_ON_BANDS}.get(name, METHODS)


def study(name: str, method: str) -> list[Line]:
    """Search, then train the chosen setting with every seed."""
    own, epochs, settings = choose_methods(name)[method]
    path, words = ROWS / name / f"{method}.jsonl", [*SETS[name], *own]
    trials = [run(path, words, rate, epochs, 0, None, decay) for rate, decay in settings]
    best = max(trials, key=quality)
    rates, decays = (sorted(set(values)) for values in zip(*settings, strict=True))
    tried = {key: values for key, values in (("recipe.lr", rates), ("recipe.weight_decay", decays)) if len(values) > 1}
    return [run(path, words, best["lr"], epochs, seed, tried, best["weight_decay"]) for seed in SEEDS]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS_ON_BANDS])
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if arguments.show:
        show_rows(ROWS / name for name in SETS)
        return
    for method in arguments.methods or choose_methods(arguments.set):
        for line in study(arguments.set, method):
            print(f"== {arguments.set} {method} seed {line['seed']} lr {line['lr']:g}: {line['figures']}", flush=True)


if __name__ == "__main__":
    main()
