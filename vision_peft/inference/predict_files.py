"""Predict many files: read by the loader of evaluation, answered in their order, batch by batch."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_files import BandFiles
from vision_peft.data.decoding.frame_folders import decode_frame_folder, list_frames
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.video import Choose
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.decoding.video_file import VideoDecodeError, describe_error
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.loading.bad_files import BadFiles
from vision_peft.data.loading.loader import eval_loader
from vision_peft.inference.predictor import Outputs, Predictor
from vision_peft.inference.prepare import Preparation

_ANYTHING = ["anything"]  # the class of files whose labels nobody asks for


class Answers(NamedTuple):
    """What became of some files: the places of those that were answered, in order, and why others were not."""

    places: list[int]
    outputs: Outputs
    failures: dict[int, str]  # by place, the cause


class Videos(VideoFiles):
    """Videos that are files, or folders with an image per frame, as they come."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths, np.zeros(len(paths), np.int64), _ANYTHING)

    def frames(self, video: int, choose: Choose) -> np.ndarray:
        path = self.paths[video]
        if not os.path.isdir(path):  # noqa: PTH112
            return super().frames(video, choose)
        try:
            count = len(list_frames(path))
        except (OSError, ValueError) as error:
            raise VideoDecodeError(path, "frames", describe_error(error)) from None
        if not count:
            raise VideoDecodeError(
                path, "frames", ("a folder without images: wanted a video, or a folder with one image per frame")
            )
        return decode_frame_folder(path, count, choose)


def make_dataset(prepare: Preparation, paths: Sequence[str]) -> ImageDataset:
    """Return the dataset of evaluation for these files: an item is an image, or a view of a video."""
    if prepare.gives_clips:
        dataset: ImageDataset = Videos(paths)
    elif prepare.bands is not None:
        labels = IntArray(np.zeros(len(paths), np.int64))
        dataset = BandFiles(TextArray.of(paths), labels, _ANYTHING, prepare.bands)
    else:
        options = {"exif_rotation": prepare.exif_rotation, "max_pixels": prepare.max_pixels}
        labels = np.zeros(len(paths), np.int64)
        dataset = ImageFiles(paths, labels, _ANYTHING, value_range=prepare.value_range, **options)
    dataset.set_evaluation(prepare.settings)
    return dataset


def predict_files(predictor: Predictor, dataset: ImageDataset, workers: int | str = "auto") -> Iterator[Answers]:
    """Yield what the model says of every file of a dataset, in order; each file comes once.

    Args:
        predictor: gives model, batch size and the mean over views.
        dataset: of `make_dataset`.
        workers: processes that decode, as in evaluation.
    """
    bad = BadFiles()
    loader = eval_loader(
        dataset, predictor.batch_size, workers, device=predictor.compute.device, bad="wrong", bad_files=bad
    )
    views = _Views(predictor, dataset)
    for images, _, indices in loader:
        views.add(indices.tolist(), predictor.forward(images))
        yield views.take(max(indices.tolist() + loader.unreadable[-1:]), loader.unreadable, bad)
    yield views.take(len(dataset) - 1, loader.unreadable, bad)


class _Views:
    """Views whose files are not complete yet, and which files have been answered."""

    def __init__(self, predictor: Predictor, dataset: ImageDataset) -> None:
        self.predictor, self.dataset = predictor, dataset
        self.waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by file, of each view
        self.failed: set[int] = set()  # files
        self.noted = 0  # of the unreadable items
        self.answered = 0  # files

    def add(self, indices: Sequence[int], outputs: Outputs) -> None:
        for index, logits, features in zip(indices, *outputs, strict=True):
            self.waiting.setdefault(self.dataset.source_of(index), []).append((logits, features))

    def take(self, seen: int, unreadable: Sequence[int], bad: BadFiles) -> Answers:
        """Take out the files of which no item is still to come, where those up to `seen` have been read."""
        end = self.dataset.source_of(seen + 1) if seen + 1 < len(self.dataset) else self.dataset.count_sources()
        self.failed |= {self.dataset.source_of(index) for index in unreadable[self.noted :]}
        self.noted = len(unreadable)
        places, found, failures = [], list[tuple[Tensor, Tensor]](), {}
        for source in range(self.answered, end):
            views = self.waiting.pop(source, [])
            if source in self.failed:
                path = self.dataset.path(self.dataset.first_item(source))
                failures[source] = bad.causes.get(path, "it cannot be decoded")
                continue
            places.append(source)
            found.append(self._average(views))
        self.answered = end
        width = self.predictor.model.num_features
        empty = torch.empty(0, self.predictor.task.outputs), torch.empty(0, width)
        outputs = Outputs(*map(torch.stack, zip(*found, strict=True))) if found else Outputs(*empty)
        return Answers(places, outputs, failures)

    def _average(self, views: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if len(views) == 1:
            return views[0]
        logits, features = (torch.stack(parts) for parts in zip(*views, strict=True))
        return self.predictor.prepare.average(logits), features.double().mean(0).float()
