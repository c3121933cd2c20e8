"""Every command and every line of Python that the README shows works."""

import re
import shlex
from pathlib import Path

import pytest
from support.forked import run_tool

import vision_peft as vp
from vision_peft.config.commands import DOORS
from vision_peft.data import DATASETS

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]

# Run as they stand by .ci/run: they install.
INSTALLING = ["pip install -e . && python tools/train.py", 'pip install -e ".[test]" && pytest']

TINY = [
    "backbone=timm",
    "backbone.name=vit_tiny_patch16_224",
    "backbone.pretrained=false",
    "backbone.img_size=32",
    "backbone.kwargs={embed_dim: 32, depth: 2, num_heads: 2}",
    "recipe.epochs=1",
    "recipe.batch_size=200",
    "workers=0",
]


TRAINING = ("train", "tune", "benchmark")


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_method_and_every_data_set_is_named():
    sections = dict(section.split("\n", 1) for section in README.read_text(encoding="utf-8").split("\n## ")[1:])
    for title, names in (("Methods", vp.METHODS), ("Data", DATASETS)):
        assert set(names) - set(re.findall(r"`(\w+)`", sections[title])) == set(), title


def test_the_two_commands_that_install_are_those_of_ci(repository):
    script = (repository / ".ci" / "run").read_text(encoding="utf-8").replace("pip install -q", "pip install")
    assert [command for command in COMMANDS if command.startswith("pip")] == INSTALLING
    assert all(command in script for command in INSTALLING)


def test_python_of_the_readme_runs(tmp_path):
    script = tmp_path / "readme.py"
    for text in PYTHON:
        script.write_text(text, encoding="utf-8")
        done = run_tool(str(script), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_commands_of_the_readme_run_one_after_another(tmp_path):
    # As typed, but on a tiny random backbone and miniature data, so that the whole list takes a minute.
    _photos(tmp_path / "photos")
    _vtab(tmp_path / "vtab-1k" / "clothing")
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "pip":
            continue
        assert words[0] == "vision-peft"
        verb = words[1]
        if words[2].startswith("runs/digits/"):
            (folder,) = tmp_path.glob("runs/digits/vit_tiny*/adaptformer/*seed0")
            words[2] = str(folder)
        extra = TINY if verb in TRAINING and "--help" not in words else []
        extra = [*extra, "--updates=2", "--seconds=0.1"] if verb == "benchmark" else extra
        extra = [word for word in extra if not any(w.startswith(word.partition("=")[0] + "=") for w in words[2:])]
        words = [word.replace("backbone.img_size=112", "backbone.img_size=32") for word in words]
        done = run_tool(f"{DOORS.get(verb, verb.replace('-', '_'))}.py", tmp_path, *words[2:], *extra)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()
    assert {p.suffix for p in tmp_path.glob("accuracy.*")} == {".png", ".svg", ".pdf", ".csv"}


def _photos(root: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for i in range(20):
            image.new("RGB", (40, 30), (100 * label + i, 10 * i, 50)).save(root / name / f"{i}.png")


def _vtab(root: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    train, val, test = range(40), range(40, 50), range(50, 60)
    lists = {"train800": train, "val200": val, "train800val200": [*train, *val], "test": test}
    for split, shades in lists.items():
        (root / "images" / split).mkdir(parents=True)
        lines = []
        for i, shade in enumerate(shades):
            path = f"images/{split}/{i:06}.png"
            image.new("RGB", (32, 32), (shade * 4, 120 * (shade % 2), 0)).save(root / path)
            lines.append(f"{path} {shade % 2}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
