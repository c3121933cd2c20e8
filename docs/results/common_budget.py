"""Make the rows of the tables in this folder, every method under one rule. It can be stopped, and goes on where it was.

    python docs/results/common_budget.py digits                       # all methods on the embedded digits
    python docs/results/common_budget.py clothing --methods lora vpt  # needs vtab-1k/ and fgvc/ in the current folder
    python docs/results/common_budget.py digits --part 2/2            # every second method, beside another process
    python docs/results/common_budget.py fights --methods zero_i2v attentive_frames  # needs fights/ (HMDB51's layout)
    python docs/results/common_budget.py clothing_28px --sizes        # two more sizes of each method that has one
    python docs/results/common_budget.py digits --unpack runs         # result.json files for report and plot

The rule: learning rates are rungs of the ladder 1e-5, 3e-5, 1e-4, ... From the rung nearest to what the method
recommends, five epochs a rung, seed 0, until val puts a worse rung on either side of the best. With the best, 20 epochs
too, and 100 with AdamW where only the head trains, on features that are computed once; a head that is solved for
(recipe=lbfgs) goes along its path of penalties instead, and k-NN tries its k. val chooses: the highest top-1, at a tie
the lower loss. The chosen setting is trained with the seeds 0, 1, 2, each of which reads test once. All of it stands in
rows/<set>/<setting>.jsonl, trials (test not read) and final rows alike. On clips five epochs are all that is tried
where features are not kept.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision_peft.results.row import to_values
from vision_peft.training import compose_config, train
from vision_peft.training.progress import Diverged

ROWS = Path(__file__).parent / "rows"
LADDER = [float(f"{digit}e{power}") for power in range(-5, 0) for digit in (1, 3)]  # 1e-5 to 0.3
SEEDS = (0, 1, 2)
METHODS = {  # setting -> what is typed
    "linear": ["method=linear", "recipe=lbfgs"],
    "linear_adamw": ["method=linear"],
    "adaptformer": ["method=adaptformer"],
    "lora": ["method=lora"],
    "vpt": ["method=vpt"],
    "full": ["method=full"],
    "houlsby": ["method=houlsby"],
    "prefix_tuning": ["method=prefix_tuning"],
    "p_tuning_v2": ["method=p_tuning_v2"],
    "p_tuning": ["method=p_tuning"],
    "prompt_tuning": ["method=prompt_tuning"],
    "ia3": ["method=ia3"],
    "ssf": ["method=ssf"],
    "repadapter": ["method=repadapter"],
    "fact": ["method=fact"],
    "convpass": ["method=convpass"],
    "adapter_plus": ["method=adapter_plus"],
    "lst": ["method=lst"],
    "bitfit": ["method=bitfit"],
    "norm_tuning": ["method=norm_tuning"],
    "partial": ["method=partial"],
    "vpt_shallow": ["method=vpt", "method.deep=false"],
    "pfeiffer": ["method=houlsby", "method.positions=[mlp]"],
    "fact_tk": ["method=fact", "method.form=tk", "method.rank=32"],
    "knn": ["method=knn"],
    "attentive": ["method=linear", "recipe.head=attentive"],
    "dtl_plus": ["method=dtl", "method.kernel=3"],
    "pissa": ["method=lora", "method.init=pissa"],
    "eva": ["method=lora", "method.init=eva"],
    "gps": ["method=gps"],
    "bi_lora": ["method=bi_lora"],
    "bi_adaptformer": ["method=bi_adaptformer"],
    "adalora": ["method=adalora"],
    "vera": ["method=vera"],
    "mona": ["method=mona"],
    "input_tuning": ["method=input_tuning"],
}
SIZES = {  # setting of METHODS -> the key of its size, and two values besides its default
    "adaptformer": ("method.bottleneck", 8, 256),
    "lora": ("method.rank", 2, 32),
    "vpt": ("method.tokens", 1, 50),
    "vpt_shallow": ("method.tokens", 1, 50),
    "houlsby": ("method.bottleneck", 8, 256),
    "adapter_plus": ("method.bottleneck", 2, 32),
    "prefix_tuning": ("method.tokens", 2, 50),
    "p_tuning_v2": ("method.tokens", 2, 50),
    "p_tuning": ("method.tokens", 2, 50),
    "prompt_tuning": ("method.tokens", 2, 50),
    "repadapter": ("method.bottleneck", 2, 32),
    "fact": ("method.rank", 4, 64),
    "convpass": ("method.bottleneck", 2, 32),
    "lst": ("method.reduction", 16, 4),
    "partial": ("method.blocks", 2, 4),
    "dtl_plus": ("method.rank", 1, 8),
    "gps": ("method.per_neuron", 2, 4),
    "bi_lora": ("method.rank", 8, 128),
    "bi_adaptformer": ("method.bottleneck", 8, 128),
    "vera": ("method.rank", 64, 1024),
    "mona": ("method.width", 16, 128),
}
SIZED = {
    f"{setting}_{size}": [*METHODS[setting], f"{key}={size}"]
    for setting, (key, *sizes) in SIZES.items()
    for size in sizes
}
METHODS_ON_CLIPS = {
    "linear_frames": ["method=linear", "recipe.clip_place=middle"],
    "attentive_frames": [
        "method=linear",
        "recipe.head=attentive",
        "recipe.head_options={time:sinusoid}",
        "recipe.clip_place=middle",
    ],
    "zero_i2v": ["method=zero_i2v"],
}
UNTRIED = {"linear": 15, "knn": 1}  # settings without a learning rate -> epochs: penalties of the path; k-NN has one
ON_FEATURES = ("linear_adamw", "attentive", "linear_frames", "attentive_frames")  # only the head trains
VTAB = ["data=vtab1k", "data.root=vtab-1k", "protocol=val_select"]
FGVC = ["data=fgvc", "data.root=fgvc", "protocol=val_select"]
FILES = {
    "clothing": [*VTAB, "data.task=clothing"],
    "rsscn7": [*VTAB, "data.task=rsscn7"],
    "cifar10": [*VTAB, "data.task=cifar10"],
    "sign_digits": [*FGVC, "data.task=sign_digits"],
}
FASHION = ["data=fashion_mnist", "data.root=/usr/share/datasets/fashion-mnist", "protocol=val_select"]
SETS = {
    "digits": ["data=digits"],
    "digits_28px": ["data=digits", "backbone.img_size=28"],
    **{name: [*words, "backbone.img_size=56"] for name, words in FILES.items()},
    **{f"{name}_112px": [*words, "backbone.img_size=112"] for name, words in FILES.items()},
    **{f"{name}_28px": [*words, "backbone.img_size=28"] for name, words in FILES.items()},
    "fashion_mnist_28px": [*FASHION, "data.shots=100", "data.val_fraction=0.0034", "backbone.img_size=28"],
    "fashion_mnist_all_28px": [*FASHION, "backbone.img_size=28"],
}
CLIPS = {
    "moving_digits_28px": [
        "data=moving_digits",
        "data.train_clips=800",
        "backbone.num_frames=8",
        "backbone.img_size=28",
    ],
    "fights": ["data=hmdb51", "data.root=fights", "backbone.num_frames=8", "backbone.img_size=56"],
}


Line = dict[str, Any]  # of a file of rows: what result.json holds


class Book:
    """The rows of one setting on one data set, in a file to which each finished run adds a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.exists() else []

    @property
    def trials(self) -> list[Line]:
        """The runs that did not read test."""
        return [line for line in self.lines if line["top1"] is None]

    def find(self, lr: float, epochs: int, seed: int, tested: bool) -> Line | None:
        """Find the line of a run that was done before."""
        wanted = (lr, epochs, seed, tested)
        runs = ((line["lr"], line["epochs"], line["seed"], line["top1"] is not None) for line in self.lines)
        return next((line for line, run in zip(self.lines, runs, strict=True) if run == wanted), None)

    def add(self, line: Line) -> Line:
        """Keep a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        return line


def run(
    book: Book, typed: list[str], lr: float, epochs: int, seed: int = 0, tried: dict[str, list[Any]] | None = None
) -> Line:
    """Train, or find the row; test is read where `tried` says what was compared before."""
    if (line := book.find(lr, epochs, seed, tried is not None)) is not None:
        return line
    words = [*typed, f"recipe.lr={lr:g}", f"recipe.epochs={epochs}", f"seed={seed}"]
    config = compose_config([*words, "output_dir=runs", *(["read_test=false"] if tried is None else [])])
    try:
        row = train(config, " ".join(["vision-peft train", *words]), tried or None).row
    except Diverged as error:
        print(f"diverged: {error}", flush=True)
        failed = {"lr": lr, "epochs": epochs, "seed": seed, "top1": None, "val_top1": None, "val_loss": None}
        return book.add({**failed, "status": "diverged", "reason": str(error)})
    values = to_values(row)
    assert values is not None
    if tried is None:
        losses = [entry["val_loss"] for entry in row.curve if entry.get("val_top1") == row.val_top1]
        values = {**values, "curve": [], "val_loss": min(losses, default=None)}
    return book.add(values)


def quality(line: Line) -> tuple[float, float]:
    """Return what val compares: top-1, then the loss (negative)."""
    top1, loss = line["val_top1"], line["val_loss"]
    return (-math.inf if top1 is None else top1, -math.inf if loss is None else -loss)


def climb(book: Book, typed: list[str], epochs: int = 5) -> Line:
    """Try rungs of the ladder, some epochs each, until the best has a neighbour on either side."""
    recommended = book.trials[0]["lr"] if book.trials else compose_config(typed).recipe.lr  # go on from where it began
    start = min(range(len(LADDER)), key=lambda rung: abs(math.log(LADDER[rung] / recommended)))
    rungs = {start}
    while True:
        trials = {rung: run(book, typed, LADDER[rung], epochs) for rung in sorted(rungs)}
        best = max(trials, key=lambda rung: quality(trials[rung]))
        missing = {best - 1, best + 1} & set(range(len(LADDER))) - rungs
        if not missing:
            return trials[best]
        rungs |= missing


def study(setting: str, name: str) -> Iterator[Line]:
    """Search, then train the chosen setting with every seed."""
    typed = [*(SETS | CLIPS)[name], *(METHODS | SIZED | METHODS_ON_CLIPS)[setting]]
    book = Book(ROWS / name / f"{setting}.jsonl")
    if setting in UNTRIED:
        for seed in SEEDS:
            yield run(book, typed, lr=1.0, epochs=UNTRIED[setting], seed=seed, tried={})
        return
    best = climb(book, typed)
    lengths = (20, 100) if setting in ON_FEATURES else () if name in CLIPS else (20,)
    best = max([best, *(run(book, typed, best["lr"], epochs) for epochs in lengths)], key=quality)
    tried = {f"recipe.{key}": sorted({line[key] for line in book.trials}) for key in ("lr", "epochs")}
    for seed in SEEDS:
        yield run(book, typed, best["lr"], best["epochs"], seed, tried)


def unpack(name: str, folder: Path) -> None:
    """Write the final rows of a set as result.json files, which report and plot read."""
    for path in sorted((ROWS / name).glob("*.jsonl")):
        for line in Book(path).lines:
            if line["top1"] is not None:
                target = folder / name / path.stem / f"seed{line['seed']}"
                target.mkdir(parents=True, exist_ok=True)
                (target / "result.json").write_text(json.dumps(line), encoding="utf-8")


def main() -> None:
    """Run what is missing, setting by setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=[*SETS, *CLIPS])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *SIZED, *METHODS_ON_CLIPS])
    parser.add_argument("--sizes", action="store_true", help="the other sizes instead of the default ones")
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.unpack:
        unpack(arguments.set, arguments.unpack)
        return
    part, parts = map(int, arguments.part.split("/"))
    usual = METHODS_ON_CLIPS if arguments.set in CLIPS else SIZED if arguments.sizes else METHODS
    methods = arguments.methods or list(usual)
    for setting in methods[part - 1 :: parts]:
        for line in study(setting, arguments.set):
            chosen = f"lr {line['lr']:g}, {line['epochs']} epochs"
            print(f"== {arguments.set} {setting} seed {line['seed']}: {line['top1']:.2f} ({chosen})", flush=True)


if __name__ == "__main__":
    main()
