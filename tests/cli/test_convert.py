"""`vision-peft convert`, and `source=` of evaluate, as a user types them."""

import inspect
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from support.examples import list_examples
from support.official_tuned import official_adaptformer
from support.tiny_states import NAME, TINY
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.cli import convert
from vision_peft.cli._foreign import OF_READERS, list_checkpoint
from vision_peft.cli.main import main
from vision_peft.formats.foreign.read import _module, list_sources


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an official file in it."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": official_adaptformer(), "epoch": 3}, tmp_path / "checkpoint.pth")
    return tmp_path


def test_the_examples_of_the_help_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tuned(place / "adapter")
    first, second, third = list_examples("convert", ADAPTER="adapter", PEFT="peft")
    assert main(["convert", *first]) == 0
    shown = capsys.readouterr().out
    assert "  blocks.*.fc1.bias -> blocks.*.mlp.fc1.bias (2 times)\n" in shown
    assert "dropped: none" in shown
    assert "methods: AdaptFormer(bottleneck=2, " in shown
    assert "wrote adapter.json, adapter.safetensors, backbone.safetensors in flowers" in shown
    assert shown.endswith("next:\n  vision-peft export flowers -o flowers.pt2\n")
    assert vp.load("flowers", device="cpu").num_classes == 3
    assert main(["convert", *third]) == 0
    # without the hub: random weights
    shape = [f"backbone.kwargs.{key}={value}" for key, value in {**TINY, "patch_size": 8}.items()]
    words = [word.replace("vit_base_patch16_224.augreg_in21k", NAME) for word in second]
    assert main(["convert", *words, *shape, "backbone.img_size=32", "backbone.pretrained=false"]) == 0
    assert "wrote adapter.json, adapter.safetensors in cars" in capsys.readouterr().out


def test_classes_and_the_input_are_recorded(place: Path) -> None:
    (place / "names.txt").write_text("cat\ndog\nbird\n")
    words = ["source=adaptformer", "num_heads=2", "scale=0.2", "input.mean=[0.5,0.4,0.3]", "input.resize=shortest"]
    assert main(["convert", "checkpoint.pth", "out", *words, "--classes", "names.txt"]) == 0
    info = json.loads((place / "out" / "adapter.json").read_text())
    assert info["class_names"] == ["cat", "dog", "bird"]
    assert info["input"] == {"mean": [0.5, 0.4, 0.3], "resize": "shortest"}
    assert info["methods"][0]["fields"]["scale"] == 0.2


def test_evaluate_takes_the_file_itself(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, name in enumerate(("a", "b", "c")):
        for split in ("train", "test"):
            (place / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 10), (80 * index, 30, 99)).save(place / "photos" / split / name / f"{split}.png")
    given = ["source=adaptformer", "num_heads=2", "input.mean=[0.5,0.5,0.5]"]
    data = ["data=folder", "data.root=photos", "device=cpu", "workers=0"]
    assert main(["evaluate", "checkpoint.pth", *data, *given, "--json", "direct.json"]) == 0
    assert main(["convert", "checkpoint.pth", "out", *given]) == 0
    assert main(["evaluate", "out", *data, "--json", "converted.json"]) == 0
    assert json.loads((place / "direct.json").read_text()) == json.loads((place / "converted.json").read_text())
    assert capsys.readouterr().out.count("folder test: top-1 ") == 2


def test_the_weights_of_an_adapter_that_goes_to_hf_peft_may_come_from_a_file(place: Path) -> None:
    torch.manual_seed(0)
    backbone = vp.create_backbone(NAME, **{**TINY, "patch_size": 8, "img_size": 32})
    safetensors.torch.save_file(backbone.state_dict(), place / "vit.safetensors")
    save_tuned(place / "adapter", checkpoint=place / "vit.safetensors")
    words = ["convert", "adapter", "peft", "target=hf_peft"]
    with pytest.raises(SystemExit):
        main(words)
    assert not (place / "peft").exists()
    assert main([*words, "backbone.checkpoint=vit.safetensors"]) == 0
    assert (place / "peft" / "adapter_config.json").is_file()


def test_predict_takes_the_file_itself(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 10), (80, 30, 99)).save(place / "a.png")
    given = ["source=adaptformer", "num_heads=2"]
    common = ["a.png", "--device", "cpu", "--workers", "0", "--jsonl", "-"]
    assert main(["predict", "checkpoint.pth", *given, *common]) == 0
    direct = capsys.readouterr().out
    assert main(["convert", "checkpoint.pth", "out", *given]) == 0
    capsys.readouterr()
    assert main(["predict", "out", *common]) == 0
    assert (capsys.readouterr().out, '"a.png"' in direct) == (direct, True)
    weights = ["source=hf_peft", f"backbone.name={NAME}", "backbone.checkpoint=vit.safetensors"]
    assert list_checkpoint(weights) == {"checkpoint": "vit.safetensors"}
    for verb in ("predict", "evaluate"):
        with pytest.raises(SystemExit):
            main([verb, "checkpoint.pth", "a.png"] if verb == "predict" else [verb, "checkpoint.pth"])
        assert "hf-hub:OWNER/NAME; a file of official code needs source=NAME" in capsys.readouterr().err


def test_every_keyword_of_a_reader_can_be_typed() -> None:
    known = {
        name
        for source in list_sources()
        for name, parameter in inspect.signature(_module("source", source, having="read").read).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert known - {"config"} == {*OF_READERS}
    assert all(source in str(convert.__doc__) for source in list_sources())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.pth", "out", "source=vpt"], "gone.pth: there is no such file or folder"),
        (["checkpoint.pth", "out"], "give either source=NAME, whose code wrote SOURCE, or target=hf_peft"),
        (["checkpoint.pth", "out", "source=vtp"], "unknown source 'vtp' (did you mean vpt?): known are adapter_plus, "),
        (["checkpoint.pth", "out", "sorce=vpt"], "unknown key sorce (did you mean source?)"),
        (["checkpoint.pth", "out", "source=convpass"], "convpass needs the keyword scale ("),
        (
            ["checkpoint.pth", "out", "source=adaptformer"],
            "the file does not say how many attention heads its backbone has",
        ),
        (["checkpoint.pth", "out", "source=adaptformer", "num_heads=3"], "num_heads must divide the width 8"),
        (["checkpoint.pth", "out", "source=adaptformer", "scal=1"], "unknown key scal (did you mean scale?)"),
        (
            ["checkpoint.pth", "out", "source=ssf", "num_heads=2"],
            "the tensors do not reveal the architecture: missing",
        ),
        (
            ["checkpoint.pth", "out", "source=hf_peft", "backbone.img_size=8"],
            "backbone.img_size=... is of a backbone: ",
        ),
        (
            ["checkpoint.pth", "there", "source=adaptformer", "num_heads=2"],
            "already there: there/adapter.json",
        ),
        (["checkpoint.pth", "out", "source=vpt", "--classes", "checkpoint.pth"], "checkpoint.pth is not a list of cla"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "there").mkdir()
    (place / "there" / "adapter.json").write_text("mine")
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert sorted(place.rglob("*")) == before
