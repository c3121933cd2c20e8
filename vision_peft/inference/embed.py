"""Embed images or videos: their features under a tuned model or a frozen backbone, one by one or many from disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from vision_peft.data.dataset import ImageDataset
from vision_peft.inference.feature_files import Features, RowFile
from vision_peft.inference.predict_files import predict_files
from vision_peft.inference.predictor import Predictor
from vision_peft.retrieval.nearest import normalise as to_length_1


def embed(
    source: str | Path | nn.Module,
    items: Any,
    *,
    features: str | None = None,
    normalise: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    **options: Any,
) -> Tensor:
    """Return the features of images, or of videos for a model of clips.

        vp.embed("runs/digits/...", ["a.jpg", "b.jpg"])  # 2 D
        vp.embed(vp.create_backbone("dinov2_small_pypi", pretrained=True, img_size=112), "a.jpg", normalise=True)  # D

    Args:
        source: a run folder, an adapter folder, `hf-hub:OWNER/NAME`, or any timm model, with or without methods.
        items: one item, or a list of them, as `vp.Predictor` takes them.
        features: `head` (what enters the head), `class` (the class token), `patches` (the mean of the patch tokens) or
            `output` (what the model answers). None: `head`, or `output` of a model that learned to embed, or `patches`
            of one that answers for every pixel.
        normalise: give every row the length 1.
        device: as of `vp.Predictor`.
        batch_size: as of `vp.Predictor`.
        options: as of `vp.Predictor`.

    Returns:
        fp32 on the CPU: N D of a list, D of one item.

    Raises:
        ImageDecodeError: an item that cannot be decoded.
        ValueError, FileNotFoundError, ConnectionError: as `vp.Predictor`.
    """
    predictor = Predictor(source, device, batch_size, features=features, **options)
    whole = isinstance(items, list | tuple)
    rows = predictor.features(items if whole else [items])
    rows = to_length_1(rows).float() if normalise else rows
    return rows if whole else rows[0]


class Embedded(NamedTuple):
    """What became of the images or videos of a dataset."""

    features: Features  # of those that could be read
    places: list[int]  # of these in the dataset
    failures: dict[str, str]  # of the others: why, by path


def embed_dataset(
    predictor: Predictor,
    dataset: ImageDataset,
    labels: Sequence[int | None],
    rows: RowFile,
    *,
    normalise: bool = False,
    workers: int | str = "auto",
    report: Callable[[int], None] = lambda done: None,
) -> Embedded:
    """Embed every image or video of a dataset, in order, batch by batch.

    Args:
        predictor: of the model.
        dataset: as `set_evaluation` left it.
        labels: of its images or videos, where they are known.
        rows: holds the features, and has to stay open as long as they are used.
        normalise: give every row the length 1.
        workers: as in evaluation.
        report: is told how many are done.
    """
    predictor.check_features()
    kept, failures, done = list[int](), dict[str, str](), 0
    for places, outputs, failed in predict_files(predictor, dataset, workers):
        finite = outputs.features.isfinite().all(1)
        bad = [place for place, good in zip(places, finite.tolist(), strict=True) if not good]
        causes = failed | dict.fromkeys(bad, "the output of the model is NaN or infinite")
        failures |= {dataset.path(dataset.first_item(place)): causes[place] for place in sorted(causes)}
        found = outputs.features[finite]
        rows.append((to_length_1(found).float() if normalise else found).numpy())
        kept += [place for place in places if place not in causes]
        done += len(places) + len(failed)
        report(done)
    paths = [dataset.path(dataset.first_item(place)) for place in kept]
    numbers = [-1 if (label := labels[place]) is None else label for place in kept]
    features = Features(rows.read(), paths, np.array(numbers, np.int64), dataset.classes)
    return Embedded(features, kept, failures)
