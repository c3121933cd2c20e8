"""Evaluate a run or an adapter, on its own data or on other data.

vision-peft evaluate runs/digits/dinov2_small_pypi-56px/adaptformer/...      the figures that training reported
vision-peft evaluate RUN split=val                                           another split
vision-peft evaluate ADAPTER data=folder data.root=photos device=cuda        an adapter folder, on other data
vision-peft evaluate FILE source=ssf num_heads=12 data=folder data.root=photos   a file of official code (see convert)
torchrun --nproc_per_node=4 -m vision_peft evaluate RUN                      four processes share the data
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vision_peft.cli._foreign import check_source, convert_first, split_given
from vision_peft.cli._verb import (
    add_config_dir,
    announce_loading,
    check_output,
    make_parser,
    suggest_next,
    write_output,
)
from vision_peft.config.data_overrides import read_overrides


def main(argv: Sequence[str]) -> int:
    """Parse, evaluate, print."""
    parser = make_parser("evaluate", __doc__)
    parser.add_argument(
        "folder", help="run folder; or, with data=..., an adapter folder or a file of official code (source=...)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # else argparse calls it required where the folder is missing
        metavar="key=value",
        help="data, backbone, split, device, precision, workers, bad_eval; source and the keys of convert",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_config_dir(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.json:
        check_output("--json", arguments.json, arguments.overwrite)
    overrides, of_file = split_given(arguments.overrides)
    read_overrides(overrides, config_dir=arguments.config_dir)
    check_source(arguments.folder, of_file)
    announce_loading()
    from vision_peft.distributed.processes import on_rank0, print_rank0
    from vision_peft.training.evaluate_saved import evaluate_saved

    with convert_first(arguments.folder, of_file) as folder:
        done = evaluate_saved(folder, overrides, arguments.config_dir)
    print_rank0(f"{done.data.name} {done.split}: {done.metrics.describe()}")
    if arguments.json:
        text = json.dumps(done.metrics.to_row(), indent=2) + "\n"
        on_rank0(lambda: write_output(arguments.json, text))
    if (Path(arguments.folder) / "result.json").is_file():
        suggest_next(["report", arguments.folder], ["plot", arguments.folder])
    return 0
