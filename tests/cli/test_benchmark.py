"""tools/benchmark.py as a user types it; what it measures is not asserted, what it reports is."""

import json
import subprocess
from pathlib import Path

import pytest
from support.forked import run_tool

TINY = [
    "backbone=timm",
    "backbone.name=vit_tiny_patch16_224",
    "backbone.pretrained=false",
    "backbone.img_size=32",
    "backbone.kwargs={embed_dim: 24, depth: 1, num_heads: 2}",
]


def benchmark(repository: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool("benchmark.py", folder, *arguments)


def test_pipeline_and_settings_are_reported(repository: Path, tmp_path: Path) -> None:
    options = ["--against", "method=lora method.rank=2", "--updates", "2", "--seconds", "0.1", "--json", "figures.json"]
    done = benchmark(repository, tmp_path, *TINY, "method=vpt", *options)
    assert done.returncode == 0, done.stderr
    assert "method=vpt (as given)" in done.stdout
    assert "1.00x" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [each["source"] for each in figures["pipeline"]] == ["arrays"]
    assert [each["setting"] for each in figures["steps"]] == ["method=vpt (as given)", "method=lora method.rank=2"]
    first, second = figures["steps"]
    assert first["ratio"] == 1
    assert second["ratio"] == second["step_ms"] / first["step_ms"]
    assert all(0 <= each["data_wait_share"] < 1 and each["images_per_s"] > 0 for each in figures["steps"])
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json"}


@pytest.mark.slow
def test_files_are_measured_with_and_without_processes_and_kept_decoded(repository: Path, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.png")
    data = ["data=folder", "data.root=photos", "recipe.batch_size=4", "workers=1"]
    done = benchmark(repository, tmp_path, *TINY, *data, "--updates", "1", "--seconds", "0.1", "--json", "f.json")
    assert done.returncode == 0, done.stderr
    read = [(each["source"], each["workers"]) for each in json.loads((tmp_path / "f.json").read_text())["pipeline"]]
    assert read == [("files", 0), ("files", 1), ("kept decoded", 0)]


@pytest.mark.slow
def test_videos_are_measured_with_every_decoder_that_is_there(repository: Path, tmp_path: Path) -> None:
    from vision_peft.data.decoding.video_backends import usable_backends

    sizes = ["data.train_clips=8", "data.val_clips=8", "data.test_clips=8", "data.size=32", "data.cache=cache"]
    clips = ["backbone.num_frames=4", "backbone.tubelet_size=2", "recipe.batch_size=4", "workers=1"]
    counted = ["--updates", "1", "--seconds", "0.1", "--json", "f.json"]
    done = benchmark(repository, tmp_path, *TINY, "data=moving_digits", *sizes, *clips, *counted)
    assert done.returncode == 0, done.stderr
    assert "clips/s" in done.stdout
    assert "images/s" not in done.stdout
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["items"] == "clips"
    expected = [(f"files, {name}", workers) for name in usable_backends() for workers in (0, 1)]
    assert [(each["source"], each["workers"]) for each in figures["pipeline"]] == [*expected, ("kept decoded", 0)]
    assert all(each["images_per_s"] > 0 for each in figures["pipeline"])


def test_a_mistake_is_one_line(repository: Path, tmp_path: Path) -> None:
    done = benchmark(repository, tmp_path, "method=lroa")
    assert done.returncode == 2
    assert "did you mean lora" in done.stderr
    assert "Traceback" not in done.stderr
