"""vision-peft inspect: what an adapter is, in a table; where its class token looks, in a picture."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file
from support.adapters import change_info
from support.families import randomise_tuned
from support.families import tiny as tiny_model
from support.tiny_fixtures import photos, tiny
from support.tiny_states import NAME, TINY, random_state

import vision_peft as vp
from vision_peft.cli import inspect
from vision_peft.cli._verb import make_parser
from vision_peft.cli.main import main
from vision_peft.config import commands
from vision_peft.config.parse import Config
from vision_peft.training.trained import train

__all__ = ["photos", "tiny"]


def stop(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["inspect", *words])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_run_is_shown_with_all_that_made_it_and_its_attention_drawn(
    tiny: Callable[..., Config], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(tiny("recipe.epochs=1", "method=lora"), command="vision-peft train method=lora")
    capsys.readouterr()
    image = str(photos / "test" / "red" / "0.png")
    pictures = ["--attention", str(tmp_path / "looks.png"), "--images", image, image]
    assert main(["inspect", str(trained.folder), *pictures]) == 0
    shown = capsys.readouterr().out
    row, info = trained.row, trained.model
    for text in (
        "LoRA(rank=8, alpha=8.0, dropout=0.0, targets=('q', 'v')",
        "linear, 3 classes: blue, green, red",
        f"trained {row.params_trained:,}, stored {row.params_stored:,}",
        "vit_tiny_patch16_224",
        f"top-1 {row.top1:.2f} % of 24 test images",
        str(row.data_digest),
        "vision-peft train method=lora",
        "next:",
    ):
        assert text in shown, text
    lines = re.findall(r"^([01])  +([\d,]+)  +[\d.]+  +[\d.]+  +[\d.]+ %  attn.qkv Linear\[LoRAQKV\]$", shown, re.M)
    assert [number for number, _ in lines] == ["0", "1"]
    assert sum(int(count.replace(",", "")) for _, count in lines) == row.params_trained
    assert vp.count_parameters(info).trained == row.params_trained
    assert Image.open(tmp_path / "looks.png").size[1] > 500
    before = (tmp_path / "looks.png").read_bytes()
    assert "is there already: --overwrite replaces a picture" in stop(capsys, str(trained.folder), *pictures)
    assert (tmp_path / "looks.png").read_bytes() == before


def test_without_the_frozen_weights_what_the_files_say_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(random_state(img_size=32, num_classes=0, **TINY), weights)
    model = vp.create_backbone(NAME, checkpoint=weights, img_size=32, num_classes=2, **TINY)
    randomise_tuned(vp.attach(model, vp.LoRA(rank=2)))
    folder = vp.save_adapter(model, tmp_path / "ADAPTER")
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  blocks\.0\.attn\.qkv\.\S+ \[2, 16\], norm \d", shown, re.M)
    assert "the model cannot be built here, so that updates cannot be compared with its weights" in shown
    assert main(["inspect", str(folder), "--checkpoint", str(weights)]) == 0
    assert "attn.qkv Linear[LoRAQKV]" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(vp.save_adapter(vp.attach(tiny_model("vit"), vp.LoRA(rank=2)), tmp_path / "a"))
    picture = str(tmp_path / "a.png")
    for words, error in (
        (["nowhere"], "error: nowhere is not a folder"),
        ([str(tmp_path)], "holds neither an adapter"),
        ([folder, "--attention", picture], "--attention FILE and --images IMAGE ... go together"),
        ([folder, "--attention", "a.jpg", "--images", "x"], "--attention must end in .png, got a.jpg"),
        ([folder, "--attention", "none/a.png", "--images", "x"], "there is no folder none"),
        ([folder, "--attention", picture, "--images", *"abcdefghijklm"], "--images takes up to 12 images"),
    ):
        assert error in stop(capsys, *words)
    change_info(Path(folder), lambda info: info.update(methods=["lora"]))
    assert 'wanted methods as {"name": ..., "fields": {...}}' in stop(capsys, folder)
    assert not Path(picture).exists()


def test_the_examples_of_help_run(
    tiny: Callable[..., Config], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(tiny("recipe.epochs=1", "method=lora"))
    shutil.copytree(trained.folder / "adapter", tmp_path / "ADAPTER")
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        shutil.copy(photos / "test" / "red" / "0.png", f"{name}.jpg")
    text = make_parser("inspect", inspect.__doc__).format_help()
    lines = [line for line in text.splitlines() if "vision-peft inspect " in line and "usage" not in line]
    assert len(lines) == 3
    for line in lines:
        words = line.split("   ")[0].split()[2:]
        run = str(trained.folder)
        assert main(["inspect", *(run if word == "RUN" or word.startswith("runs/") else word for word in words)]) == 0
    assert Path("looks.png").stat().st_size


def test_the_door_in_tools_does_not_hide_the_module_that_python_calls_inspect(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (repository / "tools" / "inspect.py").exists()
    monkeypatch.setattr("sys.argv", [str(repository / "tools" / "train.py")])
    assert Path(commands.door("inspect")[1]) == repository / "tools" / "inspect_adapter.py"
    assert Path(commands.door("inspect")[1]).is_file()
