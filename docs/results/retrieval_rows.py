"""Make the rows of search among classes that training did not see: frozen features, LoRA and AdaptFormer.

    python docs/results/retrieval_rows.py                     # needs tasks/ in the current folder
    python docs/results/retrieval_rows.py --methods lora

Every fourth of the training classes is val, the others are trained on (metric learning, data.task_kind=embedding). An
adapter tries three rates, `EPOCHS` epochs each, seed 0; val chooses rate and epoch by recall@1. The chosen rate is
trained with the seeds 0 and 1. Each then searches the gallery for the queries once, as do the frozen features. It can
be stopped, and goes on where it was: rows/grocery/<method>.jsonl holds every run, with `search` where it searched.
"""

import argparse
import csv
import json
from pathlib import Path

from search_rows import Line, quality, run

from vision_peft.cli.main import main as run_verb
from vision_peft.config.run_id import run_folder
from vision_peft.training import compose_config

ROWS, DATA = Path(__file__).parent / "rows" / "grocery", Path("tasks/retrieval/grocery")
FROZEN = ["backbone=dinov2_small_pypi", "backbone.img_size=112"]
SEEDS = (0, 1)
EPOCHS = 6
METHODS = {"lora": (1e-3, 3e-3, 1e-2), "adaptformer": (1e-3, 3e-3, 1e-2)}


def write_lists(folder: Path) -> list[str]:
    """Split the training classes and write a list of each part; return what is typed."""
    with (DATA / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["path"], row["label"]) for row in csv.DictReader(file)]
    held_out = sorted({label for _, label in rows})[::4]
    folder.mkdir(exist_ok=True)
    words = ["data=list", f"data.root={DATA}", "data.task_kind=embedding", "protocol=val_select", *FROZEN]
    for name in ("train", "val"):
        path = folder.resolve() / f"{name}.csv"
        part = [row for row in rows if (row[1] in held_out) == (name == "val")]
        path.write_text("path,label\n" + "".join(f"{image},{label}\n" for image, label in part), "utf-8")
        words.append(f"data.{name}={path}")
    return words


def search(model: list[str], file: Path) -> Line:
    """Search the gallery for the queries; return the figures."""
    queries, gallery = (str(DATA / f"{name}.csv") for name in ("query", "gallery"))
    run_verb(["embed", *model, queries, "--against", gallery, "--json", str(file), "--overwrite"])
    return json.loads(file.read_text("utf-8"))


def study(method: str, words: list[str]) -> None:
    """Search for a rate, then train it with every seed and look up the queries."""
    path, rates, found = ROWS / f"{method}.jsonl", METHODS[method], Path("search.json")
    words = [*words, f"method={method}"]
    best = max((run(path, words, rate, EPOCHS, 0, None) for rate in rates), key=quality)
    for seed in SEEDS:
        line = run(path, words, best["lr"], EPOCHS, seed, None)
        lines = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
        if not any(each.get("search") for each in lines if (each["lr"], each["seed"]) == (best["lr"], seed)):
            typed = [*words, f"recipe.lr={best['lr']:g}", f"recipe.epochs={EPOCHS}", f"seed={seed}", "read_test=false"]
            folder = run_folder(compose_config([*typed, "output_dir=runs"]))
            lines = [each for each in lines if each != line]
            lines.append({**line, "tried": {"recipe.lr": list(rates)}, "search": search([str(folder)], found)})
            path.write_text("".join(json.dumps(each) + "\n" for each in lines), "utf-8")
        print(f"== grocery {method} seed {seed} lr {best['lr']:g}: {lines[-1].get('search')}", flush=True)


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    words = write_lists(Path("grocery_lists"))
    print(f"== grocery frozen: {search(FROZEN, Path('search.json'))}", flush=True)
    for method in parser.parse_args().methods:
        study(method, words)


if __name__ == "__main__":
    main()
