"""Search the grid of a config on val, then say, or run with --final, the command that reads test with the best.

    python tools/tune.py experiment=vpt_vtab data.root=vtab-1k data.task=dtd
    python tools/tune.py experiment=vpt_vtab data.root=vtab-1k data.task=all --final --seeds 0,1,2
    python tools/tune.py method=lora "grid.recipe.lr=[1e-3,3e-3,1e-2]" "grid.method.rank=[4,8]"
    python tools/tune.py method=lora "grid.recipe.lr=[1e-4,1e-1]" --optuna 20

Overrides are those of tools/train.py. grid.<key>=[...] adds a key of the search or changes one of the experiment's,
grid.<key>=null leaves it out. Every trial is a run with protocol=val_select read_test=false in its own folder; the same
command again reuses what is finished and resumes what was interrupted.
"""

import argparse
import functools

from vision_peft.config.command_line import compose_config, one_line_errors
from vision_peft.training.search import search_grid, tune_and_test
from vision_peft.training.search_optuna import search_optuna


def main() -> None:
    """Parse, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for tools/train.py, and grid.<key>=[...]")
    parser.add_argument("--final", action="store_true", help="train the chosen setting and read test with it")
    parser.add_argument("--seeds", type=seeds, default=[], metavar="0,1,2", help="of the final runs (default: seed)")
    parser.add_argument("--optuna", type=positive, metavar="N", help="sample N trials from the ranges of the grid")
    arguments = parser.parse_intermixed_args()
    with one_line_errors():
        search = functools.partial(search_optuna, number=arguments.optuna) if arguments.optuna else search_grid
        config = compose_config(arguments.overrides)
        tune_and_test(config, arguments.overrides, search, arguments.final, arguments.seeds)


def seeds(text: str) -> list[int]:
    """Parse "0,1,2" into numbers, each once."""
    numbers = [int(word) for word in text.split(",")]
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(text)
    return numbers


def positive(text: str) -> int:
    """Parse a number of trials."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


if __name__ == "__main__":
    main()
