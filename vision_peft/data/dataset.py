"""The map-style dataset that every family loads and that everything else reads: of images, or overridden for videos."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.images import ImageHeader
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.flat_arrays import IntArray
from vision_peft.data.targets import Targets
from vision_peft.data.transforms.bands import eval_bands, train_bands
from vision_peft.data.transforms.images import eval_transform, select_geometry, train_transform


class ImageDataset(Dataset[tuple[Any, int]], ABC):
    """Map-style dataset whose item `i` is `(transform(image), label)`.

    Without a transform the image is an RGB PIL image, or with `bands` a float32 tensor `C H W` in the units of the
    file, NaN where a value is missing. `classes` are the class names in label order, `labels` the label of every item;
    `targets` says what labels stand for where that is not a class each. An undecodable file raises
    `ImageDecodeError`: a dataset neither replaces nor drops a sample; the loader decides what becomes of it and counts.

    What users count, and an item shows, is a source: here an image, so that items and sources are the same. A dataset
    of videos overrides that (`VideoFiles`), and everything else about videos that others have to know.
    """

    what: ClassVar[str] = "image"  # a source, in messages
    gives_clips: ClassVar[bool] = False  # C T H W, not C H W
    eval_batch_size: ClassVar[int] = 64  # of one process; fixed, so that no setting or tool can move a figure
    view_average: str = "logits"  # what of the views of a source is averaged, see `VIEW_AVERAGES`
    in_memory: bool = False  # an item costs next to nothing, so that worker processes would only slow it down

    def __init__(self, classes: Sequence[str], labels: Iterable[int], targets: Targets | None = None) -> None:
        self.classes = list(classes)
        self.labels: Sequence[int] = IntArray(labels)
        self.targets = targets
        self.transform: Callable[[Any], Any] | None = None
        self.bands: Bands | None = None  # of images that are not RGB

    @abstractmethod
    def image(self, index: int) -> Any:
        """Return the decoded image of item `index`, before any transform."""

    @abstractmethod
    def path(self, index: int) -> str:
        """Say where item `index` comes from, for messages."""

    def picture(self, index: int) -> Image.Image:
        """Return an RGB picture of item `index` for people to look at."""
        return self.image(index)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return 3 if self.bands is None else self.bands.form.channels

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes that a pixel of a decoded image takes."""
        return 3 if self.bands is None else 4 * self.channels

    def file(self, index: int) -> str | None:
        """Return the file, or the folder of frames, that item `index` is decoded from; None: it has none of its own."""
        return None

    def stored_as(self, index: int) -> str | None:
        """Name what item `index` is decoded from, a file or a part of one; None: it is held in memory."""
        return self.file(index)

    def stored_size(self, index: int) -> int | None:
        """Return the bytes of what has no file of its own, but is stored somewhere; None where that is not known."""
        return None

    def check(self, index: int, decode: bool) -> None:
        """Raise `ImageDecodeError` where the file of item `index` is no image by its header or, to `decode`, at all."""
        if decode:
            self.image(index)
        else:
            self.header(index)

    def prepare(self) -> None:
        """Decode ahead, if the dataset does; a loader calls this before it starts processes and reads items."""

    def set_training(
        self, settings: Mapping[str, Any], augment: str, random_erasing: float, clip_place: str = "random"
    ) -> None:
        """Make items what a model trains on, from the input settings of the model and the recipe's augmentation.

        Of videos, `clip_place` says which clip: one from a random place, or always the middle one.
        """
        if "channels" in settings:
            self.transform = train_bands(settings, augment, random_erasing)
            return
        geometry = select_geometry(settings)
        self.transform = train_transform(**geometry, augment=augment, random_erasing=random_erasing)

    def set_evaluation(self, settings: Mapping[str, Any]) -> None:
        """Make items what a model is evaluated on, from its input settings; of videos these are all views."""
        of_bands = "channels" in settings
        self.transform = eval_bands(settings) if of_bands else eval_transform(**select_geometry(settings))

    def subset(self, items: Sequence[int]) -> "ImageDataset":
        """Return a dataset of the sources that `items` show, without a transform where items are images."""
        return ImageSubset(self, items)

    def first(self, size: int) -> "ImageDataset":
        """Return the subset of the first `size` items, all if there are fewer."""
        return self.subset(range(min(size, len(self))))

    def count_sources(self) -> int:
        """Count the images or videos, however many items show each."""
        return len(self)

    def source_of(self, index: int) -> int:
        """Return the number of the image or video that item `index` shows."""
        return index

    def first_item(self, source: int) -> int:
        """Return the index of the first item that shows image or video `source`."""
        return source

    def recorded_label(self, index: int) -> int:
        """Return what data.json holds of the label of item `index`: another number where what it stands for differs."""
        label = self.labels[index]
        return label if self.targets is None else self.targets.digest(label)

    def describe_oddities(self) -> str:
        """Say in a line what is odd about the sources for the items that are made of them; "" where nothing is."""
        return ""

    @property
    def varies(self) -> bool:
        """Whether an item differs from one access to the next, whatever the transform."""
        return False

    @property
    def is_kept(self) -> bool:
        """Whether decoded sources stay in memory."""
        return False

    @property
    def decoders(self) -> Sequence[str]:
        """Names of what can decode the files, where there is a choice."""
        return ()

    def as_tensor(self) -> Tensor | None:
        """Return all items as one tensor, which a loader then indexes instead of reading items; None: read items."""
        return None

    def label_tensor(self) -> Tensor:
        """Return what all items are labelled with, N ..., as items give it."""
        return torch.from_numpy(np.array(self.labels, dtype=np.int64))

    def label_bytes(self) -> int | None:
        """Return the bytes of `label_tensor`; None: labels have several shapes, or differ from time to time."""
        return 8 * len(self)

    def key(self, index: int) -> Hashable:
        """Return what the decoded image of item `index` is kept under; datasets that share a file may share it."""
        return id(self), index

    def count_pixels(self, index: int) -> int:
        """Return width x height of the image of item `index`."""
        image = self.image(index)
        return math.prod(image.size if isinstance(image, Image.Image) else image.shape[1:])

    def header(self, index: int) -> ImageHeader | None:
        """Return what the header of the file of item `index` says; None: it has no file of its own."""
        return None

    def decoded_size(self) -> int | None:
        """Estimate the bytes of all sources decoded whole, if `keep_in` can keep them so.

        None: it cannot; a loader may keep what the transform always makes of an image instead.
        """
        return None

    def keep_in(self, store: Store) -> None:
        """Keep whole decoded sources in `store` from now on."""
        raise NotImplementedError(f"{type(self).__name__} does not keep decoded items (see its decoded_size)")

    def use_decoder(self, name: str) -> None:
        """Decode files with one of `decoders` from now on."""
        raise NotImplementedError(f"{type(self).__name__} has no choice of decoders, got {name}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label = self.labels[index]
        image = self.image(index)
        return (image if self.transform is None else self.transform(image)), label


class ImageSubset(ImageDataset):
    """Some items of a dataset of images."""

    def __init__(self, dataset: ImageDataset, items: Sequence[int]) -> None:
        super().__init__(dataset.classes, IntArray(dataset.labels).take(items), dataset.targets)
        self.whole, self.items, self.bands = dataset, items, dataset.bands

    def image(self, index: int) -> Any:
        return self.whole.image(self.items[index])

    def picture(self, index: int) -> Image.Image:
        return self.whole.picture(self.items[index])

    def path(self, index: int) -> str:
        return self.whole.path(self.items[index])

    def file(self, index: int) -> str | None:
        return self.whole.file(self.items[index])

    def stored_as(self, index: int) -> str | None:
        return self.whole.stored_as(self.items[index])

    def stored_size(self, index: int) -> int | None:
        return self.whole.stored_size(self.items[index])

    def check(self, index: int, decode: bool) -> None:
        self.whole.check(self.items[index], decode)

    def key(self, index: int) -> Hashable:
        return self.whole.key(self.items[index])

    def count_pixels(self, index: int) -> int:
        return self.whole.count_pixels(self.items[index])

    def header(self, index: int) -> ImageHeader | None:
        return self.whole.header(self.items[index])
