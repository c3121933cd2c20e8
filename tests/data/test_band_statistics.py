"""Statistics of bands: those of all values, to the last bit whoever summed what."""

import dataclasses
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vision_peft.data.decoding.band_files import BandFiles
from vision_peft.data.decoding.band_statistics import Bands, BandSums, choose_band_normalisation, finish
from vision_peft.data.decoding.bands import BandForm
from vision_peft.data.decoding.images import MisfitError
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.loading.measure_bands import combine, measure_bands


def make_images(number: int = 12, bands: int = 3) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    scale = np.array([1, 300, 1e-3]).reshape(-1, 1, 1)[:bands]
    images = [draw.normal(size=(bands, 5 + index % 3, 7)) * scale + 1000 for index in range(number)]
    return [image.astype(np.float32) for image in images]


def save_all(folder: Path, images: list[np.ndarray]) -> BandFiles:
    for number, image in enumerate(images):
        np.save(folder / f"{number:02}.npy", image)
    paths = TextArray.of(str(folder / f"{number:02}.npy") for number in range(len(images)))
    form = BandForm(len(images[0]), missing="mean", layout="chw")
    return BandFiles(paths, IntArray([0] * len(images)), ["a"], Bands(form))


def test_they_are_those_of_all_values_together(tmp_path: Path) -> None:
    images = make_images()
    images[3][1, 0, :4] = np.nan
    found = finish([measure_bands(save_all(tmp_path, images))[0]])
    for band in range(3):
        values = np.concatenate([image[band].ravel() for image in images]).astype(np.float64)
        values = values[~np.isnan(values)]
        assert found.mean[band] == pytest.approx(values.mean(), rel=1e-14)
        assert found.std[band] == pytest.approx(values.std(), rel=1e-9)  # a spread of 1e-3 about 1000


@pytest.mark.parametrize("world_size", [2, 3, 5, 13])
def test_any_number_of_processes_gives_the_same_bits(tmp_path: Path, world_size: int) -> None:
    dataset = save_all(tmp_path, make_images())
    alone = combine([dataclasses.asdict(measure_bands(dataset)[0])])
    shares = [measure_bands(dataset, rank, world_size)[0] for rank in range(world_size)]
    assert combine([dataclasses.asdict(share) for share in shares[::-1]]) == alone


def test_sums_are_exact_in_any_order() -> None:
    draw = random.Random(0)
    numbers = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-12, 12) for _ in range(200)]
    exact = float(sum(map(Fraction, numbers)) / len(numbers))
    for _ in range(3):
        draw.shuffle(numbers)
        sums = BandSums([0.0])
        for number in numbers:
            part = BandSums([0.0], [1], [[number]], [[0.0]])
            sums.join(part)
        assert finish([sums]).mean[0] == pytest.approx(exact, rel=1e-15)
        assert len(sums.sums[0]) < 20


def test_a_constant_band_has_a_spread_of_one_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    images = [np.stack([np.full((4, 4), 7.0), np.full((4, 4), np.nan)]).astype(np.float32) for _ in range(2)]
    images[0][0, 0, 0] = 7
    dataset = save_all(tmp_path, images)
    with pytest.raises(ValueError, match=r"no image of train has a value in band 1 \(from 0\)"):
        finish([measure_bands(dataset)[0]])
    images[0][1, 0, 0] = 3
    found = finish([measure_bands(save_all(tmp_path, images))[0]])
    assert (found.mean, found.std) == ((7.0, 3.0), (1.0, 1.0))


def test_files_that_cannot_be_read_are_all_listed(tmp_path: Path) -> None:
    dataset = save_all(tmp_path, make_images(6))
    (tmp_path / "00.npy").write_bytes(b"nothing")
    np.save(tmp_path / "04.npy", np.zeros((2, 5, 5), np.float32))
    sums, errors = measure_bands(dataset)
    assert [(Path(error.path).name, type(error) is MisfitError) for error in errors] == [
        ("00.npy", False),
        ("04.npy", True),
    ]
    assert sums.counts[0] == sum(image[0].size for number, image in enumerate(make_images(6)) if number not in (0, 4))


def test_a_recipe_may_take_a_range_in_place_of_the_statistics() -> None:
    rgb = Bands(BandForm(3, value_range=(100, 300)))
    assert choose_band_normalisation("backbone", rgb, [0.5, 0.4, 0.3], [0.2, 0.1, 0.1]) == (
        [200, 180, 160],
        pytest.approx([40, 20, 20]),
    )
    four = Bands(BandForm(4, value_range=(100, 300)))
    assert choose_band_normalisation("half", four, [0.5] * 3, [0.5] * 3) == ([200] * 4, [100] * 4)
    assert choose_band_normalisation("none", four, [], []) == ((0.0,) * 4, (1.0,) * 4)
    with pytest.raises(ValueError, match="the bands of the training images are not measured yet"):
        choose_band_normalisation("backbone", four, [0.5] * 3, [0.5] * 3)
    four.statistics = finish([BandSums([0.0] * 4, [2] * 4, [[4.0]] * 4, [[10.0]] * 4)])
    assert choose_band_normalisation("backbone", four, [], []) == ((2.0,) * 4, (1.0,) * 4)
    assert torch.tensor(four.statistics.mean).tolist() == [2.0] * 4
