"""A part of the training data, by which a method is asked how many labels it needs."""

from collections.abc import Sequence

import numpy as np

from vision_peft.data.annotations.split_by_name import list_places
from vision_peft.data.config import DataConfig
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.item_names import name_below
from vision_peft.printable import warn

_BY_CLASS = ("classes", "ordinal")  # kinds of task whose items have one class each
_SEED = 0


def take_few(dataset: ImageDataset, config: DataConfig) -> ImageDataset:
    """Return what `data.shots` or `data.train_share` leave of a split that is trained on, in its order.

    Names of items alone decide: the same items on every machine and under every seed, the smaller part inside the
    larger one, and what is added to the data moves no other item. Every class keeps one item at least.

    Raises:
        ValueError: shots of something that has no classes.
    """
    if config.shots is None and config.train_share == 1:
        return dataset
    kind = dataset.targets.kind if dataset.targets is not None else "classes"
    if config.shots is not None and kind not in _BY_CLASS:
        raise ValueError(
            f"data.shots counts items per class, and a task of {kind} has no classes: give data.train_share=0.1 instead"
        )
    labels: Sequence[int] = dataset.labels if kind in _BY_CLASS else [0] * len(dataset)
    base = None if (folder := config.base()) is None else str(folder)
    places = list_places((name_below(dataset.path(item), base) for item in range(len(dataset))), _SEED)
    of_item = np.asarray(labels, dtype=int)
    by_class = np.lexsort((places, of_item))  # class by class, in each by place
    counts = np.unique(of_item, return_counts=True)[1]
    place_in_class = np.arange(len(of_item)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.repeat(_count_wanted(counts, config, dataset), counts)
    return dataset.subset(np.sort(by_class[place_in_class < wanted]).tolist())


def _count_wanted(counts: np.ndarray, config: DataConfig, dataset: ImageDataset) -> np.ndarray:
    """Count the items that each class keeps; warn of those that have fewer than asked for."""
    if config.shots is None:
        return np.maximum(np.rint(counts * config.train_share).astype(int), 1)
    if short := int((counts < config.shots).sum()):
        warn(
            f"data.shots={config.shots}: {short} of {len(dataset.classes)} classes have fewer training items, "
            f"{counts.min()} at least; they keep all of them"
        )
    return np.full_like(counts, config.shots)
