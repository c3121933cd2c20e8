"""`workers=auto` goes by what the first batches of a training take; which batches come does not depend on it."""

import itertools
from typing import Any

import pytest
import torch
from PIL import Image

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.loading import batches as batches_module
from vision_peft.data.loading import measured_workers
from vision_peft.data.loading.loader import TrainLoader
from vision_peft.data.loading.measured_workers import ReadingTimes
from vision_peft.data.transforms.images import IMAGENET, train_transform

TRANSFORM = train_transform(size=8, mean=IMAGENET[0], std=IMAGENET[1], augment="crop_flip")


class Clock:
    """A clock that shows what reading and using take, in turns."""

    def __init__(self, read: float, used: float) -> None:
        self.now, self.calls, self.steps = 0.0, 0, (read, used)

    def __call__(self) -> float:
        # of each batch: started, came, was used
        if self.calls % 3:
            self.now += self.steps[self.calls % 3 - 1]
        self.calls += 1
        return self.now


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module.os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(batches_module.os, "cpu_count", lambda: 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


class Fixed(ImageDataset):
    """A gradient, turned by the index."""

    def __init__(self, number: int) -> None:
        super().__init__(["a", "b"], [index % 2 for index in range(number)])
        self.transform = TRANSFORM

    def image(self, index: int) -> Image.Image:
        return Image.linear_gradient("L").resize((16, 16)).rotate(index).convert("RGB")

    def path(self, index: int) -> str:
        return f"image {index}"


def make(monkeypatch: pytest.MonkeyPatch, read: float, used: float, number: int = 24) -> tuple[TrainLoader, list[str]]:
    monkeypatch.setattr(measured_workers, "read_clock", Clock(read, used))
    told: list[str] = []
    return TrainLoader(Fixed(number), 4, 3, "auto", report=told.append), told


def chosen(loader: TrainLoader) -> int:
    loading: Any = loader._loader
    return loading.num_workers


def same(found: list[Any], wanted: list[Any]) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(torch.equal(one, other) for batch, right in pairs for one, other in zip(batch, right, strict=True))


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("read", "used", "workers"), [(0.001, 0.1, 0), (0.05, 0.1, 1), (0.1, 0.06, 3), (0.1, 0.001, 4)]
)
def test_processes_are_as_many_as_keep_up_with_the_updates(
    monkeypatch: pytest.MonkeyPatch, read: float, used: float, workers: int
) -> None:
    wanted = [list(TrainLoader(Fixed(24), 4, 3, 0).epoch(epoch)) for epoch in range(2)]
    loader, told = make(monkeypatch, read, used)
    assert chosen(loader) == 0
    found = [list(loader.epoch(epoch)) for epoch in range(2)]
    assert chosen(loader) == workers
    assert all(same(*pair) for pair in zip(found, wanted, strict=True))
    (line,) = told
    assert f"{1000 * read:.0f} ms to read, {1000 * used:.0f} ms to train on" in line
    assert ("no further process" in line) is (workers == 0)


@pytest.mark.usefixtures("cores")
def test_an_epoch_that_starts_later_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    loader, told = make(monkeypatch, 0.05, 0.1)
    assert same(list(loader.epoch(1, start_batch=1)), list(TrainLoader(Fixed(24), 4, 3, 0).epoch(1, start_batch=1)))
    assert (chosen(loader), len(told)) == (1, 1)


@pytest.mark.usefixtures("cores")
def test_short_epochs_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    loader, told = make(monkeypatch, 0.05, 0.1, number=8)
    ticks = itertools.count()
    monkeypatch.setattr(measured_workers, "read_clock", lambda: next(ticks) / 10)
    plain = TrainLoader(Fixed(8), 4, 3, 0)
    for epoch in range(3):
        assert same(list(loader.epoch(epoch)), list(plain.epoch(epoch)))
        assert len(told) == (epoch >= 1)
    assert chosen(loader) == 2


def test_slow_reading_is_timed_twice_and_the_first_batch_does_not_count() -> None:
    times = ReadingTimes()
    times.read, times.used = [0.3], [9.0]
    assert not times.enough
    times.read, times.used = [0.3, 0.3], [9.0, 0.2]
    assert times.enough
    assert times.choose_workers(8) == 2
    assert times.choose_workers(1) == 1
    times.used[1] = 0.0
    assert times.choose_workers(5) == 5
    times.used[1] = 15.0
    assert times.choose_workers(5) == 0
    times.read, times.used = [0.1] * 4, [0.2] * 4
    assert times.enough
    assert ReadingTimes([0.1] * 3, [0.2] * 3).enough is False


def test_what_is_in_memory_or_given_is_not_timed() -> None:
    kept = Fixed(8)
    kept.in_memory = True
    for dataset, workers in ((kept, "auto"), (Fixed(8), 0), (Fixed(8), 1)):
        told: list[str] = []
        loader = TrainLoader(dataset, 2, 0, workers, report=told.append)
        assert chosen(loader) == (workers if workers != "auto" else 0)
        list(loader.epoch(0))
        assert told == []
