"""A dataset whose images are their indices, and what loaders made of it."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image

from vision_peft.data.dataset import ImageDataset

HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Counting(ImageDataset):
    """`size` images of one pixel that is the index, with every random generator's word as the transform's result."""

    def __init__(self, size: int) -> None:
        super().__init__(["even", "odd"], [index % 2 for index in range(size)])
        self.decoded: list[int] = []
        self.transform = noise

    def image(self, index: int) -> Image.Image:
        self.decoded.append(index)
        return Image.new("RGB", (1, 1), (index, 0, 0))

    def path(self, index: int) -> str:
        return f"number {index}"


def noise(image: Image.Image) -> torch.Tensor:
    """The index, and a draw of each generator."""
    pixel: Any = image.getpixel((0, 0))
    return torch.tensor([pixel[0], torch.rand(()), random.random(), np.random.rand()], dtype=torch.float64)


def fragile(image: Image.Image) -> torch.Tensor:
    """Fails on sample 3."""
    pixel: Any = image.getpixel((0, 0))
    if pixel[0] == 3:
        raise KeyError("no such colour")
    return torch.zeros(1)


def indices(batches: Any) -> list[list[int]]:
    """The indices of the samples of every batch."""
    return [batch[2].tolist() for batch in batches]


def flat(lists: list[list[int]]) -> list[int]:
    return [index for part in lists for index in part]


def assert_same(ours: list[Any], theirs: list[Any], may_be_empty: bool = False) -> None:
    """The batches are the same in every tensor."""
    assert len(ours) == len(theirs)
    assert ours or may_be_empty
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def failure(batches: Any) -> Exception:
    """The error that `batches` end with, without its frames: they would keep the workers until a garbage collection."""
    try:
        list(batches)
    except Exception as error:
        return error.with_traceback(None)
    raise AssertionError("nothing failed")
