"""Images of any number of bands: every layout gives the same values, missing ones have a rule, others are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from vision_peft.data.decoding.bands import BandForm, list_files, read_band_header, read_band_item, read_bands
from vision_peft.data.decoding.images import ImageDecodeError, MisfitError

BANDS, HEIGHT, WIDTH = 5, 20, 30
FLOAT32, FLOAT64 = (float(np.finfo(kind).max) for kind in (np.float32, np.float64))
GREY: dict[str, Any] = {"photometric": "minisblack"}


def make_values(dtype: str = "int16") -> np.ndarray:
    values = np.arange(BANDS * HEIGHT * WIDTH).reshape(BANDS, HEIGHT, WIDTH) * 7 % 251
    return (values - (100 if dtype[0] != "u" else 0)).astype(dtype)


def save_tiff(path: Path, values: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, values, **{**GREY, **options})
    return path


INTERLEAVED = {
    "plain": {},
    "big_endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "predictor": {"rowsperstrip": 7, "compression": "zlib", "predictor": 2},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
    "big_tiff": {"bigtiff": True},
}
PLANES = {
    "planes": {"planarconfig": "separate"},
    "packed_planes": {"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 7},
    "pages": {},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_every_layout_of_a_tiff_gives_the_same_values(tmp_path: Path, dtype: str) -> None:
    values = make_values(dtype)
    for name, options in INTERLEAVED.items():
        if name == "predictor" and dtype.startswith("float"):
            continue
        path = save_tiff(tmp_path / "1.tif", np.moveaxis(values, 0, -1), planarconfig="contig", **options)
        assert np.array_equal(read_bands(path, BandForm(BANDS)), values), name
    for name, options in PLANES.items():
        path = save_tiff(tmp_path / "1.tif", values, **options)
        assert np.array_equal(read_bands(path, BandForm(BANDS)), values), name
        assert read_band_header(path, BandForm(BANDS))[:3] == ("TIFF", (HEIGHT, WIDTH, BANDS), dtype)


def test_arrays_are_read_with_bands_first_or_last(tmp_path: Path) -> None:
    values = make_values()
    for array in (values, np.moveaxis(values, 0, -1), np.asfortranarray(values)):
        np.save(tmp_path / "1.npy", array)
        np.savez_compressed(tmp_path / "1.npz", image=array)
        for name in ("1.npy", "1.npz"):
            found = read_bands(tmp_path / name, BandForm(BANDS))
            assert np.array_equal(found, values)
            assert found.dtype == torch.float32
    np.savez(tmp_path / "2.npz", **{f"b{band}": plane for band, plane in enumerate(values)})
    form = BandForm(3, bands=("b4", "b0", "b2"))
    assert np.array_equal(read_bands(tmp_path / "2.npz", form), values[[4, 0, 2]])
    with pytest.raises(ImageDecodeError, match=r"it has 5 arrays \(b0, b1, .*\): wanted one, or those of data.bands"):
        read_bands(tmp_path / "2.npz", BandForm(5))


def test_a_cube_is_read_as_it_is_said_to_lie(tmp_path: Path) -> None:
    cube = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    np.save(tmp_path / "1.npy", cube)
    with pytest.raises(ImageDecodeError, match=r"give data.layout=hwc or data.layout=chw"):
        read_bands(tmp_path / "1.npy", BandForm(4))
    assert np.array_equal(read_bands(tmp_path / "1.npy", BandForm(4, layout="chw")), cube)
    assert np.array_equal(read_bands(tmp_path / "1.npy", BandForm(4, layout="hwc")), np.moveaxis(cube, -1, 0))


def test_pictures_are_read_as_they_are_stored(tmp_path: Path) -> None:
    deep = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(read_bands(tmp_path / "deep.png", BandForm(1))[0], deep)  # and not clipped to white
    rgba = np.moveaxis(make_values("uint8")[:4], 0, -1)
    Image.fromarray(np.ascontiguousarray(rgba)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_bands(tmp_path / "rgba.png", BandForm(4)), np.moveaxis(rgba, -1, 0))
    Image.fromarray(deep > 1000).save(tmp_path / "mask.png")
    assert read_bands(tmp_path / "mask.png", BandForm(1)).unique().tolist() == [0, 255]
    Image.fromarray(rgba[..., :3].copy()).convert("P").save(tmp_path / "palette.png")
    with pytest.raises(ImageDecodeError, match="its mode P does not hold the values of channels"):
        read_band_header(tmp_path / "palette.png", BandForm(1))


def test_a_stack_has_a_file_for_each_band(tmp_path: Path) -> None:
    values = make_values("uint16")
    form = BandForm(3, stack=("_B02.tif", "_B03.npy", "_B04.png"))
    save_tiff(tmp_path / "x_B02.tif", values[0])
    np.save(tmp_path / "x_B03.npy", values[1])
    Image.fromarray(values[2]).save(tmp_path / "x_B04.png")
    path = tmp_path / "x_B02.tif"
    assert list_files(path, form) == [str(tmp_path / f"x{ending}") for ending in form.stack]
    assert np.array_equal(read_bands(path, form), values[:3])
    np.save(tmp_path / "x_B03.npy", values[1, :5])
    with pytest.raises(ImageDecodeError, match=r"x_B03.npy: it is 30 x 5 of uint16, the first file of its image is 30"):
        read_bands(path, form)
    (tmp_path / "x_B03.npy").unlink()
    with pytest.raises(ImageDecodeError, match=r"x_B03.npy: there is no such file"):
        read_band_header(path, form)


def test_other_channels_and_types_are_refused_by_the_header(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "1.tif", make_values())
    with pytest.raises(MisfitError, match="it has 5 channels, wanted 4"):
        read_band_header(path, BandForm(4))
    with pytest.raises(MisfitError, match="its values are int16, the data has uint8: their scales differ"):
        read_band_header(path, BandForm(BANDS, dtype="uint8"))
    np.save(tmp_path / "1.npy", make_values("complex64"))
    with pytest.raises(MisfitError, match="its values are complex64: wanted one of uint8, uint16"):
        read_band_header(tmp_path / "1.npy", BandForm(BANDS))
    with pytest.raises(ImageDecodeError, match=r"600 pixels, more than max_pixels=599"):
        read_bands(path, BandForm(BANDS, max_pixels=599))


@pytest.mark.parametrize(
    ("dtype", "tag", "largest"),
    [
        ("float64", "-1.7976931348623157e+308", FLOAT64),
        ("float64", "-1.79769e+308", FLOAT64),
        ("float64", "1.79769313486232e+308", FLOAT64),
        ("float64", "-3.4028234663852886e+38", FLOAT32),
        ("float32", "-3.4028234663852886e+38", FLOAT32),
        ("float32", "-3.40282e+38", FLOAT32),
        ("float32", "3.4028235e+38", FLOAT32),
        ("float32", "1e+31", 1e31),
    ],
)
def test_the_largest_number_of_a_type_stands_for_none(tmp_path: Path, dtype: str, tag: str, largest: float) -> None:
    values = np.ones((4, 4), dtype)
    nodata = float(np.clip(float(tag), -FLOAT64, FLOAT64))
    values[0, 0] = np.copysign(largest, nodata)
    path = save_tiff(tmp_path / "1.tif", values, extratags=[(42113, 2, 0, tag, True)])
    plain = save_tiff(tmp_path / "2.tif", values)
    for found in (read_bands(path, BandForm(1)), read_bands(plain, BandForm(1, nodata=nodata))):
        assert found.isnan().sum() == 1
        assert found[0, 0, 0].isnan()
    assert read_band_item(values, BandForm(1, nodata=nodata))[0, 0, 0].isnan()
    values[1, 1] = np.copysign(np.inf, nodata)
    with pytest.raises(ImageDecodeError, match="1 values are infinite"):
        read_bands(save_tiff(path, values, extratags=[(42113, 2, 0, tag, True)]), BandForm(1))


def test_values_near_an_ordinary_one_for_none_are_values(tmp_path: Path) -> None:
    values = np.array([[-9999, -9999.01], [1e29, 1.000001e29]], np.float32)
    path = save_tiff(tmp_path / "1.tif", values, extratags=[(42113, 2, 0, "-9999", True)])
    assert read_bands(path, BandForm(1)).isnan().tolist() == [[[True, False], [False, False]]]
    assert read_bands(path, BandForm(1, nodata=1e29)).isnan().tolist() == [[[False, False], [True, False]]]


def test_missing_values_are_what_nodata_the_tag_and_nan_say(tmp_path: Path) -> None:
    values = make_values()
    gone = values == values[0, 0, 0]
    path = save_tiff(tmp_path / "1.tif", values)
    found = read_bands(path, BandForm(BANDS, nodata=float(values[0, 0, 0])))
    assert np.array_equal(found.isnan(), gone)
    assert np.array_equal(found[~gone], values[~gone])
    tagged = save_tiff(tmp_path / "2.tif", values, extratags=[(42113, "s", 0, str(values[0, 0, 0]), True)])
    assert np.array_equal(read_bands(tagged, BandForm(BANDS)).isnan(), gone)
    floats = values.astype(np.float32)
    floats[gone] = np.nan
    np.save(tmp_path / "3.npy", floats)
    with pytest.raises(ImageDecodeError, match=f"{gone.sum()} values are NaN: data.missing=mean replaces them"):
        read_bands(tmp_path / "3.npy", BandForm(BANDS))
    found = read_bands(tmp_path / "3.npy", BandForm(BANDS, missing="mean"))
    assert np.array_equal(found.isnan(), gone)
    floats[0, 0, 1] = np.inf
    np.save(tmp_path / "3.npy", floats)
    with pytest.raises(ImageDecodeError, match="1 values are infinite"):
        read_bands(tmp_path / "3.npy", BandForm(BANDS, missing="mean"))
    np.save(tmp_path / "4.npy", np.full_like(floats, np.nan))
    with pytest.raises(ImageDecodeError, match="every value is missing"):
        read_bands(tmp_path / "4.npy", BandForm(BANDS, missing="mean"))


def test_a_range_cuts_off_what_is_outside(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "1.tif", make_values())
    found = read_bands(path, BandForm(BANDS, value_range=(-10, 40)))
    assert np.array_equal(found, make_values().clip(-10, 40))


def test_a_form_is_recorded_where_it_is_not_as_by_default() -> None:
    assert BandForm(4, max_pixels=5).record() == {"channels": 4}
    form = BandForm(2, dtype="int16", nodata=-9999.0, value_range=(0, 10), stack=("_a.tif", "_b.tif"))
    recorded = form.record()
    assert recorded["value_range"] == [0, 10]
    assert BandForm.of({**recorded, "size": [28, 28]}) == form
