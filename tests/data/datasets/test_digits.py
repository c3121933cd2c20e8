"""The digits that every installation has."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from vision_peft.data.datasets.digits import DigitImages, Digits, read_digits, split_by_class

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


def test_the_file_read_is_what_scikit_learn_reads() -> None:
    pixels, labels = read_digits()
    np.testing.assert_array_equal(pixels, SOURCE.data)
    np.testing.assert_array_equal(labels, SOURCE.target)
    assert (pixels.dtype, labels.dtype) == (SOURCE.data.dtype, SOURCE.target.dtype)


@pytest.mark.parametrize(("items", "size"), [(1797, 597), (1200, 200), (301, 37), (100, 50)])
def test_the_draw_is_that_of_scikit_learn(items: int, size: int) -> None:
    for seed in range(6):
        chosen = np.random.RandomState(seed).permutation(1797)[:items]
        theirs = train_test_split(chosen, test_size=size, stratify=SOURCE.target[chosen], random_state=seed)
        for ours, their in zip(split_by_class(chosen, SOURCE.target, size, seed), theirs, strict=True):
            np.testing.assert_array_equal(ours, their)


def test_a_version_that_keeps_the_file_elsewhere_reads_it_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    pixels, labels = read_digits.__wrapped__()
    np.testing.assert_array_equal(pixels, SOURCE.data)
    np.testing.assert_array_equal(labels, SOURCE.target)


def test_without_scikit_learn_the_images_are_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        read_digits.__wrapped__()
