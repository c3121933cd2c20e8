"""Greyscale of more than 8 bits: the range that is used, and the warning that says so."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_peft.data.datasets.folder import Folder
from vision_peft.data.decoding.deep_grey import warn_of_deep_grey
from vision_peft.data.decoding.images import MAX_PIXELS, ValueRange, decode_image

RAMP = np.arange(4096).reshape(64, 64)


def save(folder: Path, values: np.ndarray, name: str = "1.png") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)
    return str(folder / name)


def hear(paths: list[str], value_range: ValueRange = "full") -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_deep_grey(paths, "photos", value_range, MAX_PIXELS)
    return [str(warning.message).removeprefix("photos: greyscale of more than 8 bits: ") for warning in caught]


@pytest.mark.parametrize(
    ("value_range", "wanted"),
    [
        ("full", RAMP / 65535),
        ("image", RAMP / 4095),
        ((0, 4095), RAMP / 4095),
        ((1000.0, 2000.0), ((RAMP - 1000) / 1000).clip(0, 1)),
    ],
)
def test_the_range_decides_what_is_black_and_white(tmp_path: Path, value_range: ValueRange, wanted: np.ndarray) -> None:
    for name, values in (("1.png", RAMP.astype(np.uint16)), ("1.tiff", RAMP.astype(np.int32))):
        decoded = np.asarray(decode_image(save(tmp_path, values, name), value_range=value_range))
        np.testing.assert_allclose(decoded[..., 0], wanted * 255, atol=0.51)
    flat = save(tmp_path, np.full((4, 4), 7, np.uint16))
    assert decode_image(flat, value_range="image").getextrema() == ((0, 0),) * 3
    assert (
        decode_image(save(tmp_path, np.full((4, 4), 200, np.uint8)), value_range=value_range).getpixel((0, 0))
        == (200,) * 3
    )


def test_dark_images_are_said_with_the_range_that_would_fit(tmp_path: Path) -> None:
    deep = [save(tmp_path, RAMP.astype(np.uint16) // number, f"{number}.png") for number in (1, 2, 3)]
    held = "0 to 65,535 becomes 0 to 255; the 3 looked at hold 0 to 4,095"
    assert hear(deep) == [f"{held}: data.value_range=[0,4095] uses all of 0 to 255"]
    assert hear(deep, (0, 4095)) == hear(deep, "image") == []
    cut = "0 to 1,023 becomes 0 to 255 (data.value_range), the 3 looked at hold 0 to 4,095: what is outside becomes"
    assert hear(deep, (0, 1023)) == [f"{cut} black or white"]
    whole = save(tmp_path, (RAMP * 16).astype(np.uint16), "whole.png")
    assert hear([whole]) == ["0 to 65,535 becomes 0 to 255; the 1 looked at hold 0 to 65,520"]
    real = save(tmp_path, (RAMP / 4095 * 300 - 1).astype(np.float32), "real.tiff")
    assert hear([real])[0].endswith("the 1 looked at hold -1 to 299: data.value_range=[-1,299] scales all alike")


def test_others_are_left_alone(tmp_path: Path) -> None:
    grey = save(tmp_path, np.zeros((4, 4), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"<html>")
    assert hear([grey, str(tmp_path / "broken.png"), str(tmp_path / "gone.tiff"), "not-even-opened.jpg"]) == []
    assert hear([]) == []


def test_a_tree_is_read_with_its_range(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name, RAMP.astype(np.uint16))
    with pytest.warns(UserWarning, match=r"data\.value_range=\[0,4095\] uses all of 0 to 255"):
        Folder(root=str(tmp_path)).load("trainval")
    dataset = Folder(root=str(tmp_path), value_range=(0, 4095)).load("trainval")
    assert dataset[0][0].getextrema() == ((0, 255),) * 3
    for wrong in ("auto", (5, 5)):
        with pytest.raises(ValueError, match=r"data\.value_range is full, image or two numbers such as \[0,4095\]"):
            Folder(value_range=wrong)
