"""What a check of a data set found, as JSON and in words.

`check.check_tasks` gives a `TaskReport` for each task. As JSON (`to_json`):

* `version` 1; `problems`, `warnings`: how many findings of each severity all tasks have
* `tasks`: a list of
    * `data`: the name of the family and its fields; `folder`: the one that all image files are below, null without any
    * `classes`: names in label order
    * `splits`: for train, val, trainval and test null where the split cannot be read, else
        * `images`, `unreadable`: counts; `per_class`: images of every class in label order
        * `images_per_class`, `width`, `height`: `{min, median, max}`, null of nothing; `sizes`: how many differ
        * `formats`, `modes`: counts of what PIL calls the files' formats and modes ("L", "CMYK", "I;16", ...)
    * `findings`: a list of `{severity, kind, text, splits, items}`, an item being `{split, path, label}`

Kinds of the severity "problem": `reader` (what the reader of the family refuses, with file and line), `task` (a task of
a suite is not there), `classes` (splits disagree, names are repeated, fewer than two), `label_range`, `missing`,
`unreadable` (files), `overlap` (one image in several splits), `label_conflict` (one image with several labels). Of the
severity "warning": `reader`, `empty_class` (no image in train or test), `trainval` (not train and val together),
`duplicate` (one image several times in a split), `exif_rotation` (files that EXIF would turn), `extension` (files of
another format than their name says). Images are one image where their decoded pixels are the same.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from vision_peft.data.check.contents import Content
from vision_peft.data.config import SPLITS, DataConfig
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError

VERSION = 1
PROBLEM, WARNING = "problem", "warning"
_SHOWN = 10  # findings of one kind that are printed


class Item(NamedTuple):
    """One place of an image."""

    split: str
    path: str
    label: int


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ("problem") or unusual ("warning")."""

    severity: str
    kind: str
    text: str
    splits: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


@dataclass
class TaskReport:
    """What was found in one data set; `datasets` are the splits that could be read."""

    config: DataConfig
    datasets: dict[str, ImageDataset] = field(default_factory=dict)
    contents: dict[str, Content | ImageDecodeError] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Family and task: "vtab1k dtd"."""
        task = dataclasses.asdict(self.config).get("task")
        return f"{self.config.name} {task}" if task else self.config.name

    @property
    def folder(self) -> str | None:
        """The folder that all image files are below."""
        files = [dataset for dataset in self.datasets.values() if isinstance(dataset, ImageFiles)]
        folders = {str(Path(path).parent) for dataset in files for path in dataset.paths}
        return os.path.commonpath(folders) if folders else None

    @property
    def classes(self) -> list[str]:
        return next(iter(self.datasets.values())).classes if self.datasets else []

    def of(self, severity: str) -> list[Finding]:
        """List the findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]


def to_json(reports: Iterable[TaskReport]) -> dict[str, Any]:
    """Convert reports to the JSON that the module's docstring describes."""
    reports = list(reports)
    counts = Counter(finding.severity for report in reports for finding in report.findings)
    tasks = [_task_to_json(report) for report in reports]
    return {"version": VERSION, "problems": counts[PROBLEM], "warnings": counts[WARNING], "tasks": tasks}


def summarise(report: TaskReport) -> str:
    """Write the report for a terminal, with the first findings of each kind; paths are shortened by `report.folder`."""
    lines = [f"{report.title}: {len(report.classes):,} classes, {len(report.contents):,} images"]
    if not report.datasets:
        lines = [f"{report.title}: no split can be read"]
    if folder := report.folder:
        lines[0] += f" below {folder}"
    table = [["split", "images", "per class", "empty classes", "width", "height", "sizes", "formats and modes"]]
    table += [_format_row(split, report) for split in SPLITS]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    for severity in (PROBLEM, WARNING):
        findings = report.of(severity)
        lines.append(f"{len(findings) or 'no'} {severity}{'s' * (len(findings) != 1)}")
        for kind in dict.fromkeys(finding.kind for finding in findings):
            texts = [finding.text for finding in findings if finding.kind == kind]
            lines += [f"  {kind}: {_shorten(text, folder)}" for text in texts[:_SHOWN]]
            lines += [f"  {kind}: {len(texts) - _SHOWN} more, all in the JSON report"] * (len(texts) > _SHOWN)
    return "\n".join(lines)


def _task_to_json(report: TaskReport) -> dict[str, Any]:
    return {
        "data": {"name": report.config.name, **dataclasses.asdict(report.config)},
        "folder": report.folder,
        "classes": report.classes,
        "splits": {split: _split_to_json(split, report) for split in SPLITS},
        "findings": [
            {**vars(finding), "items": [item._asdict() for item in finding.items]} for finding in report.findings
        ],
    }


def _split_to_json(split: str, report: TaskReport) -> dict[str, Any] | None:
    if split not in report.datasets:
        return None
    dataset = report.datasets[split]
    labels = Counter(dataset.labels)
    per_class = [labels[label] for label in range(len(dataset.classes))]
    found = [report.contents[dataset.path(index)] for index in range(len(dataset))]
    contents = [content for content in found if isinstance(content, Content)]
    headers = [content.header for content in contents if content.header]
    return {
        "images": len(dataset),
        "unreadable": len(found) - len(contents),
        "per_class": per_class,
        "images_per_class": _measure_spread(per_class),
        "width": _measure_spread([content.size[0] for content in contents]),
        "height": _measure_spread([content.size[1] for content in contents]),
        "sizes": len({content.size for content in contents}),
        "formats": dict(Counter(header.format for header in headers).most_common()),
        "modes": dict(Counter(header.mode for header in headers).most_common()),
    }


def _measure_spread(values: Sequence[int]) -> dict[str, float] | None:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None


def _format_row(split: str, report: TaskReport) -> list[str]:
    facts = _split_to_json(split, report)
    if facts is None:
        return [split, "not read", *("-" for _ in range(6))]
    counts: dict[str, int] = facts["formats"] | facts["modes"]
    kinds = [kind if times == facts["images"] else f"{kind} {times:,}" for kind, times in counts.items()]
    spreads = [_format_spread(facts[name]) for name in ("images_per_class", "width", "height")]
    counted = [f"{facts['images']:,}", spreads[0], str(facts["per_class"].count(0))]
    return [split, *counted, *spreads[1:], f"{facts['sizes']:,}", ", ".join(kinds) or "-"]


def _format_spread(spread: dict[str, float] | None) -> str:
    """Write smallest to largest and median, or the one value there is."""
    if spread is None:
        return "-"
    if spread["min"] == spread["max"]:
        return f"{spread['min']:,}"
    middle = f"{spread['median']:,.1f}".removesuffix(".0")
    return f"{spread['min']:,} to {spread['max']:,}, median {middle}"


def _shorten(text: str, folder: str | None) -> str:
    return text.replace(f"{folder}{os.sep}", "") if folder else text
