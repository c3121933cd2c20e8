"""The runner beside an ONNX file reads what `predict` reads and answers what it answers, of every task and input."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from support.tuned_folders import CLASSES, save_tuned

import vision_peft as vp
from vision_peft.inference.export import export_model
from vision_peft.inference.onnx_runner import write_runner
from vision_peft.inference.prepare import Preparation

TASKS: dict[str, dict[str, Any] | None] = {
    "classes": None,
    "multilabel": {"kind": "multilabel", "thresholds": [0.0, 0.4, 0.6]},
    "ordinal": {"kind": "ordinal"},
    "regression": {"kind": "regression", "mean": [1.0, -2.0, 300.0], "std": [1.0, 0.5, 20.0], "unit": "mm"},
    "embedding": {"kind": "embedding", "width": 3},
}
BANDS: dict[str, Any] = {
    "channels": 4,
    "mean": [100.0, 200.0, 300.0, 400.0],
    "std": [100.0, 150.0, 120.0, 90.0],
    "dtype": "uint16",
    "nodata": 0,
}
INPUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings of the input, arguments of the backbone
    "images": ({"resize": "shortest", "crop_pct": 0.8, "value_range": [0, 4095]}, {}),
    "bands": (BANDS, {"in_chans": 4}),
    "clips": ({}, {"num_frames": 4}),
}
EIGHT_BITS: dict[str, Any] = {"size": [20, 12], "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bicubic"}
EIGHT_BITS |= {"resize": "squash", "crop_pct": 1.0}


def draw(*shape: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape)


def write_items(folder: Path, kind: str) -> tuple[list[Path], Any]:
    """Files for the command line of a runner, and what a Predictor takes of them."""
    folder.mkdir()
    if kind == "bands":
        files = [folder / "a.npy", folder / "b.npy"]
        np.save(files[0], draw(20, 30, 4, top=600).astype(np.uint16))
        np.save(files[1], draw(4, 31, 17, top=300).astype(np.uint16))
        return files, files
    if kind == "clips":
        files = [folder / f"{number}.png" for number in range(9)]
        for number, path in enumerate(files):
            Image.fromarray(np.roll(draw(40, 32, 3), 50 * number).astype(np.uint8)).save(path)
        return files, [folder]
    files = [folder / name for name in ("a.png", "deep.png", "turned.jpg")]
    Image.fromarray(draw(40, 60, 3).astype(np.uint8)).save(files[0])
    Image.fromarray(draw(40, 60, top=4000).astype(np.uint16)).save(files[1])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.kron(draw(5, 9, 3), np.ones((8, 8, 1))).astype(np.uint8)).save(files[2], exif=exif)
    return files, files


def run_alone(script: Path, files: list[Path]) -> list[list[str]]:
    """What a runner prints in a process that can import neither torch nor this package: parts of each line."""
    code = "import sys, runpy; sys.modules.update({m: None for m in ('torch', 'torchvision', 'timm', 'vision_peft')}); "
    code += "sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, script, *files]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t") for line in done.stdout.splitlines()]


def read_answer(kind: str, parts: list[str]) -> dict[str, float]:
    """Names and numbers of what a runner printed of one item."""
    if kind == "classes":
        return {parts[0].strip("'"): float(parts[1])}
    if kind == "embedding":
        return {str(place): float(value) for place, value in enumerate(parts[0].split())}
    pairs = [part.removesuffix(" mm").rpartition(" ") for part in parts[0].split(", ")]
    return {name: float(value) for name, _, value in pairs}


def ask(kind: str, predictor: vp.Predictor, items: Any) -> list[dict[str, float]]:
    if kind == "embedding":
        rows = predictor.features(items).tolist()
        return [{str(place): value for place, value in enumerate(row)} for row in rows]
    return [dict(guesses) for guesses in predictor(items, top=1)]


@pytest.mark.parametrize("given", INPUTS)
def test_it_answers_what_predict_answers_for_every_kind_of_task(given: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra test")
    settings, arguments = INPUTS[given]
    adapter = save_tuned(tmp_path / "adapter", settings=settings, depth=1, temperature=1.5, **arguments)
    files, items = write_items(tmp_path / "files", given)
    for kind, task in TASKS.items():
        model: Any = vp.load(adapter, device="cpu")
        names = [*CLASSES, "d"] if kind == "ordinal" else CLASSES
        calibrated = {"temperature": 1.5 if kind == "classes" else None}
        model.adapter_info = dataclasses.replace(model.adapter_info, task=task, class_names=names, **calibrated)
        done = export_model(model, tmp_path / f"{kind}.onnx", "onnx")
        found = [read_answer(kind, parts) for _, *parts in run_alone(tmp_path / f"run_{kind}.py", files)]
        wanted = ask(kind, vp.Predictor(model), items)
        assert len(found) == len(wanted)
        for own, theirs in zip(found, wanted, strict=True):
            # frames are scaled as tensors there, as PIL images here
            assert own == pytest.approx(theirs, rel=2e-2 if given == "clips" else 1e-3, abs=5e-3)
        open_set = kind == "embedding"
        assert done.metadata["output"] == ("features" if open_set else "logits")
        assert ("class_names" in done.metadata) is not open_set


def test_features_without_a_projection_are_exported(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra test")
    model: Any = vp.load(save_tuned(tmp_path / "adapter", depth=1), device="cpu")
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="this adapter has no head, so there are no logits to export"):
        export_model(model, tmp_path / "x.onnx", "onnx")
    task = {"kind": "embedding", "width": 0}
    model.adapter_info = dataclasses.replace(model.adapter_info, task=task, num_classes=0)
    with pytest.raises(ValueError, match="answers a task of embedding, whose file gives features that"):
        export_model(model, tmp_path / "x.onnx", "onnx", preprocessing=True)
    export_model(model, tmp_path / "x.onnx", "onnx")
    files, items = write_items(tmp_path / "files", "images")
    ((output,),) = (onnxruntime.InferenceSession(tmp_path / "x.onnx").get_outputs(),)
    assert (output.name, output.shape[1]) == ("features", model.num_features)
    found = np.array([parts[1].split() for parts in run_alone(tmp_path / "run_x.py", files[::2])], dtype=float)
    np.testing.assert_allclose(found, vp.Predictor(model).features(items[::2]).numpy(), rtol=1e-3, atol=1e-3)


def read_as_the_runner(path: Path, settings: dict[str, Any]) -> np.ndarray:
    """What the function `read` of a runner returns, which needs no ONNX file."""
    text = write_runner("m.onnx", settings, 1.0).partition("\nfor path in sys.argv")[0]
    text = text.partition("\npath, frames =")[0].replace("import numpy as np, onnxruntime", "import numpy as np")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("session", "about", "names", "task")))
    space: dict[str, Any] = {}
    exec(text, space)
    return space["read"](path)


def write_deep(path: Path, mode: str, low: float, high: float) -> Path:
    values = low + (high - low) * draw(30, 40) / 255
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32))
    assert image.mode == mode
    image.save(path)
    return path


@pytest.mark.parametrize("value_range", ["full", "image", [100, 3000]])
def test_deep_grey_becomes_the_pixels_of_predict(value_range: Any, tmp_path: Path) -> None:
    ranges = [("I;16", 0, 65535), ("I;16", 20, 4000), ("I", -5, 100_000), ("I", 3, 70), ("F", 0, 1), ("F", 0, 200)]
    for resize in ("squash", "shortest"):
        settings = {**EIGHT_BITS, "value_range": value_range, "resize": resize, "crop_pct": 0.9}
        for number, (mode, low, high) in enumerate([*ranges, ("F", -3, 9), ("I;16", 7, 7)]):
            path = write_deep(tmp_path / f"{resize}{number}.tif", mode, low, high)
            wanted = Preparation(settings)(path).movedim(0, -1).mul(255).round().numpy()
            assert np.array_equal(read_as_the_runner(path, settings), wanted), (mode, low, high)
    write_deep(tmp_path / "nan.tif", "F", 0, float("nan"))
    with pytest.raises(SystemExit, match=r"nan\.tif: the image holds NaN or infinite values"):
        read_as_the_runner(tmp_path / "nan.tif", settings)


def test_frames_of_deep_grey_are_of_the_full_range_and_not_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for number in range(2):
        Image.fromarray(draw(20, 12, top=50_000).astype(np.uint16)).save(tmp_path / f"{number}.png", exif=exif)
    settings: dict[str, Any] = {**EIGHT_BITS, "num_frames": 2, "sampling": "segments", "views": 1, "crops": 1}
    wanted = Preparation({**settings, "frame_stride": 1})(tmp_path)[:, 0].movedim(0, -1).mul(255).round().numpy()
    assert np.array_equal(read_as_the_runner(tmp_path / "0.png", settings), wanted)


@pytest.mark.parametrize("orientation", [*range(10)])
def test_photographs_are_turned_as_predict_turns_them(orientation: int, tmp_path: Path) -> None:
    entries = [(0x112, 3, 1, struct.pack("<HH", orientation, 0)), (0x11A, 2, 4, b"abc\0")]  # a resolution of letters
    block = b"II*\0" + struct.pack("<IH", 8, len(entries))
    block += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    image = Image.fromarray(draw(30, 400, 3).astype(np.uint8))
    image.save(tmp_path / "a.png", exif=b"Exif\0\0" + block)
    image.convert("P").save(tmp_path / "b.png", transparency=bytes(range(9)))
    for name in ("a.png", "b.png"):
        wanted = Preparation(EIGHT_BITS)(tmp_path / name).movedim(0, -1).mul(255).round().numpy()
        assert np.array_equal(read_as_the_runner(tmp_path / name, EIGHT_BITS), wanted)


def test_the_ends_of_very_long_images_are_left_out_as_in_predict(tmp_path: Path) -> None:
    settings = {**EIGHT_BITS, "resize": "shortest", "crop_pct": 0.9}
    for number, size in enumerate([(3, 500), (301, 4), (40, 25), (25, 41)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw(*size, 3).astype(np.uint8)).save(path)
        wanted = Preparation(settings)(path).movedim(0, -1).mul(255).round().numpy()
        assert np.array_equal(read_as_the_runner(path, settings), wanted)


HUGE = -1.797693e308
ARRAYS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "bands last": (draw(9, 7, 4, top=500).astype(np.uint16), {"nodata": 3}),
    "bands first": (draw(4, 9, 7, top=500).astype(np.uint16), {"value_range": [50, 200]}),
    "as many rows as bands": (draw(4, 4, 7, top=500).astype(np.uint16), {}),
    "in two ways, last": (draw(4, 9, 4, top=500).astype(np.uint16), {"layout": "hwc"}),
    "in two ways, first": (draw(4, 9, 4, top=500).astype(np.uint16), {"layout": "chw"}),
    "NaN": (np.where(draw(9, 7, 4) < 9, np.nan, draw(9, 7, 4)), {"dtype": "float64", "missing": "mean"}),
    "huge": (np.where(draw(9, 7, 4) < 9, HUGE * (1 - 1e-7), draw(9, 7, 4)), {"dtype": "float64", "nodata": HUGE}),
    "big-endian": (draw(9, 7, 4, top=500).astype(">u2"), {}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_bands_become_the_values_of_predict(name: str, tmp_path: Path) -> None:
    array, given = ARRAYS[name]
    settings = {**EIGHT_BITS, **BANDS, "nodata": None, "std": [1.0] * 4, **given}
    np.save(tmp_path / "a.npy", array)
    wanted = Preparation(settings)(tmp_path / "a.npy") + torch.tensor(BANDS["mean"]).view(-1, 1, 1)
    found = torch.from_numpy(read_as_the_runner(tmp_path / "a.npy", settings)).movedim(-1, 0)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((9, 7, 3), np.uint16), r"wanted 4 bands of uint16, got uint16 \(9, 7, 3\)"),
        (np.ones((4, 9, 4), np.uint16), r"wanted 4 bands of uint16, got uint16 \(4, 9, 4\)"),
        (np.ones((9, 7, 4), np.uint8), r"wanted 4 bands of uint16, got uint8 \(9, 7, 4\)"),
        (np.ones((9, 7), np.uint16), r"wanted 4 bands of uint16, got uint16 \(9, 7, 1\)"),
        (np.zeros((9, 7, 4), np.uint16), "values are NaN or infinite, or all are missing"),
    ],
)
def test_arrays_that_predict_refuses_are_refused(array: np.ndarray, words: str, tmp_path: Path) -> None:
    settings = {**EIGHT_BITS, **BANDS}
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"wanted 4|takes arrays|missing|data|channels"):
        Preparation(settings)(tmp_path / "a.npy")
    with pytest.raises(SystemExit, match=words):
        read_as_the_runner(tmp_path / "a.npy", settings)


def test_the_metadata_hold_the_task(tmp_path: Path) -> None:
    model: Any = vp.load(save_tuned(tmp_path / "adapter", depth=1, task=TASKS["regression"]), device="cpu")
    done = export_model(model, tmp_path / "x.pt", "torchscript")
    assert json.loads(done.metadata["task"]) == TASKS["regression"]
