"""The words of `convert`, and of `predict` for a file of other code: each is of use, or refused in a line."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from support.official_tuned import official_adaptformer
from support.tiny_states import NAME, TINY
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.cli.main import main

GOLD = ["gold.pth", "out", "source=adaptformer"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an official file, an adapter and an image in it."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": official_adaptformer()}, tmp_path / "gold.pth")
    torch.manual_seed(0)
    backbone = vp.create_backbone(NAME, **{**TINY, "patch_size": 8, "img_size": 32})
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / "vit.safetensors")
    save_tuned(tmp_path / "adapter", checkpoint=tmp_path / "vit.safetensors")
    Image.new("RGB", (20, 10), (80, 30, 99)).save(tmp_path / "a.png")
    return tmp_path


def stop(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    return line


def test_predict_of_hf_peft_takes_words_of_the_backbone_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "adapter", "peft", "target=hf_peft", "backbone.checkpoint=vit.safetensors"]) == 0
    shape = [f"backbone.kwargs.{key}={value}" for key, value in {**TINY, "patch_size": 8}.items()]
    words = [f"backbone.name={NAME}", "backbone.img_size=32", "backbone.checkpoint=vit.safetensors", *shape]
    capsys.readouterr()
    common = ["source=hf_peft", *words, "--device", "cpu", "--workers", "0"]
    assert main(["predict", "peft", "a.png", *common, "--jsonl", "-"]) == 0
    direct = capsys.readouterr().out
    assert len(json.loads(direct)["top"]) == 3
    assert main(["convert", "peft", "back", "source=hf_peft", *words]) == 0
    capsys.readouterr()
    back = ["predict", "back", "a.png", "--checkpoint", "vit.safetensors", "--device", "cpu", "--workers", "0"]
    assert main([*back, "--jsonl", "-"]) == 0
    assert capsys.readouterr().out == direct
    assert stop(capsys, "predict", "peft", *common) == (
        "error: nothing to predict: give files, folders, patterns or lists as well"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["num_heads=abc"], "num_heads is abc, wanted a whole number from 1 to 4,096"),
        (["num_heads=2.0"], "num_heads is 2.0, wanted a whole number from 1 to 4,096"),
        (["num_heads=true"], "num_heads is True, wanted a whole number"),
        (
            ["num_heads=2", "img_size=abc"],
            "img_size is abc, wanted pixels, a whole number from 1 to 4,096, or [height,wi",
        ),
        (["num_heads=2", "img_size=[8,8,8]"], "img_size is [8, 8, 8], wanted pixels"),
        (["num_heads=2", "num_frames=0"], "num_frames is 0, wanted a whole number"),
        (["num_heads=2", "scale=big"], "scale is big, wanted a number"),
        (["num_heads=2", "scale=[1]"], "scale is [1], wanted a number"),
        (["num_heads=2", "form=3"], "form is 3, wanted a word"),
        (["num_heads=2", "input.mean=[1,2]"], "input.mean has 2 entries, wanted 1 or 3"),
        (["num_heads=2", "input.resize=banana"], "unknown resize 'banana': wanted one of squash, shortest"),
        (["num_heads=2", "input.interpolation=best"], "unknown interpolation 'best'"),
        (
            ["num_heads=2", "input.size=[16,16]"],
            "the model does not take the input that input.* describes, 3 x 16 x 16",
        ),
        (["num_heads=2", "input.num_frames=4"], "input.num_frames is 4, and the model takes None: leave it out"),
        (["num_heads=2", "input.resise=squash"], "unknown key input.resise (did you mean input.resize?)"),
    ],
)
def test_a_value_of_another_kind_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert stop(capsys, "convert", *GOLD, *words).startswith(f"error: {message}")
    assert not Path("out").exists()


@pytest.mark.parametrize("word", ["num_heads=7", "img_size=32", "num_frames=4"])
def test_what_is_of_a_backbone_in_the_file_is_refused_where_there_is_none(
    capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert main(["convert", "adapter", "peft", "target=hf_peft", "backbone.checkpoint=vit.safetensors"]) == 0
    capsys.readouterr()
    line = stop(capsys, "convert", "peft", "out", "source=hf_peft", f"backbone.name={NAME}", word)
    assert line.startswith(f"error: {word.partition('=')[0]}: of a backbone in the file, and this file holds none")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words",
    [["num_heads=7"], ["scale=3"], ["input.resize=shortest"], ["backbone.img_size=56"], ["--classes", "names.txt"]],
)
def test_what_an_adapter_says_itself_is_refused_with_target(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    Path("names.txt").write_text("a\nb\nc\n")
    line = stop(capsys, "convert", "adapter", "peft", "target=hf_peft", "backbone.checkpoint=vit.safetensors", *words)
    given = words[0].partition("=")[0]
    assert line.startswith(f"error: {given}: with target= the adapter says this itself, leave it out")
    assert not Path("peft").exists()
