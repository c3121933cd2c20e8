"""`vision-peft share` as a user types it, to a hub of this machine, and `vp.load` back from there."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
import yaml
from support.examples import list_examples
from support.hub_server import TOKEN, Hub, serve_hub
from support.official_tuned import official_adaptformer
from support.rows import sample_row
from support.tuned_folders import CLASSES, save_tuned

import vision_peft as vp
from vision_peft.cli.main import main
from vision_peft.inference.convert import convert_foreign


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this machine for which the user is logged in."""
    with serve_hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            served.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a finished run in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    save_tuned(folder / "run" / "adapter", vp.AdaptFormer(bottleneck=2), seeded=True)
    return folder


def test_the_examples_of_the_help_run_and_the_adapter_comes_back(
    place: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    dry, wet = list_examples("share", RUN="run")
    assert main(["share", *dry]) == 0
    assert hub.repositories == {}
    assert {path.name for path in (place / "flowers").iterdir()} == {"README.md", "adapter.json", "adapter.safetensors"}
    assert main(["share", *wet]) == 0
    assert hub.visibility == {"owner/flowers": "private"}
    assert hub.repositories["owner/flowers"] == {path.name: path.read_bytes() for path in (place / "flowers").iterdir()}
    found, wanted = vp.load("hf-hub:owner/flowers", device="cpu"), vp.load("run/adapter", device="cpu")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(x), wanted(x))
    assert found.adapter_info.class_names == CLASSES
    shown = "".join(capsys.readouterr())
    assert f"uploaded adapter.json, adapter.safetensors, README.md to {hub.address}/owner/flowers" in shown
    assert (TOKEN in shown, hub.tokens) == (False, {f"Bearer {TOKEN}"} | (hub.tokens & {""}))


def test_weights_that_lie_beside_an_adapter_are_shared_and_loaded(place: Path, hub: Hub) -> None:
    torch.save(official_adaptformer(), place / "checkpoint.pth")
    convert_foreign(place / "checkpoint.pth", place / "converted", "adaptformer", num_heads=2)
    assert main(["share", "converted", "owner/converted"]) == 0
    assert "backbone.safetensors" in hub.repositories["owner/converted"]
    assert "its weights lie beside it" in hub.repositories["owner/converted"]["README.md"].decode()
    found, wanted = vp.load("hf-hub:owner/converted", device="cpu"), vp.load("converted", device="cpu")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(found(x), wanted(x))


def test_a_backbone_that_came_from_a_file_is_asked_for(place: Path) -> None:
    state = vp.load("run/adapter", device="cpu").state_dict()
    weights = {name: tensor for name, tensor in state.items() if "adaptmlp" not in name and "head" not in name}
    safetensors.torch.save_file(weights, place / "mine.safetensors")
    save_tuned(place / "adapter", checkpoint=place / "mine.safetensors")
    assert main(["share", "adapter", "owner/flowers", "--dry-run", "out"]) == 0
    text = (place / "out" / "README.md").read_text("utf-8")
    assert "predict = vp.Predictor(\"hf-hub:owner/flowers\", checkpoint='mine.safetensors')" in text
    assert "came from the file `mine.safetensors`, which you need as well." in text
    assert "No result on test is recorded with this adapter." in text


def test_an_adapter_that_is_there_is_kept(place: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", "run", "owner/flowers"]) == 0
    before = dict(hub.repositories["owner/flowers"])
    save_tuned(place / "run" / "adapter", vp.LoRA(rank=2), seeded=True)
    with pytest.raises(SystemExit):
        main(["share", "run", "owner/flowers"])
    assert "error: owner/flowers holds an adapter already and is kept: --overwrite" in capsys.readouterr().err
    assert hub.repositories["owner/flowers"] == before
    assert main(["share", "run", "owner/flowers", "--overwrite"]) == 0
    assert hub.repositories["owner/flowers"] != before


def test_what_the_hub_refuses_is_one_line_without_the_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", wrong := "hf_" + "b" * 34)
    with pytest.raises(SystemExit) as stopped:
        main(["share", "run", "owner/flowers"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert (stopped.value.code, wrong in error) == (2, False)
    assert error.startswith(
        f"error: cannot share owner/flowers on {hub.address}: it takes no such upload from you: `hf"
    )
    assert hub.repositories == {}


def test_a_hub_that_cannot_be_reached_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SystemExit):
        main(["share", "run", "owner/flowers"])
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("error: cannot share owner/flowers on http://127.0.0.1:9")
    )


def test_the_card_says_what_the_row_says_and_nothing_in_it_breaks_out(place: Path) -> None:
    changed = {"metric": "top1", "top1": 81.25, "protocol": "best_test", "dataset": "photos", "task": "a|b\n# c"}
    changed |= {"command": "vision-peft train data=folder 'data.root=x\n```\n# breaks out'"}
    row = sample_row(**changed, tried={"recipe.lr": [0.001, 0.01]})
    (place / "run" / "result.json").write_text(json.dumps(row))
    assert main(["share", "run", "owner/flowers", "--dry-run", "out"]) == 0
    text = (place / "out" / "README.md").read_text("utf-8")
    _, head, body = text.split("---\n", 2)
    matter = yaml.safe_load(head)
    assert matter["model-index"][0]["results"][0]["metrics"][0]["value"] == 81.25
    assert matter["tags"] == ["vision_peft", "peft", "timm", "adaptformer"]
    assert "| data | test images | top-1 % |" in body
    for words in (
        "| 81.25 |",
        "test chose, so that the figure is too high",
        "recipe.lr out of 0.001, 0.01",
        "a, b, ü c",
    ):
        assert words in body
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings == ["# flowers", "## Use", "## Results", "## Details"]
    assert body.count("```") == 4


def test_the_card_of_another_task_has_its_figures_and_words(place: Path) -> None:
    task = {"kind": "regression", "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 2.0], "unit": "mm", "loss": "l1"}
    save_tuned(place / "numbers" / "adapter", seeded=True, task=task)
    changed = {"task_kind": "regression", "metric": "mae", "lower_is_better": True, "top1": None, "val_figure": 0.5}
    changed |= {"figures": {"mae": 0.8312, "r2": 0.51}, "figure_words": {"mae": "MAE, mm", "r2": "R2"}}
    (place / "numbers" / "result.json").write_text(json.dumps(sample_row(**changed)))
    assert main(["share", "numbers", "owner/numbers", "--dry-run", "out"]) == 0
    _, head, body = (place / "out" / "README.md").read_text("utf-8").split("---\n", 2)
    matter = yaml.safe_load(head)
    assert "pipeline_tag" not in matter
    assert matter["model-index"][0]["results"][0]["metrics"] == [{"type": "mae", "value": 0.831, "name": "MAE mm"}]
    for words in (
        "| MAE mm | R2 | MAE mm on val |",
        "| 0.831 | 0.510 | 0.500 |",
        "3 numbers, ",
        "a task of regression",
    ):
        assert words in body
    assert "top-1" not in body


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone", "owner/flowers"], "gone is not a folder: wanted a run folder or an adapter folder"),
        (["run", "flowers"], "flowers is not a name of the hub: wanted OWNER/NAME"),
        (["run", "owner/a/b"], "owner/a/b is not a name of the hub: wanted OWNER/NAME"),
        (
            ["run", "owner/flowers", "--dry-run", "there"],
            "already there: there/README.md; nothing was written, --overwrite",
        ),
        (["empty", "owner/flowers", "--dry-run", "out"], "empty holds neither an adapter"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir()
    (place / "there").mkdir()
    (place / "there" / "README.md").write_text("mine")
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["share", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert sorted(place.rglob("*")) == before
