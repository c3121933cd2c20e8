"""The page about trained models names options that there are, and its lines work."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.families import randomise_tuned
from support.tiny_states import NAME, TINY

import vision_peft as vp
from vision_peft.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predict.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY)
    randomise_tuned(vp.replace_head(vp.attach(model, vp.LoRA(rank=2)), "linear", 3))
    vp.save_adapter(model, "RUN", class_names=["7", "1", "0"])
    Path("photos").mkdir()
    for name in ("photos/0.png", "photo.jpg", "a.jpg", "b.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(name)
    Path("test.txt").write_text("a.jpg 7\n")
    return tmp_path


def test_its_options_are_those_of_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("predict", "inspect"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z][a-z-]+", TEXT)) <= known


def test_its_commands_and_its_python_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (commands,), (python,) = (re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("bash", "python"))
    for line in commands.splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    names: dict[str, Any] = {"vp": vp, "image": Image.open("a.jpg"), "array": np.zeros((9, 9, 3), np.uint8)}
    exec(python.replace("runs/digits/...", "RUN"), names)
    assert capsys.readouterr().out
