"""SVHN in its official layout: MATLAB files with X (H W C N) and y, where 10 stands for the digit 0."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import SVHN

from vision_peft.data.datasets.svhn import Svhn
from vision_peft.data.decoding.arrays import ArrayImages

COUNTS = {"train": 300, "test": 50}


def pixels(split: str) -> np.ndarray:
    return np.random.default_rng(COUNTS[split]).integers(0, 256, (32, 32, 3, COUNTS[split]), dtype=np.uint8)


def labels_in_file(split: str) -> np.ndarray:
    """Digits as the file numbers them, 1 to 10, more 1 than others as in the dataset."""
    return np.where(np.arange(COUNTS[split]) % 3 == 0, 1, np.arange(COUNTS[split]) % 10 + 1).astype(np.uint8)


def register(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make the MD5 of the files in `folder` the official ones."""
    listed = {
        split: [url, file, hashlib.md5((folder / file).read_bytes()).hexdigest()]
        for split, (url, file, _) in SVHN.split_list.items()
        if (folder / file).exists()
    }
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, **listed})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split in COUNTS:
        content = {"X": pixels(split), "y": labels_in_file(split)[:, None]}
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", content)
    register(monkeypatch, tmp_path)
    return tmp_path


def load(root: Path, split: str, **fields: Any) -> ArrayImages:
    dataset = Svhn(root=str(root), **fields).load(split)
    assert isinstance(dataset, ArrayImages)
    return dataset


def test_trainval_and_test_are_the_official_halves_in_their_order(root: Path) -> None:
    for split, part in {"trainval": "train", "test": "test"}.items():
        data = load(root, split)
        assert data.classes == list("0123456789")
        assert data.labels == [0 if label == 10 else label for label in labels_in_file(part).tolist()]
        image, label = data[19]
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert label == 0
        np.testing.assert_array_equal(np.asarray(image), pixels(part)[..., 19])
    assert load(root, "test").path(19) == "SVHN test[19]"


def test_val_is_a_tenth_of_every_digit_of_train(root: Path) -> None:
    train, val, trainval = (load(root, split) for split in ("train", "val", "trainval"))
    whole = Counter(trainval.labels)
    assert Counter(val.labels) == {digit: round(count / 10) for digit, count in whole.items()}
    assert sorted(train.numbers + val.numbers) == list(range(COUNTS["train"]))
    assert load(root, "val").numbers == val.numbers
    assert load(root, "val", seed=1).numbers != val.numbers
    np.testing.assert_array_equal(np.asarray(val.image(3)), pixels("train")[..., val.numbers[3]])


def test_adaptformers_tree_is_found_from_its_top(root: Path) -> None:
    (root / "svhn").mkdir()
    for split in COUNTS:
        (root / f"{split}_32x32.mat").rename(root / "svhn" / f"{split}_32x32.mat")
    assert len(load(root, "test")) == len(load(root / "svhn", "test")) == COUNTS["test"]


def test_a_missing_file_is_named_with_both_ways_out(root: Path) -> None:
    (root / "test_32x32.mat").unlink()
    assert len(load(root, "trainval")) == COUNTS["train"]
    with pytest.raises(FileNotFoundError, match=r"missing: test_32x32\.mat\. .*numbers/test_.*data\.download=true"):
        load(root, "test")


def test_a_file_with_another_md5_is_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_: pytest.fail("the file was opened"))
    with (root / "train_32x32.mat").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"train_32x32\.mat has MD5 [0-9a-f]{32}, wanted [0-9a-f]{32}"):
        load(root, "val")


def test_a_file_is_downloaded_where_that_is_asked_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, folder: str | Path, filename: str, md5: str) -> None:
        (root / filename).rename(Path(folder) / filename)

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", download)
    (tmp_path / "empty").mkdir()
    assert len(load(tmp_path / "empty", "test", download=True)) == COUNTS["test"]


def test_the_fraction_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"data\.val_fraction must be between 0 and 1"):
        Svhn(val_fraction=1.5)
