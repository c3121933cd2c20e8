"""The page about search names options that there are, and its lines work."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from support.families import randomise_tuned
from support.tiny_run import write_photos
from support.tiny_states import NAME, TINY

import vision_peft as vp
from vision_peft.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "retrieval.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_its_options_are_those_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["embed", "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z][a-z-]+", TEXT)) <= known


def test_its_commands_and_its_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY)
    randomise_tuned(vp.replace_head(vp.attach(model, vp.LoRA(rank=2)), "linear", 3))
    vp.save_adapter(model, "RUN", class_names=["7", "1", "0"])
    write_photos(Path(), {"query": 3, "gallery": 3, "photos": 4})
    for name in ("a.jpg", "b.jpg"):
        Path(name).write_bytes(Path("photos/red/0.png").read_bytes())
    (commands,), (python,) = (re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("bash", "python"))
    for line in commands.splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    exec(python, {"vp": vp})
