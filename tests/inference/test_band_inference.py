"""What inference does with images that have bands: files, arrays, folders, exports, pictures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch

from vision_peft.data.decoding.bands import BandForm
from vision_peft.inference.export_graph import ExportGraph
from vision_peft.inference.find_inputs import find_inputs
from vision_peft.inference.pixels import draw_noise, read_pixels
from vision_peft.inference.predict_files import make_dataset
from vision_peft.inference.prepare import Preparation

SETTINGS: dict[str, Any] = {
    "size": [8, 8],
    "mean": [100.0, 200.0, 300.0, 400.0],
    "std": [10.0, 20.0, 30.0, 40.0],
    "interpolation": "bicubic",
    "resize": "squash",
    "crop_pct": 1.0,
    "channels": 4,
    "dtype": "uint16",
    "nodata": 0,
}


def make_model() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model: Any = timm.create_model("vit_tiny_patch16_224", **sizes, in_chans=4, num_classes=2)
    model.adapter_info = SimpleNamespace(input=SETTINGS)
    return model


def test_files_and_arrays_become_the_same_input(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 500, (9, 7, 4)).astype(np.uint16)
    np.save(tmp_path / "1.npy", values)
    prepare = Preparation(SETTINGS)
    wanted = prepare(tmp_path / "1.npy")
    assert wanted.shape == (4, 8, 8)
    assert torch.equal(prepare(values), wanted)
    assert torch.equal(prepare(np.moveaxis(values, -1, 0)), wanted)
    assert torch.equal(make_dataset(prepare, [str(tmp_path / "1.npy")])[0][0], wanted)
    with pytest.raises(TypeError, match="this model takes 4 bands: wanted a path or an array, got bytes"):
        prepare(b"bytes")
    with pytest.raises(ValueError, match=r"takes arrays of 4 bands of uint16, got uint16 \(9, 7, 3\)"):
        prepare(values[..., :3])


def test_folders_give_arrays_and_the_first_files_of_stacks(tmp_path: Path) -> None:
    for name in ("a_1.npy", "a_2.npy", "b_1.tif", "c.png", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    names = [Path(path).name for path in find_inputs([str(tmp_path)], False, ["x"], bands=BandForm(2)).paths]
    assert names == ["a_1.npy", "a_2.npy", "b_1.tif", "c.png"]
    stack = BandForm(2, stack=("_1.npy", "_2.npy"))
    found = find_inputs([str(tmp_path)], False, ["x"], bands=stack)
    assert [Path(path).name for path in found.paths] == ["a_1.npy"]


def test_an_export_takes_values_in_the_units_of_the_files(tmp_path: Path) -> None:
    model = make_model()
    noise = draw_noise(model, 500)
    assert (noise.dtype, noise.shape) == (torch.float32, (500, 4, 8, 8))
    assert noise.mean((0, 2, 3)).tolist() == pytest.approx(SETTINGS["mean"], rel=0.01)
    assert noise.std((0, 2, 3)).tolist() == pytest.approx(SETTINGS["std"], rel=0.02)
    graph = ExportGraph(model, SETTINGS, preprocessing=True)
    normalised = graph.normalise(noise)
    assert normalised.mean().item() == pytest.approx(0, abs=0.01)
    found, wanted = graph(graph.prepare(noise[:2])), model(normalised[:2]).softmax(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)  # channels last is summed otherwise
    values = np.random.default_rng(0).integers(1, 500, (9, 7, 4)).astype(np.uint16)
    np.save(tmp_path / "1.npy", values)
    (pixels,) = read_pixels(model, [tmp_path / "1.npy"])
    torch.testing.assert_close(graph.normalise(pixels[None])[0], Preparation(SETTINGS)(values))
