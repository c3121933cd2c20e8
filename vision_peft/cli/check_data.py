"""Check a dataset before training: unreadable files, wrong labels, duplicates in splits.

    vision-peft check-data data=vtab1k data.root=vtab-1k data.task=dtd
    vision-peft check-data data=vtab1k data.root=vtab-1k data.task=all --out checked --workers 8
    vision-peft check-data data=folder data.root=photos --json photos.json
    vision-peft check-data data=hmdb51 data.root=hmdb51 backbone.num_frames=8 --config-dir mine

It finds unreadable files, labels out of range, and images that are in two splits or have two labels (by content). It
also lists sizes, formats and counts. For videos it decodes every frame and adds frame counts, frame rates, durations,
containers and codecs. It accepts the overrides of train, and says which ones it ignores.
Exit code 0: no problem, perhaps warnings; 1: problems; 2: the data could not be checked.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_peft.cli._verb import (
    add_config_dir,
    announce_loading,
    make_parser,
    overrides_of,
    suggest_next,
    write_output,
)
from vision_peft.config.command_line import Composed, read_command_line
from vision_peft.config.find_configs import list_configs
from vision_peft.config.schema import Recipe
from vision_peft.data.root import find_root
from vision_peft.printable import LONGEST_LINE, printable, show

if TYPE_CHECKING:
    from vision_peft.data.dataset import ImageDataset

FRAMES = 8  # of a clip, where the backbone takes single images
HEAD, MAP_HEAD = "linear", "seg_linear"  # to start with


def main(argv: Sequence[str]) -> int:
    """Parse, check, print."""
    parser = make_parser("check-data", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data=<config> data.<key>=..., as for train")
    add_config_dir(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for report.json and a contact sheet")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report to this file")
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 8), help="decoding threads (default: %(default)s)"
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.workers < 1:
        parser.error(f"argument --workers: must be at least 1, got {arguments.workers}")
    run = _read_run(arguments)
    section = {"name": run.choices["data"], **run.raw["data"]}
    if "root" in section and not section.get("hub"):
        find_root(section["root"], section["name"])
    announce_loading()
    from vision_peft.config.parse import parse_data
    from vision_peft.data.check.check import check_tasks
    from vision_peft.data.check.contact_sheet import draw_sheet
    from vision_peft.data.check.contents import ProgressLine
    from vision_peft.data.check.report import summarise, to_json

    files = [file for file in (arguments.json, arguments.out and arguments.out / "report.json") if file]
    data, reports = parse_data(section), []
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    for report in check_tasks(data, arguments.workers, ProgressLine()):
        show(summarise(report))
        if arguments.out and report.datasets:
            name = report.title.replace(" ", "-").replace("/", "_")
            sheet = draw_sheet(report.datasets, report.title, arguments.out / f"{name}.png")
            show(f"samples: {printable(sheet, LONGEST_LINE)}")
        reports.append(report)
    result = to_json(reports)
    for file in files:
        write_output(file, json.dumps(result, indent=1) + "\n")
        show(f"report: {printable(file, LONGEST_LINE)}")
    if not result["problems"]:
        datasets = [dataset for report in reports for dataset in report.datasets.values()]
        suggest_next(["train", *_fit_overrides(overrides_of(arguments), run.raw, datasets[0])])
    return 1 if result["problems"] else 0


def _read_run(arguments: argparse.Namespace) -> Composed:
    """Return the config that train would compose, and say which of the words do not matter here."""
    keys = [word.partition("=")[0].lstrip("+~") for word in arguments.overrides]
    if not {"data", "experiment"} & {*keys}:
        options = ", ".join(list_configs("data"))
        raise ValueError(f"no dataset given: add data=<config> (and data.root=...); there are {options}")
    (run,) = read_command_line(overrides_of(arguments)).runs
    ignored = [key for key in keys if key not in ("data", "experiment") and not key.startswith("data.")]
    if ignored:
        show(f"ignored, because it does not affect the data: {', '.join(ignored)}", sys.stderr)
    return run


def _fit_overrides(overrides: Sequence[str], raw: Mapping[str, Any], dataset: "ImageDataset") -> list[str]:
    """Return the overrides with what train needs besides for such data: a head for maps, a backbone of clips."""
    from vision_peft.tasks import find_task

    needed: dict[str, str] = {}
    head, frames = str(raw["recipe"].get("head", HEAD)), raw["backbone"].get("num_frames")
    if find_task(dataset).answers_maps != Recipe(head=head).answers_maps:
        needed["recipe.head"] = MAP_HEAD if find_task(dataset).answers_maps else HEAD
    if dataset.gives_clips and frames is None:
        needed["backbone.num_frames"] = str(FRAMES)
    if not dataset.gives_clips and frames is not None:
        needed["backbone.num_frames"] = "null"
        needed |= {"backbone.tubelet_size": "null"} if raw["backbone"].get("tubelet_size") else {}
    typed = [word.partition("=")[0].lstrip("+") for word in overrides]
    fitted = [f"{key}={needed[key]}" if key in needed else word for key, word in zip(typed, overrides, strict=True)]
    return [*fitted, *(f"{key}={value}" for key, value in needed.items() if key not in typed)]
