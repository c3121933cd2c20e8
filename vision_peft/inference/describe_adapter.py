"""Words for what an adapter is: what its two files say, and how much it changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vision_peft.formats.adapter_files import read_adapter_info, read_info, read_tensors
from vision_peft.formats.adapter_info import recorded_method
from vision_peft.inference.measure_updates import Update
from vision_peft.printable import LONGEST_LINE, name_some, printable

_MOST_CLASSES = 8  # that are named
_MOST_TENSORS = 200


def describe_adapter(folder: Path, more: Mapping[str, str]) -> list[str]:
    """Describe in lines what the files of an adapter say, and `more` by its name.

    Raises:
        ValueError, FileNotFoundError: as `read_adapter_info`, or a method that is none.
    """
    info = read_adapter_info(folder)
    sizes = ", ".join(f"{path.name} {path.stat().st_size:,} bytes" for path in sorted(folder.glob("adapter.*")))
    methods = [recorded_method(entry, str(folder)) for entry in info.methods]
    found = info.backbone.get("architecture") or {}
    arguments = info.backbone.get("arguments") or {}
    names = info.class_names
    classes = f": {name_some(names, _MOST_CLASSES)}" if names else ", without names"
    sure = "not calibrated" if info.temperature is None else f"calibrated on val, temperature {info.temperature:.3g}"
    if info.task:
        told = ", ".join(f"{key} {value}" for key, value in info.task.items() if key != "kind")
        sure = f"{info.task.get('kind')}{': ' * bool(told)}{told}"
    rows = {
        "adapter": f"{folder}: {sizes}",
        "written by": f"vision_peft {info.toolkit_version}, format {info.format_version}",
        **{f"method {number}": str(method) for number, method in enumerate(methods, start=1)},
        "head": f"{info.head}, {info.num_classes:,} {'outputs' if info.task else 'classes'}{classes}",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in info.counts.items()),
        "backbone": f"{info.backbone_name} ({info.license or 'licence not known'})",
        "built as": ", ".join(f"{key} {value}" for key, value in found.items()),
        "created with": ", ".join(f"{key}={value}" for key, value in arguments.items()) or "not recorded",
        "fingerprint": info.fingerprint[:16],
        "input": ", ".join(f"{key} {value}" for key, value in (info.input or {}).items()) or "not recorded",
        "answers": sure,
        **more,
    }
    width = max(map(len, rows)) + 2
    return [f"{name:<{width}}{printable(text, LONGEST_LINE)}" for name, text in rows.items()]


def describe_updates(updates: Sequence[Update]) -> list[str]:
    """Describe updates in a table."""
    heads = ("block", "parameters", "norm", "update", "of weights", "what")
    rows: list[tuple[str, ...]] = [heads]
    for update in updates:
        change = "" if update.change is None else f"{update.change:.4g}"
        share = "" if update.relative is None else f"{100 * update.relative:.2f} %"
        rows.append(
            (update.place, f"{update.parameters:,}", f"{update.norm:.4g}", change, share, name_some(update.parts, 8))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)]
    lines = []
    for first, *others, last in rows:
        cells = [f"{first:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(others, widths[1:], strict=True))]
        lines.append(f"{'  '.join(cells)}  {printable(last, 400)}")
    legend = "norm: of the tuned tensors; update: of the weights that they amount to, and its share of these weights"
    return [*lines, "", legend]


def describe_tensors(folder: Path) -> list[str]:
    """List the tensors of an adapter whose backbone is not here."""
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
