"""Show what an adapter is: where it sits, how much it changes, what made it.

vision-peft inspect runs/digits/dinov2_small_pypi-56px/lora/...              of a run, with what trained it
vision-peft inspect ADAPTER                                                  an adapter folder, or hf-hub:OWNER/NAME
vision-peft inspect RUN --attention looks.png --images a.jpg b.jpg           where the class token looks, before and now

For every block: what is grafted or trained there, how many parameters, the norm of its tensors, and where they amount
to an update of weights (LoRA, SSF, BitFit, ...) the norm of the update and its share of the norm of the weights. Where
the frozen weights cannot be had, what the two files say is shown alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_peft.cli._verb import announce_loading, make_parser, suggest_next
from vision_peft.printable import LONGEST_LINE, for_shell, name_some, printable, show

if TYPE_CHECKING:
    from vision_peft.formats.adapter_info import AdapterInfo
    from vision_peft.inference.measure_updates import Update

_MOST_CLASSES = 8  # that are named
_MOST_TENSORS = 200


def main(argv: Sequence[str]) -> int:
    """Parse, load, print, draw."""
    options = _parse(argv)
    announce_loading()
    from vision_peft.formats import read_adapter_info
    from vision_peft.inference.load import find_adapter, load
    from vision_peft.inference.measure_updates import measure_updates

    folder = find_adapter(options.source)
    lines = _describe(folder, read_adapter_info(folder))
    given = {key: value for key in ("backbone", "checkpoint") if (value := getattr(options, key)) is not None}
    try:
        model: Any = load(options.source, options.device, **given)
    except (ConnectionError, ValueError) as error:
        if options.attention:
            raise
        show("\n".join([*lines, *_describe_tensors(folder)]))
        show(f"\nthe model cannot be built here, so that updates cannot be compared with its weights: {error}")
        return 0
    show("\n".join([*lines, "", *_describe_updates(measure_updates(model))]))
    if options.attention:
        _draw(options, model)
    if options.source == str(folder.parent):
        suggest_next(["predict", options.source, "photo.jpg"], ["evaluate", options.source])
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("inspect", __doc__)
    parser.add_argument("source", metavar="RUN_OR_ADAPTER", help="run folder, adapter folder or hf-hub:OWNER/NAME")
    parser.add_argument("--attention", metavar="FILE", help="picture to write, .png")
    parser.add_argument("--images", metavar="IMAGE", nargs="+", default=[], help="images for --attention, up to 12")
    parser.add_argument("--block", type=int, default=-1, metavar="N", help="block whose attention it is (the last)")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that is there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--backbone", metavar="NAME", help="frozen weights by another name, as vp.load takes it")
    parser.add_argument("--checkpoint", metavar="FILE", help="frozen weights, where they came from a file")
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
    if not options.source.startswith("hf-hub:") and not Path(options.source).expanduser().is_dir():
        raise FileNotFoundError(
            f"{options.source} is not a folder: wanted a run folder, an adapter folder or hf-hub:OWNER/NAME"
        )
    return options


def _describe(folder: Path, info: "AdapterInfo") -> list[str]:
    """Describe what the files of an adapter say, and the row of the run it is of."""
    from vision_peft.formats.adapter_info import recorded_method

    sizes = ", ".join(f"{path.name} {path.stat().st_size:,} bytes" for path in sorted(folder.glob("adapter.*")))
    methods = [recorded_method(entry, str(folder)) for entry in info.methods]
    found = info.backbone.get("architecture") or {}
    arguments = info.backbone.get("arguments") or {}
    names = info.class_names
    classes = f": {name_some(names, _MOST_CLASSES)}" if names else ", without names"
    sure = "not calibrated" if info.temperature is None else f"calibrated on val, temperature {info.temperature:.3g}"
    rows = {
        "adapter": f"{folder}: {sizes}",
        "written by": f"vision_peft {info.toolkit_version}, format {info.format_version}",
        **{f"method {number}": str(method) for number, method in enumerate(methods, start=1)},
        "head": f"{info.head}, {info.num_classes:,} classes{classes}",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in info.counts.items()),
        "backbone": f"{info.backbone_name} ({info.license or 'licence not known'})",
        "built as": ", ".join(f"{key} {value}" for key, value in found.items()),
        "created with": ", ".join(f"{key}={value}" for key, value in arguments.items()) or "not recorded",
        "fingerprint": info.fingerprint[:16],
        "input": ", ".join(f"{key} {value}" for key, value in (info.input or {}).items()) or "not recorded",
        "answers": sure,
        **_describe_run(folder),
    }
    width = max(map(len, rows)) + 2
    return [f"{name:<{width}}{printable(text, LONGEST_LINE)}" for name, text in rows.items()]


def _describe_run(folder: Path) -> dict[str, str]:
    """Describe what trained an adapter that lies in a run folder."""
    from vision_peft.results.row import RESULT, read_row

    if folder.name != "adapter" or not (folder.parent / RESULT).is_file():
        return {}
    row = read_row(folder.parent / RESULT)
    data = " ".join(filter(None, (row.dataset, row.task)))
    top1 = "test was not read" if row.top1 is None else f"top-1 {row.top1:.2f} % of {row.n_test:,} test images"
    return {
        "trained on": f"{data}: {row.n_train:,} images, {row.protocol}; {top1}",
        "data digest": str(row.data_digest),
        "made by": f"commit {row.commit or '?'}, {row.device}, {row.precision}",
        "command": row.command or "?",
    }


def _describe_updates(updates: Sequence["Update"]) -> list[str]:
    heads = ("block", "parameters", "norm", "update", "of weights", "what")
    rows: list[tuple[str, ...]] = [heads]
    for update in updates:
        change = "" if update.change is None else f"{update.change:.4g}"
        share = "" if update.relative is None else f"{100 * update.relative:.2f} %"
        rows.append(
            (update.place, f"{update.parameters:,}", f"{update.norm:.4g}", change, share, _join_parts(update.parts))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)]
    lines = []
    for first, *others, last in rows:
        cells = [f"{first:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(others, widths[1:], strict=True))]
        lines.append(f"{'  '.join(cells)}  {printable(last, 400)}")
    legend = "norm: of the tuned tensors; update: of the weights that they amount to, and its share of these weights"
    return [*lines, "", legend]


def _join_parts(parts: Sequence[str]) -> str:
    return name_some(parts, 8)


def _describe_tensors(folder: Path) -> list[str]:
    """List the tensors of an adapter whose backbone is not here."""
    from vision_peft.formats.adapter_files import read_info, read_tensors

    info, where = read_info(folder)
    tensors = read_tensors(folder, info, where)
    lines = [
        f"  {printable(name)} {list(tensor.shape)}, norm {float(tensor.float().norm()):.4g}"
        for name, tensor in tensors.items()
    ]
    return [
        "",
        f"{len(tensors):,} tensors:",
        *lines[:200],
        *([f"  and {len(lines) - 200:,} more"] * (len(lines) > 200)),
    ]


def _draw(options: argparse.Namespace, model: Any) -> None:
    import torch

    from vision_peft.inference.attention_maps import check_class_token, read_attention
    from vision_peft.inference.attention_picture import draw_attention
    from vision_peft.inference.predictor import Predictor
    from vision_peft.tuning.blocks import blocks

    check_class_token(model)
    predictor = Predictor(model)
    images = torch.stack([predictor.prepare(image) for image in options.images])
    looks = read_attention(model, images, options.block)
    said = [""] * len(images)
    if model.num_classes:
        guesses = predictor.name(predictor.probabilities(options.images), 1)
        said = [f"{printable(label, 40)} {100 * value:.0f} %" for ((label, value),) in guesses]
    mean, std = (torch.tensor(predictor.prepare.settings[key]).view(-1, 1, 1) for key in ("mean", "std"))
    count = len(blocks(model))
    note = f"attention of the class token in block {options.block % count} of 0 to {count - 1}, mean over heads"
    draw_attention(images * std + mean, looks, options.images, said, str(options.source), note, Path(options.attention))
    show(f"\nwrote {printable(for_shell([options.attention]), LONGEST_LINE)}")
