"""The loader: same batches however many workers and processes there are and wherever an epoch starts."""

import contextlib
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.counting import HALF, Counting, assert_same, flat, fragile, indices

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.datasets.digits import Digits
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.loading.batches import resolve_workers
from vision_peft.data.loading.cached_images import Cached
from vision_peft.data.loading.loader import TrainLoader, eval_loader
from vision_peft.data.transforms.images import eval_transform, train_transform


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # pyright: ignore


def test_an_epoch_is_a_permutation_without_the_part_that_fills_no_batch() -> None:
    loader = TrainLoader(Counting(23), batch_size=5, seed=0, workers=0)
    assert loader.batches_per_epoch == 4
    batches = indices(loader.epoch(0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert len(set(flat(batches))) == 20
    left_out = {frozenset(range(23)) - frozenset(flat(indices(loader.epoch(epoch)))) for epoch in range(4)}
    assert len(left_out) > 1


def test_images_labels_and_indices_belong_together() -> None:
    for images, labels, places in TrainLoader(Counting(10), 4, seed=0, workers=0).epoch(0):
        assert images[:, 0].tolist() == places.tolist()
        assert labels.tolist() == [place % 2 for place in places.tolist()]
        assert labels.dtype == places.dtype == torch.int64


def test_order_and_noise_depend_on_seed_epoch_and_index() -> None:
    def rows(seed: int, epoch: int, batch_size: int = 4) -> dict[int, list[float]]:
        loader = TrainLoader(Counting(12), batch_size, seed=seed, workers=0)
        return {int(row[0]): row[1:].tolist() for images, _, _ in loader.epoch(epoch) for row in images}

    assert list(rows(0, 0).items()) == list(rows(0, 0).items()) == list(rows(0, 0, batch_size=6).items())
    for other in (rows(1, 0), rows(0, 1)):
        assert list(other) != list(rows(0, 0))
        assert all(other[index][k] != rows(0, 0)[index][k] for index in range(12) for k in range(3))
    drawn = [value for row in rows(0, 0).values() for value in row]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("augment", ["none", "randaugment"])
def test_workers_change_nothing(augment: str) -> None:
    dataset = Digits().load("val")
    dataset.transform = train_transform(size=16, **HALF, augment=augment, random_erasing=0.5)
    alone, helped = (TrainLoader(dataset, 64, seed=7, workers=workers) for workers in (0, 2))
    for epoch in (0, 1, 5):
        ours, theirs = list(alone.epoch(epoch)), list(helped.epoch(epoch))
        assert len(ours) == 3
        assert_same(ours, theirs)
    assert_same(list(alone.epoch(1, start_batch=2)), list(helped.epoch(1, start_batch=2)))
    started = helped.epoch(3)
    next(started)
    assert_same(list(alone.epoch(0)), list(helped.epoch(0)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("augment", ["flip", "randaugment"])
def test_seed_and_epoch_give_the_same_order_and_pixels_with_any_number_of_workers_kept_in_memory_or_not(
    tmp_path: Path, augment: str
) -> None:
    noise = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(22)]
    for path in paths:
        height, width = noise.integers(12, 40, 2)
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    dataset = ImageFiles(paths, [number % 3 for number in range(22)], list("abc"), max_pixels=9999, exif_rotation=False)
    dataset.transform = train_transform(size=(16, 24), **HALF, augment=augment, random_erasing=0.5)

    def epochs(images: ImageDataset, workers: int) -> list[Any]:
        loader = TrainLoader(images, 5, seed=3, workers=workers)
        return [batch for epoch in (0, 1) for batch in loader.epoch(epoch)]

    wanted = epochs(dataset, 0)
    assert len(wanted) == 8
    for workers in (0, 1, 4):
        assert_same(epochs(dataset, workers), wanted)
        assert_same(epochs(Cached(dataset, Store(10**9)), workers), wanted)


def test_an_epoch_resumes_at_any_batch_without_decoding_what_came_before() -> None:
    dataset = Counting(20)
    loader = TrainLoader(dataset, 4, seed=0, workers=0)
    whole = list(loader.epoch(1))
    for start in range(6):
        dataset.decoded.clear()
        rest = list(loader.epoch(1, start_batch=start))
        assert_same(rest, whole[start:], may_be_empty=start == len(whole))
        assert dataset.decoded == flat(indices(whole[start:]))
    for epoch, start in ((0, 6), (0, -1), (-1, 0)):
        with pytest.raises(ValueError, match="start_batch 0 to 5"):
            loader.epoch(epoch, start)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_caller_s_generators_are_left_alone(workers: int) -> None:
    dataset = Counting(12)
    before = states()
    list(TrainLoader(dataset, 4, seed=0, workers=workers).epoch(0))
    list(eval_loader(dataset, 4, workers=workers))
    assert states() == before


def test_the_caller_s_generators_do_not_matter() -> None:
    loader = TrainLoader(Counting(12), 4, seed=0, workers=0)
    torch.manual_seed(1)
    first = list(loader.epoch(0))
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    assert_same(list(loader.epoch(0)), first)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_same_global_batches(world_size: int) -> None:
    whole = list(TrainLoader(Counting(27), 8, seed=1, workers=0).epoch(2))
    shares = [
        list(TrainLoader(Counting(27), 8, seed=1, workers=0, rank=rank, world_size=world_size).epoch(2))
        for rank in range(world_size)
    ]
    joined = [[torch.cat(parts) for parts in zip(*batch, strict=True)] for batch in zip(*shares, strict=True)]
    assert_same(joined, whole)


def test_a_dataset_smaller_than_a_batch_gives_one_batch() -> None:
    loader = TrainLoader(Counting(5), 64, seed=0, workers=0)
    assert loader.batches_per_epoch == 1
    assert sorted(indices(loader.epoch(0))[0]) == [0, 1, 2, 3, 4]
    assert indices(loader.epoch(0, start_batch=1)) == []


def test_processes_share_a_small_dataset_evenly() -> None:
    loaders = [TrainLoader(Counting(5), 64, seed=0, workers=0, rank=rank, world_size=2) for rank in range(2)]
    shares = [indices(loader.epoch(0)) for loader in loaders]
    assert [[len(batch) for batch in share] for share in shares] == [[2], [2]]
    assert len({index for share in shares for batch in share for index in batch}) == 4
    with pytest.raises(ValueError, match="1 training samples are too few for 2 processes"):
        TrainLoader(Counting(1), 64, seed=0, workers=0, world_size=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_sample_once_and_in_order(workers: int) -> None:
    loader = eval_loader(Counting(10), 4, workers=workers)
    assert len(loader) == 3
    assert indices(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert indices(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(("samples", "world_size"), [(10, 2), (9, 4), (3, 4), (16, 2), (17, 4)])
def test_evaluation_sees_every_sample_once_over_all_processes(samples: int, world_size: int) -> None:
    loaders = [eval_loader(Counting(samples), 8, workers=0, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [indices(loader) for loader in loaders]
    seen = [index for share in shares for index in flat(share)]
    assert sorted(seen) == list(range(samples))
    assert all(share == sorted(share) and all(share) for share in shares)
    assert [len(loader) for loader in loaders] == [len(share) for share in shares]


def test_images_come_as_one_float_tensor() -> None:
    dataset = Digits().load("val")
    dataset.transform = eval_transform(size=(16, 24), **HALF)
    images, labels, places = next(iter(eval_loader(dataset, 50)))
    assert images.shape == (50, 3, 16, 24)
    assert images.dtype == torch.float32
    assert labels.tolist() == dataset.labels[:50]
    assert places.tolist() == list(range(50))


def test_a_dataset_can_be_sent_to_a_spawned_worker(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "0.png")
    files = ImageFiles([tmp_path / "0.png"], [0], ["a"], max_pixels=100, exif_rotation=False)
    for dataset in (files, Digits().load("val")):
        dataset.transform = eval_transform(size=8, **HALF)
        assert torch.equal(pickle.loads(pickle.dumps(dataset))[0][0], dataset[0][0])


def test_auto_takes_no_workers_for_data_in_memory_and_eight_at_most_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)), raising=False)
    assert resolve_workers("auto", Digits().load("val")) == 0
    assert resolve_workers("auto", Counting(4)) == 8
    assert resolve_workers("auto", Counting(4), processes_per_machine=8) == 4
    assert resolve_workers("auto", Counting(4), processes_per_machine=64) == 1
    assert resolve_workers(3, Counting(4)) == resolve_workers("3", Counting(4)) == 3
    for wrong in (-1, "many"):
        with pytest.raises(ValueError, match=f"workers must be 'auto' or a whole number .* got {wrong!r}"):
            resolve_workers(wrong, Counting(4))


def test_far_more_workers_than_cores_are_refused_and_none_is_without_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert resolve_workers(32, Counting(4)) == 32
    with pytest.raises(ValueError, match="workers must be at most 32 on 2 cores, 16 a core; got 33: give fewer"):
        resolve_workers("33", Counting(4))
    loaders: list[Any] = [TrainLoader(Counting(7), 3, seed=0, workers=5), eval_loader(Counting(7), 3, workers=5)]
    assert [loader._loader.num_workers for loader in loaders] == [2, 3]  # made, not started


@pytest.mark.parametrize("fails", [False, True])
def test_images_are_prepared_by_one_thread_and_the_caller_keeps_its_own(fails: bool) -> None:
    threads: list[int] = []

    def count(image: Image.Image) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return fragile(image) if fails else torch.zeros(1)

    dataset = Counting(6)
    dataset.transform = count
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with contextlib.suppress(RuntimeError):
            for _ in eval_loader(dataset, 2, workers=0):
                assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}
