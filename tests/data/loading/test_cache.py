"""Images kept decoded: the same pixels as without, within the limit, or not at all."""

import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.counting import assert_same

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.decoding import image_dataset as images_module
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError, decode_image
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.loading import cache as cache_module
from vision_peft.data.loading.batches import resolve_workers
from vision_peft.data.loading.cache import keep_decoded
from vision_peft.data.loading.cached_images import Cached
from vision_peft.data.loading.loader import TrainLoader, eval_loader
from vision_peft.data.transforms.images import AUGMENTS, RESIZES, eval_transform, train_transform

INPUT: dict[str, Any] = {"size": (16, 24), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
RESIZED = 16 * 24 * 3
Photos = Callable[..., ImageFiles]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """`photos(numbers, transform)`: the noise images of these numbers, (20 + number) x 30 pixels, as files."""

    def make(numbers: range, transform: Any = None) -> ImageFiles:
        paths = [tmp_path / f"{number}.png" for number in numbers]
        for number, path in zip(numbers, paths, strict=True):
            pixels = np.random.default_rng(number).integers(0, 256, (30, 20 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        labels = [number % 2 for number in numbers]
        dataset = ImageFiles(paths, labels, ["even", "odd"], max_pixels=10**6, exif_rotation=False)
        dataset.transform = transform
        return dataset

    return make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths decoded so far, in any order."""
    paths: list[str] = []
    real = images_module.decode_image

    def decode(path: str, **keywords: Any) -> Image.Image:
        paths.append(path)
        return real(path, **keywords)

    monkeypatch.setattr(images_module, "decode_image", decode)
    return paths


def whole_bytes(numbers: range) -> int:
    return sum(30 * (20 + number) * 3 for number in numbers)


WAYS = [(augment, resize) for augment in AUGMENTS for resize in RESIZES]
WAYS.remove(("random_crop_flip", "squash"))  # refused


@pytest.mark.parametrize(("augment", "resize"), WAYS)
def test_every_pixel_is_that_of_the_images_that_are_not_kept(photos: Photos, augment: str, resize: str) -> None:
    dataset = photos(
        range(7), train_transform(**INPUT, augment=augment, resize=resize, crop_pct=0.9, random_erasing=0.3)
    )
    kept = Cached(dataset, Store(10**9))
    plain, cached = (TrainLoader(each, 3, seed=5, workers=0) for each in (dataset, kept))
    for epoch in (0, 1):
        assert_same(list(cached.epoch(epoch)), list(plain.epoch(epoch)))
    assert_same(list(eval_loader(kept, 3, workers=0)), list(eval_loader(dataset, 3, workers=0)))
    assert len(kept.store.kept) == 7


@pytest.mark.parametrize("augment", ["flip", "crop_flip"])
def test_every_image_is_decoded_once(photos: Photos, decoded: list[str], augment: str) -> None:
    dataset = photos(range(7), train_transform(**INPUT, augment=augment))
    loader = TrainLoader(Cached(dataset, Store(10**9)), 3, seed=0, workers=0)
    for epoch in range(3):
        list(loader.epoch(epoch))
    assert sorted(decoded) == sorted(dataset.paths)


def test_splits_share_the_images_they_have_in_common(photos: Photos, decoded: list[str]) -> None:
    splits: dict[str, ImageDataset] = {
        "train": photos(range(5)),
        "val": photos(range(5, 8)),
        "trainval": photos(range(8)),
        "test": photos(range(8, 11)),
    }
    for name, dataset in splits.items():
        dataset.transform = train_transform(**INPUT, augment="flip") if "train" in name else eval_transform(**INPUT)
    kept, words = keep_decoded(splits, ["train", "val", "trainval"], 1, 0)
    assert words == "images are kept decoded: 8 of train and val and trainval, 1 MB"
    assert kept["test"] is splits["test"]
    for name in ("train", "val", "trainval"):
        assert isinstance(kept[name], Cached)
        list(eval_loader(kept[name], 4, workers=0))
    assert len(decoded) == 8
    assert kept["train"].store.used == 8 * RESIZED  # pyright: ignore[reportAttributeAccessIssue]


def test_a_resized_image_and_the_whole_one_are_two_things(photos: Photos) -> None:
    store = Store(10**9)
    for transform in (train_transform(**INPUT, augment="crop_flip"), eval_transform(**INPUT)):
        dataset = photos(range(3), transform)
        cached = Cached(dataset, store)
        cached.prepare()
        assert [np.asarray(cached.image(i)).tolist() for i in range(3)] == [
            np.asarray(dataset.image(i)).tolist() for i in range(3)
        ]
    assert store.used == whole_bytes(range(3)) + 3 * RESIZED


def test_a_changed_transform_does_not_get_the_old_pixels(photos: Photos) -> None:
    dataset = photos(range(3), eval_transform(**INPUT))
    cached = Cached(dataset, Store(10**9))
    cached.prepare()
    for transform in (eval_transform(**{**INPUT, "size": 8}), train_transform(**INPUT, augment="crop_flip"), None):
        cached.transform = dataset.transform = transform
        torch.manual_seed(0)
        ours = cached[2][0]
        torch.manual_seed(0)
        assert np.array_equal(np.asarray(ours), np.asarray(dataset[2][0]))


def test_a_resized_image_needs_no_worker_and_a_whole_one_does(photos: Photos) -> None:
    for augment, in_memory in (("none", True), ("flip", True), ("crop_flip", False), ("randaugment", False)):
        dataset = photos(range(2), train_transform(**INPUT, augment=augment))
        assert Cached(dataset, Store(0)).in_memory is in_memory
        assert (resolve_workers("auto", Cached(dataset, Store(0))) == 0) is in_memory


def test_what_exceeds_the_limit_is_not_kept(photos: Photos) -> None:
    splits: dict[str, ImageDataset] = {
        "train": photos(range(1000, 1020), train_transform(**INPUT, augment="crop_flip"))
    }
    size = whole_bytes(range(1000, 1020))
    assert 1_000_000 < size < 2_000_000
    kept, words = keep_decoded(splits, ["train"], 1, 0)
    assert kept == splits
    assert words == (
        "images are decoded in every epoch: 20 of train would take 2 MB decoded, more than the 1 MB of cache_mb=1"
    )
    kept, words = keep_decoded(splits, ["train"], 2, 0)
    assert isinstance(kept["train"], Cached)
    assert words == "images are kept decoded: 20 of train, 2 MB"


def test_an_estimate_that_was_too_low_keeps_what_fits(
    photos: Photos, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = photos(range(40), train_transform(**INPUT, augment="crop_flip"))
    store = Store(whole_bytes(range(10)) + 100)
    cached = Cached(dataset, store)
    plain = list(TrainLoader(dataset, 8, seed=0, workers=0).epoch(0))
    assert_same(list(TrainLoader(cached, 8, seed=0, workers=0).epoch(0)), plain)
    assert store.used == whole_bytes(range(10))
    assert [key[1] for key in store.kept] == dataset.paths[:10]  # pyright: ignore[reportIndexIssue]
    decoded.clear()
    list(TrainLoader(cached, 8, seed=0, workers=0).epoch(1))
    assert sorted(decoded) == sorted(dataset.paths[10:])


def test_of_many_whole_images_some_headers_stand_for_all(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "HEADERS_READ", 10)
    monkeypatch.setattr(cache_module, "SAMPLED", 5)
    splits: dict[str, ImageDataset] = {
        "train": photos(range(1000, 1021), train_transform(**INPUT, augment="crop_flip"))
    }
    asked: list[str] = []
    real = ImageFiles.count_pixels
    monkeypatch.setattr(
        ImageFiles, "count_pixels", lambda self, index: asked.append(self.paths[index]) or real(self, index)
    )
    _, words = keep_decoded(splits, ["train"], 5, 0)
    assert words == "images are kept decoded: 21 of train, about 2 MB"
    assert [Path(path).stem for path in sorted(asked)] == ["1000", "1004", "1008", "1012", "1016", "1020"]


def test_nothing_is_kept_where_it_is_off_in_memory_already_or_not_shared(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: dict[str, ImageDataset] = {"train": photos(range(3)), "val": Digits().load("val")}
    splits["train"].transform = train_transform(**INPUT, augment="crop_flip")
    assert keep_decoded(splits, ["train"], 0, 0) == (splits, "images are decoded in every epoch: cache_mb=0")
    assert keep_decoded(splits, ["val"], "auto", 0) == (splits, "")
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "spawn")
    kept, words = keep_decoded(splits, ["train"], "auto", "auto")
    assert kept == splits
    assert words == "images are decoded in every epoch: here worker processes cannot share the decoded ones"
    assert isinstance(keep_decoded(splits, ["train"], "auto", 0)[0]["train"], Cached)
    splits["train"].transform = train_transform(**INPUT, augment="flip")
    assert isinstance(keep_decoded(splits, ["train"], "auto", "auto")[0]["train"], Cached)


def test_a_process_that_is_started_anew_gets_no_copy_of_the_kept_images(photos: Photos) -> None:
    dataset = photos(range(3), eval_transform(**INPUT))
    cached = Cached(dataset, Store(10**9))
    cached.prepare()
    sent = pickle.loads(pickle.dumps(cached))
    assert sent.store.kept == {}
    assert torch.equal(sent[1][0], cached[1][0])


def test_an_undecodable_file_is_an_error_at_every_access_and_none_before(photos: Photos) -> None:
    dataset = photos(range(3))
    Path(dataset.paths[1]).write_bytes(b"<html>")
    for augment in ("none", "crop_flip"):
        dataset.transform = train_transform(**INPUT, augment=augment)
        kept, words = keep_decoded({"train": dataset}, ["train"], 1, 0)
        assert words.startswith("images are kept decoded: 3 of train, ")
        kept["train"].prepare()
        for _ in range(2):
            with pytest.raises(ImageDecodeError, match=r"1\.png"):
                kept["train"][1]
        assert kept["train"][2][1] == 0


def test_another_failure_while_decoding_ahead_is_not_hidden(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("none left")

    dataset = photos(range(3), eval_transform(**INPUT))
    monkeypatch.setattr(images_module, "decode_image", fail)
    with pytest.raises(MemoryError, match="none left"):
        Cached(dataset, Store(10**9)).prepare()


def test_threads_that_decode_leave_the_settings_of_the_process_alone(photos: Photos) -> None:
    dataset = photos(range(4))
    Path(dataset.paths[3]).write_bytes(b"<html>")
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)

    def end(task: int) -> int | str:
        limit = 100 if task % 3 == 0 else 10_000 + task  # what one thread sets, another must not see
        try:
            return decode_image(dataset.paths[task % 4], max_pixels=limit).width
        except ImageDecodeError as error:
            return error.cause[:9]

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(end, range(120)))
    for task, found in enumerate(ends):
        wanted = "not a kno" if task % 4 == 3 else "more than" if task % 3 == 0 else 20 + task % 4
        assert found == wanted
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before
