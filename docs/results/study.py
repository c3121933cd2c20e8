"""Train every image method in up to three sizes on five small data sets: the curve on top of the README.

    python docs/results/study.py run                 # what is missing; stop it at any time, it goes on from there
    python docs/results/study.py run --part 1/2      # every second cell, beside another process
    python docs/results/study.py run --sets clothing --methods lora vpt_50
    python docs/results/study.py show                # what there is, and the hours that it took
    python docs/results/study.py unpack runs         # result.json files, for report and plot

The rule: 28 px, batch 32, AdamW with a cosine, `EPOCHS` epochs, of which val chooses one. The learning rate is a rung
of the ladder 1e-5, 3e-5, 1e-4, ...: the one nearest to what the method recommends and those on either side, and further
ones while val finds the last of them best, seed 0. The seeds 0, 1 and 2 are trained with the best, and read test once
each. What computes its features once gets what that allows: the solver its path of penalties, k-NN its k, the attentive
probe `EPOCHS_ON_FEATURES` epochs. Rows, trials too, are in rows/study_<set>/<setting>.jsonl. Data: vtab-1k/ and fgvc/
in the current folder, and Fashion-MNIST where Debian's package has it.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from common_budget import METHODS, ROWS, SEEDS, SETS, SIZED, UNTRIED, Book, Line, climb, run, unpack

EPOCHS = 5
EPOCHS_ON_FEATURES = 100
DATA = ("clothing", "rsscn7", "sign_digits", "cifar10", "fashion_mnist")
FIRST = ("linear", "knn", "attentive", "lora", "adaptformer", "vpt", "full", "houlsby", "dtl_plus", "bitfit", "ssf")
MAIN = ("lora", "adaptformer", "vpt", "vpt_shallow", "houlsby", "prefix_tuning", "p_tuning_v2", "prompt_tuning")
LEFT_OUT = ("linear_adamw", "pfeiffer", "fact_tk")  # of METHODS: each is another form of one that is here


def list_settings() -> list[str]:
    """Name all settings, in the order in which they are worth having."""
    usual = [*FIRST, *(name for name in METHODS if name not in (*FIRST, *LEFT_OUT))]
    return [*usual, *sorted(SIZED, key=lambda name: not name.startswith(tuple(f"{main}_" for main in MAIN)))]


def list_cells() -> list[tuple[str, str]]:
    """Pair settings and data sets: the first methods on all sets, the others after them."""
    return [(setting, data) for setting in list_settings() for data in DATA]


def open_book(setting: str, data: str) -> Book:
    """Open the rows of a setting on a data set."""
    return Book(ROWS / f"study_{data}" / f"{setting}.jsonl")


def study(setting: str, data: str) -> Iterator[Line]:
    """Search, then train the chosen learning rate with every seed."""
    typed, book = [*SETS[f"{data}_28px"], *(METHODS | SIZED)[setting]], open_book(setting, data)
    if setting in UNTRIED:
        for seed in SEEDS:
            yield run(book, typed, lr=1.0, epochs=UNTRIED[setting], seed=seed, tried={})
        return
    epochs = EPOCHS_ON_FEATURES if setting == "attentive" else EPOCHS
    best = climb(book, typed, epochs)
    tried = {"recipe.lr": sorted({line["lr"] for line in book.trials})}
    for seed in SEEDS:
        yield run(book, typed, best["lr"], epochs, seed, tried)


def show() -> None:
    """Print the accuracies, and the core-hours of all trainings."""
    seconds = 0.0
    for setting in list_settings():
        cells = []
        for data in DATA:
            lines = open_book(setting, data).lines
            seconds += sum(line.get("total_seconds") or 0.0 for line in lines)
            cells.append("/".join(f"{line['top1']:.1f}" for line in lines if line["top1"] is not None))
        if any(cells):
            print(f"{setting:20s}" + "".join(f"{cell:>18s}" for cell in cells))
    print(f"{seconds / 3600:.1f} hours of one thread, other work on the machine included")


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "show", "unpack"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="that unpack writes into")
    parser.add_argument("--sets", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--methods", nargs="+", choices=list_settings(), default=list_settings())
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    arguments = parser.parse_args()
    if arguments.what == "show":
        show()
        return
    if arguments.what == "unpack":
        for data in DATA:
            unpack(f"study_{data}", arguments.folder)
        return
    cells = [cell for cell in list_cells() if cell[0] in arguments.methods and cell[1] in arguments.sets]
    part, parts = map(int, arguments.part.split("/"))
    for setting, data in itertools.islice(cells, part - 1, None, parts):
        for line in study(setting, data):
            print(f"== {data} {setting} seed {line['seed']}: {line['top1']:.2f} (lr {line['lr']:g})", flush=True)


if __name__ == "__main__":
    main()
