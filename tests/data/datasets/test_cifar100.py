"""CIFAR-100 in its official layout: three pickles, which are opened only where their MD5 is the official one."""

import hashlib
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from vision_peft.data.datasets.cifar100 import Cifar100
from vision_peft.data.decoding.arrays import ArrayImages

NAMES = [f"class {label:03d}" for label in range(100)]
TRAIN, TEST = 1000, 200


def pixels(seed: int, count: int) -> np.ndarray:
    """What the file holds: `count` rows of 3,072 bytes, all red, then all green, then all blue."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def labels(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).permutation(np.arange(count) % 100).tolist()


def register(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make the MD5 of the files in `folder` the official ones."""
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for seed, (name, count) in enumerate({"train": TRAIN, "test": TEST}.items()):
        entry = {"data": pixels(seed, count), "fine_labels": labels(seed, count), "coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["all"]}))
    register(monkeypatch, folder)
    return tmp_path


def load(root: Path, split: str, **fields: Any) -> ArrayImages:
    dataset = Cifar100(root=str(root), **fields).load(split)
    assert isinstance(dataset, ArrayImages)
    return dataset


def test_trainval_and_test_are_the_official_halves_in_their_order(root: Path) -> None:
    for seed, (split, count) in enumerate({"trainval": TRAIN, "test": TEST}.items()):
        data = load(root, split)
        assert data.classes == NAMES
        assert data.labels == labels(seed, count)
        image, label = data[17]
        assert (image.mode, image.size, label) == ("RGB", (32, 32), labels(seed, count)[17])
        red_green_blue = pixels(seed, count)[17].reshape(3, 32, 32)
        np.testing.assert_array_equal(np.asarray(image), np.moveaxis(red_green_blue, 0, 2))
    assert load(root, "test").path(17) == "CIFAR-100 test[17]"


def test_val_is_a_tenth_of_every_class_of_train(root: Path) -> None:
    train, val = load(root, "train"), load(root, "val")
    assert Counter(val.labels) == dict.fromkeys(range(100), 1)
    assert Counter(train.labels) == dict.fromkeys(range(100), 9)
    assert sorted(train.numbers + val.numbers) == list(range(TRAIN))
    assert load(root, "val").numbers == val.numbers
    assert load(root, "val", seed=1).numbers != val.numbers
    assert Counter(load(root, "val", val_fraction=0.3).labels) == dict.fromkeys(range(100), 3)
    number = val.numbers[5]
    assert val.labels[5] == labels(0, TRAIN)[number]
    np.testing.assert_array_equal(np.asarray(val.image(5))[..., 2].ravel(), pixels(0, TRAIN)[number][2048:])
    assert val.path(5) == f"CIFAR-100 train[{number}]"


def test_adaptformers_tree_is_found_from_its_top(root: Path, tmp_path: Path) -> None:
    expected = load(root, "test").labels
    (tmp_path / "benchmarks" / "cifar100").mkdir(parents=True)
    (root / "cifar-100-python").rename(tmp_path / "benchmarks" / "cifar100" / "cifar-100-python")
    assert load(tmp_path / "benchmarks", "test").labels == expected
    assert load(tmp_path / "benchmarks" / "cifar100", "test").labels == expected


def test_missing_files_are_named_with_both_ways_out(root: Path, tmp_path: Path) -> None:
    (root / "cifar-100-python" / "test").unlink()
    (root / "cifar-100-python" / "meta").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load(root, "train")
    assert "missing: cifar-100-python/test, cifar-100-python/meta." in str(caught.value)
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz" in str(caught.value)
    assert "data.download=true" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=rf"they are below {root}: give data\.root={root}"):
        load(root / "cifar-100-python", "train")


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_pickle_with_another_md5_is_never_opened(root: Path, tmp_path: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "it went off"),)

    (root / "cifar-100-python" / name).write_bytes(pickle.dumps(Bomb()))
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=rf"not opened: .*/{name} has MD5 [0-9a-f]{{32}}, wanted [0-9a-f]{{32}}\."):
            load(root, split)
    assert not (tmp_path / "it went off").exists()


def test_nothing_is_downloaded_unasked_and_what_is_there_never_twice(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def archive(url: str, folder: str | Path, filename: str, md5: str) -> None:
        asked.append((url, md5))
        (root / "cifar-100-python").rename(Path(folder) / "cifar-100-python")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", archive)
    load(root, "train", download=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError):
        load(empty, "train")
    assert not asked
    assert len(load(empty, "test", download=True)) == TEST
    assert asked == [(CIFAR100.url, CIFAR100.tgz_md5)]


def test_a_download_that_fails_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def archive(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", archive)
    with pytest.raises(ConnectionError, match=r"cannot download https.*no network; .*cifar-100-python/train"):
        load(tmp_path, "train", download=True)


@pytest.mark.parametrize("value", [0, 1, -0.5, 2])
def test_the_fraction_is_a_share(value: float) -> None:
    with pytest.raises(ValueError, match=r"data\.val_fraction must be between 0 and 1"):
        Cifar100(val_fraction=value)
