"""Undecodable images: replaced by rule and reported once in training, never dropped in evaluation."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.counting import failure

from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.loading.bad_files import BadFiles, TooManyBadFiles
from vision_peft.data.loading.cached_images import Cached
from vision_peft.data.loading.loader import TrainLoader, eval_loader
from vision_peft.data.transforms.images import train_transform

NUMBER = 40
BAD = (7, 8, 39)


@pytest.fixture
def photos(tmp_path: Path) -> ImageFiles:
    """Forty noise images whose label is their number; those of `BAD` are not images."""
    paths = [tmp_path / f"{number:02}.png" for number in range(NUMBER)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    for number in BAD:
        paths[number].write_bytes(b"<html>")
    classes = [str(number) for number in range(NUMBER)]
    dataset = ImageFiles(paths, range(NUMBER), classes, max_pixels=9999, exif_rotation=False)
    dataset.transform = train_transform(
        size=8, mean=(0.5,) * 3, std=(0.5,) * 3, augment="randaugment", random_erasing=0.5
    )
    return dataset


def train_loader(dataset: Any, bad_files: BadFiles | None = None, workers: int = 0, **settings: Any) -> TrainLoader:
    settings = {"batch_size": 8, "seed": 0, "max_bad_fraction": 0.1, **settings}
    return TrainLoader(dataset, workers=workers, bad_files=bad_files, **settings)


def test_the_next_image_that_decodes_takes_the_place_of_a_bad_one(photos: ImageFiles) -> None:
    order = torch.cat([batch[2] for batch in train_loader(photos).epoch(0)]).tolist()
    for number in BAD:
        good = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(good).save(photos.paths[number])
    whole = torch.cat([batch[2] for batch in train_loader(photos).epoch(0)]).tolist()
    assert order == [{7: 9, 8: 9, 39: 0}.get(number, number) for number in whole]
    assert set(BAD) <= set(whole)


def test_a_replaced_sample_brings_its_own_label_and_another_augmentation(photos: ImageFiles) -> None:
    found: dict[int, list[torch.Tensor]] = {}
    for images, labels, indices in train_loader(photos).epoch(0):
        assert labels.tolist() == indices.tolist()
        for image, index in zip(images, indices.tolist(), strict=True):
            found.setdefault(index, []).append(image)
    assert {index: len(images) for index, images in found.items() if len(images) > 1} == {9: 3, 0: 2}
    assert not any(torch.equal(found[9][i], found[9][j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("keep", [False, True])
def test_workers_and_memory_change_nothing_about_replacement(photos: ImageFiles, keep: bool) -> None:
    wanted = [batch for epoch in (0, 1) for batch in train_loader(photos).epoch(epoch)]
    dataset = Cached(photos, Store(10**9)) if keep else photos
    for workers in (0, 2):
        loader = train_loader(dataset, workers=workers)
        ours = [batch for epoch in (0, 1) for batch in loader.epoch(epoch)]
        assert len(ours) == len(wanted) == 10
        assert all(torch.equal(a, b) for x, y in zip(ours, wanted, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_listed_and_reported_once(photos: ImageFiles, tmp_path: Path, workers: int) -> None:
    said: list[str] = []
    file = tmp_path / "bad_files.txt"
    bad_files = BadFiles(file, said.append)
    for seed in (0, 1):
        loader = train_loader(photos, bad_files, workers, seed=seed)
        for epoch in (0, 1):
            list(loader.epoch(epoch))
    wanted = {photos.paths[number] for number in BAD}
    assert set(bad_files.causes) == wanted
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    assert {path for path, _ in lines} == wanted
    assert len(lines) == len(said) == 3
    assert all(cause.startswith("not a known image format") for _, cause in lines)
    assert sorted(said)[0].startswith(f"warning: cannot decode {photos.paths[7]}: not a known image format")
    assert said[0].endswith("training uses the next image instead")
    list(train_loader(photos, BadFiles(file)).epoch(0))  # a resumed run
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize(("most", "stops"), [(0.05, True), (0.074, True), (0.075, False), (1.0, False)])
def test_more_bad_files_than_the_fraction_stop_the_run(photos: ImageFiles, most: float, stops: bool) -> None:
    loader = train_loader(photos, max_bad_fraction=most)
    if not stops:
        assert len(list(loader.epoch(0))) == 5
        return
    error = failure(loader.epoch(0))
    assert isinstance(error, TooManyBadFiles)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_names_how_many_the_first_paths_and_the_list(
    photos: ImageFiles, tmp_path: Path, workers: int
) -> None:
    for path in photos.paths[10:30]:
        Path(path).write_bytes(b"")
    loader = train_loader(photos, BadFiles(tmp_path / "bad_files.txt"), workers)
    text = str(failure(loader.epoch(0)))
    number = int(text.split()[0])
    assert number >= 5
    assert text.startswith(
        f"{number} of 40 training images cannot be decoded so far, more than max_bad_fraction=0.1 allows, listed in "
        f"{tmp_path / 'bad_files.txt'}: fix them, or raise max_bad_fraction\n"
    )
    named = re.findall(r"^  (\S+\.png): ", text, re.MULTILINE)
    assert len(named) == 5
    assert len(set(named)) == 5
    assert ("and" in text.splitlines()[-1]) == (number > 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_fraction_of_zero_the_first_bad_file_is_the_error(photos: ImageFiles, workers: int) -> None:
    error = failure(train_loader(photos, max_bad_fraction=0.0, workers=workers).epoch(0))
    assert isinstance(error, ImageDecodeError)
    assert error.path in {photos.paths[number] for number in BAD}


@pytest.mark.parametrize("most", [0.0, 0.01, 1.0])
def test_a_dataset_without_a_good_image_ends_with_an_error(tmp_path: Path, most: float) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        path.touch()
    dataset = ImageFiles(paths, [0] * 4, ["a"], max_pixels=9, exif_rotation=False)
    assert isinstance(failure(train_loader(dataset, max_bad_fraction=most).epoch(0)), ValueError)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_in_evaluation_what_is_in_no_batch_is_named(photos: ImageFiles, workers: int, world_size: int) -> None:
    seen: list[int] = []
    unreadable: list[int] = []
    bad_files = BadFiles()
    for rank in range(world_size):
        shares: dict[str, Any] = {"rank": rank, "world_size": world_size}
        loader = eval_loader(photos, 4, workers, **shares, bad="wrong", bad_files=bad_files)
        for _ in range(2):
            indices = [index for _, labels, places in loader for index in places.tolist()]
        seen += indices
        unreadable += loader.unreadable
        assert loader.unreadable_labels == loader.unreadable  # every image is a class of its own
    assert sorted(seen + unreadable) == list(range(NUMBER))
    assert sorted(unreadable) == sorted(BAD)
    assert set(bad_files.causes) == {photos.paths[number] for number in BAD}


def test_a_batch_without_any_readable_image_is_left_out(photos: ImageFiles) -> None:
    loader = eval_loader(photos, 1, 0, bad="wrong")
    assert [len(labels) for _, labels, _ in loader] == [1] * (NUMBER - len(BAD))
    assert loader.unreadable == list(BAD)


def test_in_evaluation_a_bad_file_is_an_error_unless_it_shall_count_as_wrong(photos: ImageFiles) -> None:
    error = failure(eval_loader(photos, 8, 0))
    assert isinstance(error, ImageDecodeError)
    assert error.path == photos.paths[7]
    assert str(error).endswith("; fix the file, or count such images as wrong answers with bad_eval=wrong")
    with pytest.raises(ValueError, match=r"unknown bad_eval 'wrng' \(did you mean wrong\?\)"):
        eval_loader(photos, 8, 0, bad="wrng")


def test_the_list_keeps_a_line_a_file_whatever_its_name(tmp_path: Path) -> None:
    bad_files = BadFiles(tmp_path / "bad_files.txt")
    names = ["a\tb\nc.jpg", "d\udcff.jpg", "é.jpg"]
    for name in names:
        bad_files.add(ImageDecodeError(name, "broken\nin two"), "")
    lines = (tmp_path / "bad_files.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["a\\tb\\nc.jpg\tbroken in two", "d\\udcff.jpg\tbroken in two", "é.jpg\tbroken in two"]
