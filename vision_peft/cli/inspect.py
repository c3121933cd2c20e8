"""Show what an adapter is: where it sits, how much it changes, what made it.

vision-peft inspect runs/digits/dinov2_small_pypi-56px/lora/...              of a run, with what trained it
vision-peft inspect ADAPTER                                                  an adapter folder, or hf-hub:OWNER/NAME
vision-peft inspect RUN --attention looks.png --images a.jpg b.jpg           class token attention, before and after

For every block it lists what is attached or trained there, the number of parameters and the norm of the tensors. Where
they amount to an update of weights (LoRA, SSF, BitFit, ...), it adds the norm of the update, and its size relative to
the weights. Without the frozen weights it shows only what the two files of the adapter say.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_peft.cli._verb import announce_loading, make_parser, suggest_next
from vision_peft.home_paths import expand_home
from vision_peft.printable import LONGEST_LINE, for_shell, printable, show


def main(argv: Sequence[str]) -> int:
    """Parse, load, print, draw."""
    options = _parse(argv)
    announce_loading()
    from vision_peft.inference.describe_adapter import describe_adapter, describe_tensors, describe_updates
    from vision_peft.inference.load import find_adapter, load
    from vision_peft.inference.measure_updates import measure_updates

    folder = find_adapter(options.source)
    lines = describe_adapter(folder, _describe_run(folder))
    given = {key: value for key in ("backbone", "checkpoint") if (value := getattr(options, key)) is not None}
    try:
        model: Any = load(options.source, options.device, **given)
    except (ConnectionError, ValueError) as error:
        if options.attention:
            raise
        show("\n".join([*lines, *describe_tensors(folder)]))
        show(f"\nthe model cannot be built here, so that updates cannot be compared with its weights: {error}")
        return 0
    show("\n".join([*lines, "", *describe_updates(measure_updates(model))]))
    if options.attention:
        _draw(options, model)
    if options.source == str(folder.parent):
        suggest_next(["predict", options.source, "photo.jpg"], ["evaluate", options.source])
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("inspect", __doc__)
    parser.add_argument("source", metavar="RUN_OR_ADAPTER", help="run folder, adapter folder or hf-hub:OWNER/NAME")
    parser.add_argument("--attention", metavar="FILE", help="write a picture of the attention (.png)")
    parser.add_argument("--images", metavar="IMAGE", nargs="+", default=[], help="images for --attention, up to 12")
    parser.add_argument("--block", type=int, default=-1, metavar="N", help="block whose attention is drawn (the last)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--backbone", metavar="NAME", help="another name of the backbone, with the same weights")
    parser.add_argument("--checkpoint", metavar="FILE", help="weight file of a backbone that came from a file")
    options = parser.parse_args(argv)
    if bool(options.attention) != bool(options.images):
        raise ValueError("--attention FILE and --images IMAGE ... go together: give both")
    if len(options.images) > 12:
        raise ValueError(f"--images takes up to 12 images, a row each; got {len(options.images)}")
    if options.attention:
        path = Path(options.attention)
        if path.suffix.lower() != ".png":
            raise ValueError(f"--attention must end in .png, got {path}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"--attention {path}: there is no folder {path.parent}")
        if path.exists() and not (options.overwrite and path.is_file()):
            raise FileExistsError(f"--attention {path} is there already: --overwrite replaces a picture")
    if not options.source.startswith("hf-hub:") and not expand_home(options.source).is_dir():
        raise FileNotFoundError(
            f"{options.source} is not a folder: wanted a run folder, an adapter folder or hf-hub:OWNER/NAME"
        )
    return options


def _describe_run(folder: Path) -> dict[str, str]:
    """Describe what trained an adapter that lies in a run folder."""
    from vision_peft.results.figures import describe_metric, format_number, get_figure
    from vision_peft.results.row import RESULT, read_row

    if folder.name != "adapter" or not (folder.parent / RESULT).is_file():
        return {}
    row = read_row(folder.parent / RESULT)
    data = " ".join(filter(None, (row.dataset, row.task)))
    figure = get_figure(row, row.metric)
    words = describe_metric([row], row.metric).replace(" accuracy on test", "").replace(" on test", "")
    tested = "test was not read"
    if figure is not None:
        name, _, unit = words.partition(", ")
        tested = f"{name} {format_number(figure)}{' ' * bool(unit)}{unit} of {row.n_test:,} test images"
    return {
        "trained on": f"{data}: {row.n_train:,} images, {row.protocol}; {tested}",
        "data digest": str(row.data_digest),
        "made by": f"commit {row.commit or '?'}, {row.device}, {row.precision}",
        "command": row.command or "?",
    }


def _draw(options: argparse.Namespace, model: Any) -> None:
    from vision_peft.inference.attention_picture import draw_looks

    draw_looks(model, options.images, options.block, str(options.source), Path(options.attention))
    show(f"\nwrote {printable(for_shell([options.attention]), LONGEST_LINE)}")
