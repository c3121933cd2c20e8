"""Search a grid of settings on val, then print, or run, the command that reads test.

    vision-peft tune experiment=vpt_vtab data.root=vtab-1k data.task=dtd
    vision-peft tune experiment=vpt_vtab data.root=vtab-1k data.task=all --final --seeds 0,1,2
    vision-peft tune method=lora "grid.recipe.lr=[1e-3,3e-3,1e-2]" "grid.method.rank=[4,8]"
    vision-peft tune method=lora "grid.recipe.lr=[1e-4,1e-1]" --optuna 20

Overrides are those of train. grid.<key>=[...] adds a key to the search, or replaces one of the experiment's;
grid.<key>=null removes it. Every trial is a run with protocol=val_select read_test=false in its own folder. The same
command again reuses finished trials and resumes interrupted ones.
"""

import functools
from collections.abc import Sequence

from vision_peft.cli._numbers import parse_positive, parse_seeds
from vision_peft.cli._roots import check_roots
from vision_peft.cli._verb import add_config_dir, announce_loading, make_parser, overrides_of, suggest_next
from vision_peft.config.command_line import read_command_line

SEVERAL = "grid.<key>=[...] compares values, --seeds 0,1 trains the chosen one with several seeds"


def main(argv: Sequence[str]) -> int:
    """Parse, search, print."""
    parser = make_parser("tune", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train; also grid.<key>=[...]")
    parser.add_argument("--final", action="store_true", help="train the chosen setting and evaluate it on test")
    parser.add_argument(
        "--seeds", type=parse_seeds, default=[], metavar="0,1,2", help="seeds of the final runs (default: seed)"
    )
    parser.add_argument(
        "--optuna", type=parse_positive, metavar="N", help="sample N trials from the ranges of grid, with Optuna"
    )
    add_config_dir(parser)
    arguments = parser.parse_intermixed_args(argv)
    overrides = overrides_of(arguments)
    (run,) = read_command_line(overrides, SEVERAL).runs
    check_roots([run])
    announce_loading()
    from vision_peft.search.optuna_search import search_optuna
    from vision_peft.search.trials import search_grid, tune_and_test

    search = functools.partial(search_optuna, number=arguments.optuna) if arguments.optuna else search_grid
    config = run.parse()
    rows = tune_and_test(config, overrides, search, arguments.final, arguments.seeds)
    if rows:
        suggest_next(["report", config.output_dir], ["plot", config.output_dir])
    return 0
