"""`vision-peft export` as a user types it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.examples import list_examples
from support.tuned_folders import save_tuned

from vision_peft.cli import export
from vision_peft.cli.main import main


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an adapter and photographs in it."""
    monkeypatch.chdir(tmp_path)
    save_tuned(tmp_path / "adapter")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name, shade in (("a.png", 30), ("more/b.JPG", 200)):
        Image.new("RGB", (40, 30), (shade, 90, 10)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("nothing")
    return tmp_path


def test_the_examples_of_the_help_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    examples = list_examples("export", RUN="adapter", ADAPTER="adapter", PHOTOS="photos")
    assert len(examples) == 4
    for words in examples:
        # what each format writes is the matter of tests/inference/test_export.py: here the cheapest stands for all
        monkeypatch.setitem(export.FORMATS, "torchscript", (".pt", ".onnx", ".pt2"))
        cheap = [word for word in words if word not in ("--format", "torch_export", "torchscript")]
        assert main(["export", *cheap, "--format", "torchscript", "--overwrite"]) == 0
    shown = capsys.readouterr().out
    assert (
        "compared on 8 images of noise (seed 0; there is no run to take images of): logits differ by at most" in shown
    )
    assert "compared on 2 given files: logits differ by at most " in shown
    assert "wrote flowers.pt (" in shown


def test_images_of_the_run_itself_are_taken_where_there_is_one(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "adapter").rename(place / "run")
    (place / "run").mkdir(exist_ok=True)
    save_tuned(place / "run" / "adapter")
    (place / "run" / "config.yaml").write_text("data: {name: digits}\n")
    for source in ("run", "run/adapter"):
        assert main(["export", source, "-o", "x.pt", "--overwrite"]) == 0
        assert "compared on 8 images of the run's test split (data=digits)" in capsys.readouterr().out
    (place / "run" / "config.yaml").write_text("data: {name: folder, root: gone}\n")
    assert main(["export", "run", "-o", "x.pt", "--overwrite"]) == 0
    assert "8 images of noise (seed 0; the run's data: data.root=gone is not a folder" in capsys.readouterr().out
    (place / "run" / "config.yaml").write_text("data: {name: hf, hub: someone/photos}\n")
    assert main(["export", "run", "-o", "x.pt", "--overwrite"]) == 0
    assert "8 images of noise (seed 0; the run's data: it is on the hub, and nothing is" in capsys.readouterr().out


def test_what_is_shown_to_both_are_the_pixels_of_evaluation(place: Path) -> None:
    import vision_peft as vp
    from vision_peft.inference.pixels import read_pixels

    model = vp.load(place / "adapter", device="cpu")
    pixels = read_pixels(model, [place / "photos" / "a.png"])
    scaled = Image.open(place / "photos" / "a.png").resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(pixels[0], torch.from_numpy(np.array(scaled)).movedim(-1, 0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "-o", "x.pt"], "nowhere is not a folder: wanted a run folder, an adapter folder or hf-hub:"),
        (["adapter", "-o", "x.tflite"], "-o x.tflite ends in .tflite, wanted onnx: .onnx; torch_export: .pt2; torchsc"),
        (["adapter", "-o", "x.onnx", "--format", "onx"], "--format onx (did you mean onnx?): there are onnx, torch_ex"),
        (["adapter", "-o", "x.pt", "--format", "onnx"], "-o x.pt ends in .pt, wanted onnx: .onnx"),
        (["adapter", "-o", "x.pt", "--opset", "18"], "--opset is for --format onnx, got torchscript"),
        (["adapter", "-o", "x.pt", "--images", "gone"], "--images gone: there is no such file or folder"),
        (["adapter", "-o", "x.pt", "--images", "adapter"], "--images adapter: no images there"),
        (["adapter", "-o", "x.pt", "--images", "photos/notes.txt"], "cannot decode photos/notes.txt: not a known"),
        (["adapter", "-o", "there.pt"], "already there: there.pt; nothing was written, --overwrite replaces them"),
        (
            ["adapter", "-o", "there.onnx"],
            "already there: run_there.py; nothing was written, --overwrite replaces them",
        ),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "there.pt").write_text("mine")
    (place / "run_there.py").write_text("mine")
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert sorted(place.rglob("*")) == before


def test_images_behind_links_are_found_and_hidden_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("pictures/b.png", "pictures/deep/c.JPG", "pictures/._b.png", "pictures/a.txt", "elsewhere/d.png"):
        (tmp_path / name).write_bytes(b"-")
    (tmp_path / "pictures" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = export._list_files([tmp_path / "pictures"])
    assert [path.relative_to(tmp_path / "pictures").as_posix() for path in found] == ["a/d.png", "b.png", "deep/c.JPG"]
