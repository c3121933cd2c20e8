"""The loader: broken images, failing transforms and sizes that do not fit are errors that name the sample."""

import contextlib
import gc
import multiprocessing
import os
import re
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.counting import HALF, Counting, failure, fragile

from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.loading import lost_workers
from vision_peft.data.loading.loader import TrainLoader, eval_loader
from vision_peft.data.loading.lost_workers import LostWorker, report_lost_workers
from vision_peft.data.transforms.images import eval_transform


def undecodable(_: Image.Image) -> torch.Tensor:
    raise ImageDecodeError("photo.jpg", "broken")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_training_and_evaluation_in_one_line(tmp_path: Path, workers: int) -> None:
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"<html>")
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    dataset = ImageFiles(paths, [0] * 4, ["a"], max_pixels=100, exif_rotation=False)
    dataset.transform = eval_transform(size=8, **HALF)
    for batches in (TrainLoader(dataset, 2, seed=0, workers=workers).epoch(0), eval_loader(dataset, 2, workers)):
        error = failure(batches)
        assert isinstance(error, ImageDecodeError)
        assert error.path == str(paths[2])
        assert re.fullmatch(r"cannot decode .*2\.png: not a known image format.*", str(error))


@pytest.mark.parametrize("workers", [0, 2])
def test_another_failure_names_the_sample(workers: int) -> None:
    dataset = Counting(5)
    dataset.transform = fragile
    error = failure(eval_loader(dataset, 2, workers=workers))
    assert isinstance(error, RuntimeError)
    assert str(error) == "sample 3 (number 3): KeyError: 'no such colour'"
    assert "in fragile" in error.__notes__[0]  # where it happened, in whichever process


@pytest.mark.parametrize("transform", [fragile, undecodable])
def test_a_failure_leaves_no_reference_cycle_that_keeps_the_workers(transform: Any) -> None:
    dataset = Counting(5)
    dataset.transform = transform
    gc.collect()
    gc.disable()
    try:
        loader = eval_loader(dataset, 2, workers=0)
        alive = weakref.ref(loader._loader)
        with contextlib.suppress(RuntimeError, ImageDecodeError):
            list(loader)
        del loader
        assert alive() is None
    finally:
        gc.enable()


def test_a_dataset_without_transform_or_with_images_of_two_sizes_is_refused(tmp_path: Path) -> None:
    dataset = Counting(4)
    dataset.transform = None
    with pytest.raises(RuntimeError, match="wanted a tensor from the dataset's transform, got Image"):
        list(eval_loader(dataset, 2, workers=0))
    sizes = iter([1, 2, 3, 4])
    dataset.transform = lambda image: torch.zeros(next(sizes))
    with pytest.raises(ValueError, match=r"must have one shape, got \[\(1,\), \(2,\)\]"):
        list(eval_loader(dataset, 2, workers=0))


@pytest.mark.parametrize(
    ("batch_size", "rank", "world_size", "message"),
    [(6, 0, 4, "multiple of 4, got 6"), (0, 0, 1, "multiple of 1, got 0"), (8, 2, 2, "rank 0 to 1, got 2")],
)
def test_sizes_that_do_not_fit_are_errors(batch_size: int, rank: int, world_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainLoader(Counting(20), batch_size, seed=0, workers=0, rank=rank, world_size=world_size)
    with pytest.raises(ValueError, match=message):
        eval_loader(Counting(20), batch_size, workers=0, rank=rank, world_size=world_size)
    with pytest.raises(ValueError, match="empty"):
        eval_loader(Counting(0), 4)


def test_a_pipe_that_breaks_before_the_death_is_known_is_a_lost_worker() -> None:
    batches = eval_loader(Counting(8), 2, workers=1)
    next(iter(batches))
    (worker,) = multiprocessing.active_children()
    killer = threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(LostWorker, match=rf"pid\(?s?\)? {worker.pid}"), report_lost_workers():
        raise ConnectionResetError(104, "Connection reset by peer")
    killer.join()


def test_an_error_of_the_system_without_a_loss_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_workers, "PATIENCE_S", 0.05)
    with pytest.raises(OSError, match="too many open files"), report_lost_workers():
        raise OSError(24, "too many open files")
