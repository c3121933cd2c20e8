"""Parts of a dataset: chosen items, the first few, and how many there are."""

import copy
from collections.abc import Sequence

from PIL import Image

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.video_dataset import VideoFiles


class Part(ImageDataset):
    """Chosen items of a dataset."""

    def __init__(self, dataset: ImageDataset, items: Sequence[int]) -> None:
        super().__init__(dataset.classes, [dataset.labels[item] for item in items])
        self.whole, self.items = dataset, items

    def image(self, index: int) -> Image.Image:
        return self.whole.image(self.items[index])

    def path(self, index: int) -> str:
        return self.whole.path(self.items[index])


def part_of(dataset: ImageDataset, items: Sequence[int]) -> ImageDataset:
    """Chosen items of a dataset; of videos those that the items show."""
    if not isinstance(dataset, VideoFiles):
        return Part(dataset, items)
    videos = list(dict.fromkeys(dataset.video(item) for item in items))
    part = copy.copy(dataset)
    part.paths = [dataset.paths[video] for video in videos]
    part.video_labels = [dataset.video_labels[video] for video in videos]
    if dataset.frame_counts is not None:
        part.frame_counts = [dataset.frame_counts[video] for video in videos]
    part.clips = dataset.clips  # makes the labels anew
    return part


def first(dataset: ImageDataset, size: int) -> ImageDataset:
    """The first `size` items of a dataset, all if there are fewer."""
    return part_of(dataset, range(min(size, len(dataset))))


def items_of(dataset: ImageDataset) -> int:
    """Images or videos of a dataset, however many views a video has."""
    return len(dataset.paths) if isinstance(dataset, VideoFiles) else len(dataset)
