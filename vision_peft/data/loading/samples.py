"""What a loader's processes do: one sample under generators of its own, and samples put together to a batch."""

import hashlib
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # images B C H W, labels B (or masks B H W), dataset indices B
Key = tuple[int, int, int]  # epoch, index, which of the sample's occurrences in the epoch
# image, label (or mask), index, errors on the way to it
Sample = tuple[torch.Tensor | None, Any, int, list[ImageDecodeError]]
Result = tuple[Batch | None, list[ImageDecodeError], list[int]]  # the last: indices of samples without an image


class SeededSamples(Dataset[Any]):
    """Dataset of samples `(image, label, index, errors)` by key (epoch, index, repeat).

    An error is returned for the main process to raise: raised in a worker it would come out as another type with two
    tracebacks for its message.

    `errors` are those of the undecodable images that were passed over, at most `spare` files; with one more the image
    is None.
    """

    def __init__(self, dataset: ImageDataset, seed: int, spare: int) -> None:
        self.dataset, self.seed, self.spare = dataset, seed, spare

    def __getitem__(self, key: Key) -> Sample | Exception:
        epoch, first, repeat = key
        seed = hash_seed(self.seed, epoch, first, repeat) if repeat else hash_seed(self.seed, epoch, first)
        errors: dict[str, ImageDecodeError] = {}
        for step in range(len(self.dataset)):
            index = (first + step) % len(self.dataset)
            try:
                with _seed_generators(seed):
                    image, label = self.dataset[index]
                if not isinstance(image, torch.Tensor):
                    raise TypeError(f"wanted a tensor from the dataset's transform, got {type(image).__name__}")
            except ImageDecodeError as error:
                errors[error.path] = ImageDecodeError(error.path, error.cause)  # without the frames, which hold it
                if len(errors) > self.spare:
                    break
            except Exception as error:
                named = RuntimeError(f"sample {index} ({self.dataset.path(index)}): {type(error).__name__}: {error}")
                named.add_note(traceback.format_exc())
                return named
            else:
                return image, label, index, [*errors.values()]
        return None, -1, first, [*errors.values()]


@contextmanager
def _seed_generators(seed: int) -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    # not torch.manual_seed: that would also reseed the accelerator, whose generator belongs to training
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def hash_seed(*numbers: int) -> int:
    """Return a seed of 63 bits that depends on all of `numbers`."""
    text = ",".join(str(number) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def collate(samples: list[Sample | Exception]) -> Result | Exception:
    """Stack the samples of a batch, without those that have no image; or return the first error of another kind."""
    found: list[Sample] = []
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
        found.append(sample)
    errors = [error for sample in found for error in sample[3]]
    missing = [index for image, _, index, _ in found if image is None]
    images = [image for image, *_ in found if image is not None]
    if not images:
        return None, errors, missing
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        return ValueError(f"the images of a batch must have one shape, got {shapes}: the transform must fix the size")
    places = [(label, index) for image, label, index, _ in found if image is not None]
    indices = torch.tensor([index for _, index in places])
    if isinstance(places[0][0], torch.Tensor):  # masks
        labels = torch.stack([label for label, _ in places])
    else:
        labels = torch.tensor([label for label, _ in places])
    return (torch.stack(images), labels, indices), errors, missing
