"""What a check of a dataset found, as JSON and in words.

`check.check_tasks` gives a `TaskReport` for each task. As JSON (`to_json`):

* `version` 1; `problems`, `warnings`: how many findings of each severity all tasks have
* `tasks`: a list of
    * `data`: the name of the family and its fields; `folder`: the one that all image files are below, null without any
    * `classes`: names in label order
    * `splits`: for train, val, trainval and test null where the split cannot be read, else
        * `images`, `unreadable`: counts; `per_class`: images of every class in label order
        * `images_per_class`, `width`, `height`: `{min, median, max}`, null of nothing; `sizes`: how many differ
        * `formats`, `modes`: counts of what PIL calls the files' formats and modes ("L", "CMYK", "I;16", ...)
        * where labels are not classes, `targets`: what `target_facts.describe_targets` says
        * of videos, whose number is `images`, also `frames`, `rate` (a second), `seconds`: `{min, median, max}`, and
          `containers`, `codecs`: counts
        * of images with bands also `bands`: a list of `{band, min, max, images, missing}`, `images` being those with a
          value in it and `missing` the mean share of values that are missing
    * `findings`: a list of `{severity, kind, text, splits, items}`, an item being `{split, path, label}`

Kinds of the severity "problem": `reader` (what the reader of the family refuses, with file and line), `task` (a task of
a suite is not there), `classes` (splits disagree, names are repeated, fewer than two), `label_range`, `missing`,
`unreadable` (files), `overlap` (one image in several splits), `label_conflict` (one image with several labels). Of the
severity "warning": `reader`, `empty_class` (no image in train or test), `no_label`, `constant`, `range` (see
`target_facts`), `trainval` (not train and val together), `duplicate` (one image several times in a split),
`exif_rotation` (files that EXIF would turn), `extension` (files of another format than their name says). Images are one
image where their decoded pixels are the same, videos where those of all their frames are.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from vision_peft.data.check.contents import Content
from vision_peft.data.check.findings import PROBLEM, WARNING, Finding
from vision_peft.data.check.target_facts import count_labels, describe_targets, list_lines
from vision_peft.data.config import SPLITS, DataConfig
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_statistics import BandRange
from vision_peft.data.decoding.bands import BandForm
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.printable import LONGEST_LINE, printable

VERSION = 1
_IMAGE_COLUMNS = ("formats and modes",)
_VIDEO_COLUMNS = ("frames", "rate", "seconds", "containers and codecs")
_SHOWN = 10  # findings of one kind that are printed


@dataclass
class TaskReport:
    """What was found in one dataset; `datasets` are the splits that could be read."""

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
        files = [dataset for dataset in self.datasets.values() if isinstance(dataset, ImageFiles | VideoFiles)]
        folders = {str(Path(path).parent) for dataset in files for path in dataset.paths}
        return os.path.commonpath(folders) if folders else None

    @property
    def what(self) -> str:
        """What the items are: image or video."""
        return next(iter(self.datasets.values())).what if self.datasets else "image"

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
    lines = [f"{report.title}: {len(report.classes):,} classes, {len(report.contents):,} {report.what}s"]
    if not report.datasets:
        lines = [f"{report.title}: no split can be read"]
    if folder := report.folder:
        lines[0] += f" below {folder}"
    columns = _VIDEO_COLUMNS if report.what == "video" else _IMAGE_COLUMNS
    table = [["split", f"{report.what}s", "per class", "empty classes", "width", "height", "sizes", *columns]]
    table += [_format_row(split, report, len(table[0])) for split in SPLITS]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += [line for split, dataset in report.datasets.items() for line in list_lines(split, dataset)]
    for split in report.datasets:
        if (facts := _split_to_json(split, report)) and "bands" in facts and split != "trainval":
            lines += [f"values of {split}:", *_format_bands(facts["bands"])]
    for severity in (PROBLEM, WARNING):
        findings = report.of(severity)
        lines.append(f"{len(findings) or 'no'} {severity}{'s' * (len(findings) != 1)}")
        for kind in dict.fromkeys(finding.kind for finding in findings):
            texts = [finding.text for finding in findings if finding.kind == kind]
            lines += [f"  {kind}: {_shorten(text, folder)}".replace("\n  ", "; ") for text in texts[:_SHOWN]]
            lines += [f"  {kind}: {len(texts) - _SHOWN} more, all in the JSON report"] * (len(texts) > _SHOWN)
    return "\n".join(printable(line, LONGEST_LINE) for line in lines)


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
    per_class = count_labels(dataset)
    found = [report.contents[dataset.path(index)] for index in range(len(dataset))]
    contents = [content for content in found if isinstance(content, Content)]
    headers = [content.header for content in contents if content.header]
    facts = {
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
    if (targets := describe_targets(dataset)) is not None:
        facts["targets"] = targets
    if dataset.bands is not None:
        facts["bands"] = _measure_bands([content.ranges for content in contents], dataset.bands.form)
    if dataset.gives_clips:
        forms = [content.form for content in contents if content.form]
        facts["frames"] = _measure_spread([form.frames for form in forms])
        for name in ("rate", "seconds"):
            known = [value for form in forms if (value := getattr(form, name)) is not None]
            facts[name] = _measure_spread([round(value, 3) for value in known])
        facts["containers"] = dict(Counter(form.container for form in forms).most_common())
        facts["codecs"] = dict(Counter(form.codec for form in forms).most_common())
    return facts


def _measure_bands(images: Sequence[Sequence[BandRange]], form: BandForm) -> list[dict[str, Any]]:
    """Describe what the images hold in each band; null where a band has no value."""
    found = []
    for band, ranges in enumerate(zip(*images, strict=True)):
        known = [each for each in ranges if each.missing < 1]
        low, high = (min((each.low for each in known), default=None), max((each.high for each in known), default=None))
        missing = sum(each.missing for each in ranges) / len(ranges)
        name = form.bands[band] if form.bands else str(band)
        found.append({"band": name, "min": low, "max": high, "images": len(known), "missing": round(missing, 6)})
    return found


def _format_bands(bands: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Write a line for each band."""
    for band in bands:
        values = "no value" if band["min"] is None else f"{band['min']:,.6g} to {band['max']:,.6g}"
        missing = f", {100 * band['missing']:.2g} % missing" if band["missing"] else ""
        yield f"  band {band['band']}: {values}{missing}"


def _measure_spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None


def _format_row(split: str, report: TaskReport, columns: int) -> list[str]:
    facts = _split_to_json(split, report)
    if facts is None:
        return [split, "not read", *("-" for _ in range(columns - 2))]
    video = report.what == "video"
    counts: dict[str, int] = facts["containers"] | facts["codecs"] if video else facts["formats"] | facts["modes"]
    kinds = [kind if times == facts["images"] else f"{kind} {times:,}" for kind, times in counts.items()]
    spreads = [_format_spread(facts[name]) for name in ("images_per_class", "width", "height")]
    counted = [f"{facts['images']:,}", spreads[0], str(facts["per_class"].count(0))]
    of_videos = [_format_spread(facts[name]) for name in ("frames", "rate", "seconds") if video]
    return [split, *counted, *spreads[1:], f"{facts['sizes']:,}", *of_videos, ", ".join(kinds) or "-"]


def _format_spread(spread: dict[str, float] | None) -> str:
    """Write smallest to largest and median, or the one value there is."""
    if spread is None:
        return "-"
    low, high, middle = (_format_number(spread[name]) for name in ("min", "max", "median"))
    return low if low == high else f"{low} to {high}, median {middle}"


def _format_number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".") if value < 100 else f"{value:,.1f}".removesuffix(".0")


def _shorten(text: str, folder: str | None) -> str:
    return text.replace(f"{folder}{os.sep}", "") if folder else text
