"""An exported file computes what the tuned model computes, in whatever batches, and needs nothing of this package."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.matrix import METHODS, refusal
from support.tuned_folders import CLASSES, SMALL, save_tuned

import vision_peft as vp
from vision_peft.inference import export
from vision_peft.inference.export import export_model
from vision_peft.inference.export_formats import ABOUT, FORMATS
from vision_peft.inference.pixels import complete_settings, draw_noise

ENDINGS = {name: kind.endings[0] for name, kind in FORMATS.items()}
# what a machine that only runs the file does not have
ALONE = "import sys, runpy; sys.modules.update({m: None for m in ('torch', 'torchvision', 'timm', 'vision_peft')}); "
ALONE += "sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def tuned(folder: Path, *methods: vp.Method, **arguments: Any) -> Any:
    """A tiny tuned model that was loaded from its adapter."""
    return vp.load(save_tuned(folder / "adapter", *methods, **arguments), device="cpu")


def normalised(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels as the model takes them, written out."""
    mean, std = (torch.tensor(model.adapter_info.input[key]) for key in ("mean", "std"))
    axes = (-1, *[1] * (pixels.ndim - 2))
    return (pixels / 255 - mean.view(axes)) / std.view(axes)


def read_whole(path: Path) -> bytes:
    """All that is in a file, and in the files in it."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as whole:
        return b"".join(map(whole.read, whole.namelist()))


def tells_of_this_machine(path: Path) -> bool:
    """Whether a file holds a path of the code that made it."""
    places = (Path(str(vp.__file__)).parents[1], Path(torch.__file__).parents[1])
    return any(str(place).encode() in read_whole(path) for place in places)


def write_pictures(folder: Path, number: int) -> list[Path]:
    """Photographs of noise of many shapes."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(number)]
    for index, path in enumerate(paths):
        size = (20 + 13 * index, 61 - 7 * index, 3)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    return paths


def label_alone(script: Path, *arguments: Path) -> list[list[str]]:
    """What a runner prints in a process that can import neither torch nor this package: words of each line."""
    words = [sys.executable, "-c", ALONE, script, *arguments]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("settings", "preprocessing"),
    [
        pytest.param({}, True, marks=pytest.mark.matrix),
        ({"resize": "shortest", "crop_pct": 0.8, "interpolation": "bilinear"}, False),
    ],
    ids=["pixels to probabilities", "normalised to logits"],
)
def test_onnx_comes_with_a_runner_that_needs_no_torch(settings: Any, preprocessing: bool, tmp_path: Path) -> None:
    onnx, onnxruntime = map(pytest.importorskip, ("onnx", "onnxruntime"))
    model = tuned(tmp_path, vp.VPT(tokens=2), settings=settings, depth=1, temperature=1.5)
    opset = None if preprocessing else 18
    done = export_model(model, tmp_path / "x.onnx", "onnx", preprocessing=preprocessing, opset=opset)
    assert done.files == [tmp_path / "x.onnx", tmp_path / "run_x.py"]
    assert done.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == CLASSES
    assert about["difference"] == f"{done.difference:.2e}"
    assert about["compared_on"] == "8 images of noise"
    pixels = draw_noise(model, 5)
    wanted = model(normalised(model, pixels)).detach()
    if preprocessing:
        wanted, inputs = (wanted / 1.5).softmax(1), {"pixels": pixels.movedim(1, -1).numpy()}
    else:
        inputs = {"input": normalised(model, pixels).numpy()}
    assert np.abs(session.run(None, inputs)[0] - wanted.numpy()).max() < 1e-5

    assert not tells_of_this_machine(tmp_path / "x.onnx")
    pictures = write_pictures(tmp_path / "pictures", 5)
    assert len((tmp_path / "run_x.py").read_text().splitlines()) <= 45
    assert {opset.version for opset in onnx.load(tmp_path / "x.onnx").opset_import if not opset.domain} >= {opset or 20}
    shown = label_alone(tmp_path / "run_x.py", *pictures)
    guesses = vp.Predictor(model)(pictures, top=1)
    assert [[path, name] for path, name, _ in shown] == [
        [str(path), repr(name)] for path, ((name, _),) in zip(pictures, guesses, strict=True)
    ]
    assert [float(share) for *_, share in shown] == pytest.approx([share for ((_, share),) in guesses], abs=2e-4)


def test_torch_export_holds_its_metadata(tmp_path: Path) -> None:
    model = tuned(tmp_path, depth=1)
    done = export_model(model, tmp_path / "x.pt2", "torch_export")
    extra = {ABOUT: ""}
    program = torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    assert not tells_of_this_machine(tmp_path / "x.pt2")
    assert json.loads(extra[ABOUT]) == done.metadata
    pixels = draw_noise(model, 3)
    assert (program.module()(normalised(model, pixels)) - model(normalised(model, pixels))).abs().max() < 1e-5


def test_torchscript_in_fp16_takes_pixels(tmp_path: Path) -> None:
    model = tuned(tmp_path, vp.Houlsby(bottleneck=4))
    shown = torch.full((3, 3, 32, 32), 77, dtype=torch.uint8)
    given: Any = {"fp16": True, "preprocessing": True, "images": (shown, "photographs of a user")}
    done = export_model(model, tmp_path / "x.pt", "torchscript", **given)
    assert not tells_of_this_machine(tmp_path / "x.pt")
    assert bytes([77] * 100) not in read_whole(tmp_path / "x.pt")
    extra = {ABOUT: ""}
    program = torch.jit.load(tmp_path / "x.pt", _extra_files=extra)
    assert json.loads(extra[ABOUT]) == done.metadata
    assert (done.metadata["precision"], json.loads(done.metadata["input"])["layout"]) == ("fp16", "uint8 B H W 3")
    assert {parameter.dtype for parameter in program.parameters()} == {torch.float16}
    assert 1e-6 < done.difference < 0.05
    pixels = draw_noise(model, 3)
    found = program(pixels.movedim(1, -1)).detach()
    assert (found.dtype, found.sum(1).tolist()) == (torch.float32, pytest.approx([1] * 3))
    assert (found - model(normalised(model, pixels)).softmax(1)).abs().max() < 0.01
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}, "the model stays as it is"


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    model = tuned(tmp_path)
    noise = draw_noise(model, 4)
    words = r"nothing is written: the logits of the file differ by .* on four images, wanted at most 1e-09 \(--tol"
    with pytest.raises(ValueError, match=words):
        export_model(model, tmp_path / "x.pt", "torchscript", images=(noise, "four images"), fp16=True, tolerance=1e-9)

    model.head.register_forward_hook(lambda _, given, logits: logits + len(logits))  # a trace holds it as a constant
    with pytest.raises(ValueError, match=r"differ by 1\.0e\+00"):
        export_model(model, tmp_path / "x.pt", "torchscript", images=(noise[:2], "two images"))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(
        ImportError, match=r"needs the packages onnx, onnxscript, onnxruntime: pip install 'vision_peft"
    ):
        export.check_packages("onnx")
    export.check_packages("torch_export")


CLIPS: dict[str, dict[str, Any]] = {
    "images": {},
    "frames": {"num_frames": 4},
    "tubelets": {"num_frames": 4, "tubelet_size": 2},
}


@functools.cache
def bare(clips: str) -> Any:
    """A model without storage, to ask what fits it."""
    with torch.device("meta"):
        return vp.create_backbone("vit_tiny_patch16_224", **{**SMALL, **CLIPS[clips]})


# Every method in every format; its other settings by torch.export, which ONNX goes through as well.
CASES = [
    pytest.param(method, arguments, name, id=f"{method!r}-{clips}-{name}")
    for method in METHODS
    for clips, arguments in CLIPS.items()
    for name in FORMATS
    if refusal(method, bare(clips)) is None and (method == type(method)() or name == "torch_export")
]


@pytest.mark.matrix
@pytest.mark.parametrize(("method", "arguments", "name"), CASES)
def test_every_method_is_exported_in_every_format(method: Any, arguments: Any, name: str, tmp_path: Path) -> None:
    model = tuned(tmp_path, method, **arguments)
    done = export_model(model, tmp_path / f"x{ENDINGS[name]}", name, preprocessing=True)
    assert done.difference < 1e-4


@pytest.mark.matrix
def test_a_runner_of_clips_takes_their_frames(tmp_path: Path) -> None:
    model = tuned(tmp_path, num_frames=4)
    export_model(model, tmp_path / "x.onnx", "onnx")
    frames = write_pictures(tmp_path / "frames", 4)
    ((name, label, share),) = label_alone(tmp_path / "run_x.py", *frames)
    size = complete_settings(model)["size"]
    clip = np.stack([np.asarray(Image.open(path).resize(size, Image.Resampling.BICUBIC)) for path in frames])
    ((wanted, probability),) = vp.Predictor(model)(clip, top=1)
    assert (name, label, float(share)) == ("clip", repr(wanted), pytest.approx(probability, abs=2e-4))


@pytest.mark.matrix
def test_large_weights_lie_beside_the_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (export, sys.modules[FORMATS["onnx"].__module__]):
        monkeypatch.setattr(module, "LARGEST", 1000)
    done = export_model(tuned(tmp_path), tmp_path / "x.onnx", "onnx")
    assert [path.name for path in done.files] == ["x.onnx", "run_x.py", "x.onnx.data"]
    assert (tmp_path / "x.onnx.data").stat().st_size > 10_000
    assert label_alone(tmp_path / "run_x.py", *write_pictures(tmp_path / "pictures", 1))
