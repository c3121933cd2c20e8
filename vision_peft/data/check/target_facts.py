"""What a check says of labels that are not classes: which occur together, which numbers there are."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vision_peft.data.check.findings import PROBLEM, WARNING, Finding
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.mask_dataset import MaskFiles

BINS = 10
_CLASSES = 20  # that are named
_GROUPS = 6  # ranges of a number that samples are shown of
_PAIRS = 5  # of classes that are named
_BARS = " ▁▂▃▄▅▆▇█"


def count_labels(dataset: ImageDataset) -> list[int]:
    """Count the images of each class, with masks those that show it; numbers have none."""
    if isinstance(dataset, MaskFiles):
        return dataset.count_images()
    rows = read_rows(dataset)
    if rows is None:
        labels = np.asarray(dataset.labels)
        known = labels[(labels >= 0) & (labels < len(dataset.classes))]
        return np.bincount(known, minlength=len(dataset.classes)).tolist()
    assert dataset.targets is not None
    return rows.sum(0, dtype=np.int64).tolist() if dataset.targets.kind == "multilabel" else []


def read_rows(dataset: ImageDataset) -> np.ndarray | None:
    """Return what each label of a dataset stands for, N ...; None where it is a class."""
    targets = dataset.targets
    return None if targets is None or targets.values is None else targets.values[np.asarray(dataset.labels)]


def group_items(datasets: Mapping[str, ImageDataset]) -> tuple[list[str], dict[str, dict[int, np.ndarray]]]:
    """Return names of groups of images that belong together, and by split the indices of each group by its number.

    Groups are the classes; of numbers (the first where there are several) ranges with equally many images of the
    first split.
    """
    first = next(iter(datasets.values()))
    if first.targets is None or first.targets.kind != "regression" or not len(first):
        found = {split: _group_by_class(dataset) for split, dataset in datasets.items()}
        return first.classes, found
    numbers = {split: np.asarray(read_rows(dataset))[:, 0] for split, dataset in datasets.items()}
    shares = np.linspace(0, 1, _GROUPS + 1)
    edges = np.unique(np.quantile(next(iter(numbers.values())), shares))
    inner = edges[1:-1]
    places = {split: np.searchsorted(inner, own, side="right") for split, own in numbers.items()}
    ends = zip(edges, edges[1:] if len(edges) > 1 else edges, strict=False)
    names = [f"{first.classes[0]} {low:.4g} to {high:.4g} {first.targets.unit}".strip() for low, high in ends]
    groups = range(len(names))
    return names, {split: {group: np.flatnonzero(own == group) for group in groups} for split, own in places.items()}


def _group_by_class(dataset: ImageDataset) -> dict[int, np.ndarray]:
    rows, labels, classes = read_rows(dataset), np.asarray(dataset.labels), range(len(dataset.classes))
    if rows is None:
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange(len(classes) + 1))
        return {label: order[starts[label] : starts[label + 1]] for label in classes}
    return {label: np.flatnonzero(rows[:, label]) for label in classes} if rows.ndim == 2 else {}


def name_label(dataset: ImageDataset, label: int) -> str:
    """Say what a label stands for: "cat", "sea and sun", "none of the classes", "2.5 mm"."""
    targets, classes = dataset.targets, dataset.classes
    if targets is None or targets.values is None:
        return classes[label] if label in range(len(classes)) else str(label)
    row = targets.values[label]
    if targets.kind == "multilabel":
        return " and ".join(np.array(classes, dtype=object)[row > 0]) or "none of the classes"
    unit = f" {targets.unit}" if targets.unit else ""
    return ", ".join(f"{number:.6g}" for number in np.ravel(row)[:8]) + unit


def describe_targets(dataset: ImageDataset) -> dict[str, Any] | None:
    """Return as JSON what labels that are not classes say; None where they are classes.

    * multilabel: `empty`, images of no class; `labels_per_image`, images by how many; `together`, C C, how often two
      classes are on one image
    * regression: for each of `targets` its `min, median, max, mean, std` and a `histogram` of `edges` and `counts`
    """
    targets = dataset.targets
    if targets is None:
        return None
    rows, found = read_rows(dataset), {"kind": targets.kind}
    if rows is None or not len(rows):
        return found
    if targets.kind == "multilabel":
        flags = rows.astype(np.int64)
        times = np.bincount(flags.sum(1)).tolist()
        together = (flags.T @ flags).tolist()
        return found | {"empty": times[0], "labels_per_image": times, "together": together}
    if targets.kind == "regression":
        named = zip(dataset.classes, rows.T, strict=True)
        return found | {"unit": targets.unit, "targets": {name: _describe_numbers(own) for name, own in named}}
    return found


def list_lines(split: str, dataset: ImageDataset) -> Iterator[str]:
    """Say in lines what `describe_targets` holds of a split."""
    facts = describe_targets(dataset) or {}
    if "together" in facts:
        counts, classes, together = count_labels(dataset), dataset.classes, facts["together"]
        few = sorted(range(len(classes)), key=lambda place: -counts[place])[:_CLASSES]
        more = ", ..." * (len(classes) > _CLASSES)
        yield f"{split}: {', '.join(f'{classes[place]} {counts[place]:,}' for place in few)}{more}"
        numbers = ", ".join(f"{times:,} of {size}" for size, times in enumerate(facts["labels_per_image"]) if times)
        yield f"{split}: images by number of labels: {numbers}"
        pairs = [pair for pair in itertools.combinations(range(len(classes)), 2) if together[pair[0]][pair[1]]]
        pairs = sorted(pairs, key=lambda pair: -together[pair[0]][pair[1]])[:_PAIRS]
        named = [f"{classes[one]} with {classes[two]} {together[one][two]:,}" for one, two in pairs]
        yield f"{split}: most often together: {', '.join(named) or 'no two classes'}"
    for name, own in facts.get("targets", {}).items():
        unit = f" {facts['unit']}" if facts["unit"] else ""
        yield (
            f"{split}: {name} {own['min']:.6g} to {own['max']:.6g}{unit}, median {own['median']:.6g}, mean "
            f"{own['mean']:.6g}, standard deviation {own['std']:.6g}  |{_draw_bars(own['histogram']['counts'])}|"
        )


def check_targets(datasets: Mapping[str, ImageDataset]) -> Iterator[Finding]:
    """List what is wrong or unusual about labels that are not classes."""
    for split, dataset in datasets.items():
        if isinstance(dataset, MaskFiles) and split != "trainval":
            yield from (Finding(PROBLEM, "mask", problem, [split]) for problem in dataset.list_mask_problems())
        rows = read_rows(dataset)
        if rows is None or dataset.targets is None or not len(rows):
            continue
        if dataset.targets.kind == "multilabel" and (empty := int((~rows.any(1)).sum())):
            text = (
                f"{empty:,} of {len(rows):,} {dataset.what}s of {split} have no label: they are of none of the classes"
            )
            yield Finding(WARNING, "no_label", text, [split])
        if dataset.targets.kind == "multilabel" and split == "train":
            everywhere = [dataset.classes[place] for place in np.flatnonzero(rows.all(0))]
            if everywhere:
                text = f"{', '.join(everywhere[:5])}: on every {dataset.what} of train, so that nothing can be learned"
                yield Finding(WARNING, "constant", text, [split])
        if dataset.targets.kind == "regression" and split == "train":
            for name, own in zip(dataset.classes, rows.T, strict=True):
                if own.min() == own.max():
                    text = f"{name} is {own[0]:.6g} for every {dataset.what} of train: there is nothing to learn"
                    yield Finding(PROBLEM, "constant", text, [split])
    if {"train", "test"} <= datasets.keys():
        yield from _check_range(datasets["train"], datasets["test"])


def _check_range(train: ImageDataset, test: ImageDataset) -> Iterator[Finding]:
    """Warn of numbers of test beyond those of train, which a model has to extrapolate."""
    rows, others = read_rows(train), read_rows(test)
    if rows is None or others is None or not len(rows) or train.targets is None or train.targets.kind != "regression":
        return
    beyond = (others < rows.min(0)) | (others > rows.max(0))
    for name, own, low, high in zip(train.classes, beyond.T, rows.min(0), rows.max(0), strict=True):
        if own.any():
            count = f"{int(own.sum()):,} of {len(own):,} values of {name} in test"
            yield Finding(
                WARNING, "range", f"{count} lie outside of train's {low:.6g} to {high:.6g}", ["train", "test"]
            )


def _describe_numbers(values: np.ndarray) -> dict[str, Any]:
    counts, edges = np.histogram(values, BINS)
    found = {name: float(getattr(np, name)(values)) for name in ("min", "median", "max", "mean", "std")}
    return found | {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _draw_bars(counts: list[int]) -> str:
    most = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)
