"""Fashion-MNIST: IDX files as Debian and as torchvision lay them out, and what is wrong with others."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision_peft.data.datasets import fashion_mnist
from vision_peft.data.datasets.fashion_mnist import FashionMnist
from vision_peft.data.decoding.arrays import ArrayImages

COUNTS = {"train": 200, "t10k": 30}
pytestmark = pytest.mark.filterwarnings("ignore:.*Fashion-MNIST has")


def pixels(part: str) -> np.ndarray:
    return np.random.default_rng(COUNTS[part]).integers(0, 256, (COUNTS[part], 28, 28), dtype=np.uint8)


def labels(part: str) -> np.ndarray:
    return (np.arange(COUNTS[part]) * 3 % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()


def write(folder: Path, packed: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in COUNTS:
        for kind, array in {"images-idx3": pixels(part), "labels-idx1": labels(part)}.items():
            name, content = f"{part}-{kind}-ubyte", idx(array)
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def load(root: Path, split: str, **fields: Any) -> ArrayImages:
    dataset = FashionMnist(root=str(root), **fields).load(split)
    assert isinstance(dataset, ArrayImages)
    return dataset


@pytest.mark.parametrize(("below", "packed"), [(".", True), (".", False), ("FashionMNIST/raw", False)])
def test_both_layouts_give_the_official_halves(tmp_path: Path, below: str, packed: bool) -> None:
    write(tmp_path / below, packed)
    for split, part in {"trainval": "train", "test": "t10k"}.items():
        data = load(tmp_path, split)
        assert (data.labels, data.classes[9]) == (labels(part).tolist(), "Ankle boot")
        np.testing.assert_array_equal(np.asarray(data.image(7)), np.repeat(pixels(part)[7][..., None], 3, 2))
    assert load(tmp_path, "test").path(7) == "Fashion-MNIST t10k[7]"


def test_val_is_a_tenth_of_every_class_of_train(tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    train, val = load(tmp_path, "train"), load(tmp_path, "val")
    assert Counter(val.labels) == dict.fromkeys(range(10), 2)
    assert sorted(train.numbers + val.numbers) == list(range(COUNTS["train"]))
    np.testing.assert_array_equal(np.asarray(val.image(0))[..., 0], pixels("train")[val.numbers[0]])


def test_fewer_images_than_published_are_said(tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    with pytest.warns(UserWarning, match="30 images of test, Fashion-MNIST has 10,000"):
        load(tmp_path, "test")


def test_a_missing_file_is_named_with_both_ways_out(tmp_path: Path) -> None:
    (write(tmp_path, packed=False) / "t10k-labels-idx1-ubyte").unlink()
    assert len(load(tmp_path, "trainval")) == COUNTS["train"]
    with pytest.raises(FileNotFoundError, match=r"missing: t10k-labels-idx1-ubyte\. .*data\.download=true"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda good: good[:-1], "announces 23,520 bytes and holds fewer"),
        (lambda good: good + b"\0", "holds more"),
        (lambda good: b"\0\0\x08\x01" + good[4:], "does not start as an IDX file"),
        (lambda good: good[:8] + b"\0\0\0\x1d" + good[12:], r"items of \[28, 28\]"),
        (lambda good: good[:4] + b"\xff\xff\xff\xff" + good[8:], "announces 4,294,967,295 items, more than"),
        (lambda good: good[:5], "does not start as an IDX file"),
        (lambda good: good[:4] + b"\0\0\0\x1d" + good[8 : -28 * 28], "29 images of test, but 30 labels"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, change: Any, match: str) -> None:
    write(tmp_path, packed=False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=match):
        load(tmp_path, "test")


def test_a_damaged_archive_and_a_label_out_of_range_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, packed=True) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="gz cannot be read: "):
        load(tmp_path, "test")
    path.write_bytes(gzip.compress(idx(pixels("t10k"))))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels("t10k") + 1)))
    with pytest.raises(ValueError, match="a label of test is 10, wanted 0 to 9"):
        load(tmp_path, "test")


def test_files_are_downloaded_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(folder: Path, download: bool) -> None:
        write(folder / "FashionMNIST" / "raw", packed=False)

    download.mirrors = ["http://somewhere/"]  # type: ignore[attr-defined]
    download.classes = fashion_mnist.FashionMNIST.classes  # type: ignore[attr-defined]
    monkeypatch.setattr(fashion_mnist, "FashionMNIST", download)
    assert len(load(tmp_path, "test", download=True)) == COUNTS["t10k"]
