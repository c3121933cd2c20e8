"""The digits that every installation has."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vision_peft.data.datasets.digits import DigitImages, Digits

SOURCE: Any = load_digits()


def load(split: str, seed: int = 0) -> DigitImages:
    dataset = Digits(seed=seed).load(split)
    assert isinstance(dataset, DigitImages)
    return dataset


def test_the_splits_have_1000_200_and_597_images_and_share_none() -> None:
    parts = {split: load(split).numbers for split in ("train", "val", "test")}
    assert {split: len(numbers) for split, numbers in parts.items()} == {"train": 1000, "val": 200, "test": 597}
    assert sorted(parts["train"] + parts["val"] + parts["test"]) == list(range(1797))
    assert load("trainval").numbers == parts["train"] + parts["val"]


def test_the_splits_are_stratified() -> None:
    whole = np.bincount(SOURCE.target) / 1797
    for split in ("train", "val", "trainval", "test"):
        counts = Counter(load(split).labels)
        for digit in range(10):
            assert abs(counts[digit] - whole[digit] * len(load(split))) <= 1.5


def test_images_are_the_digits_scaled_from_16_to_255() -> None:
    digits = load("test")
    image, label = digits[5]
    number = digits.numbers[5]
    assert (image.mode, image.size) == ("RGB", (8, 8))
    np.testing.assert_allclose(np.asarray(image)[..., 2], SOURCE.images[number] * 255 / 16, atol=0.5)
    assert label == SOURCE.target[number] == digits.labels[5]
    assert digits.path(5) == f"sklearn digits[{number}]"
    assert digits.classes == list("0123456789")
    assert digits.in_memory


def test_the_seed_draws_the_split() -> None:
    assert load("train").numbers == load("train").numbers
    assert load("train", seed=1).numbers != load("train").numbers


def test_the_transform_is_applied_to_the_image_alone() -> None:
    digits = load("val")
    digits.transform = lambda image: image.size
    assert digits[0] == ((8, 8), digits.labels[0])
    with pytest.raises(IndexError):
        digits[200]
