"""Paths arrive as typed, in every verb, and come back in the commands that are printed."""

import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.tiny_run import TINY

from vision_peft.cli.main import main
from vision_peft.config.command_line import compose_config, read_command_line
from vision_peft.config.commands import door, through_the_door, with_values
from vision_peft.config.data_overrides import read_overrides
from vision_peft.config.typed_paths import quote_paths, unquote_path
from vision_peft.results.find_rows import find_rows

NAMES = [
    "a b",
    "c=d",
    "e,f",
    "[g]",
    "{h: i}",
    "#j",
    "it's",
    '"k"l',
    "é ß 山",
    "1e3",
    "true",
    "~",
    "a\\b",
    "(m)",
    "x:y",
    "*",
]


@pytest.mark.parametrize("name", [*NAMES, "/a b/c=d,[e]"])
def test_a_path_arrives_as_it_was_typed(name: str) -> None:
    overrides = ["data=list", f"data.root={name}", f"data.train={name}", f"output_dir={name}"]
    config = compose_config([*overrides, f"backbone.checkpoint={name}"])
    raw = vars(config.data)
    assert (raw["root"], raw["train"], config.output_dir, config.backbone.checkpoint) == (name,) * 4
    assert read_overrides([f"data.root={name}"])["data"] == {"root": name}
    (again,) = with_values([], {"data.root": name})
    assert read_overrides([again])["data"] == {"root": name}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.root=null", "data.root=null"),
        ("data.root='a b'", "data.root='a b'"),
        ("data.root=${oc.env:HOME}/x", "data.root=${oc.env:HOME}/x"),
        ("data.root=photos", "data.root=photos"),
        ("recipe.betas=[0.9,0.95]", "recipe.betas=[0.9,0.95]"),
        ("data.task=a,b", "data.task=a,b"),
    ],
)
def test_what_hydra_reads_by_itself_stays_as_it_is(typed: str, expected: str) -> None:
    assert quote_paths([typed]) == [expected]


def test_commas_separate_the_paths_of_a_sweep() -> None:
    runs = read_command_line(["-m", "data=folder", "data.root=a,b"]).runs
    assert [run.raw["data"]["root"] for run in runs] == ["a", "b"]
    (run,) = read_command_line(["-m", "data=folder", "data.root='a,b'", "seed=1"]).runs
    assert run.raw["data"]["root"] == "a,b"


def test_a_path_is_printed_as_it_would_be_typed() -> None:
    assert [unquote_path(quote_paths([f"data.root={name}"])[0]) for name in ("a b", "photos")] == [
        "data.root=a b",
        "data.root=photos",
    ]


def test_commands_name_the_door_that_the_user_came_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vision-peft"])
    assert door("check-data") == ["vision-peft", "check-data"]
    monkeypatch.setattr(sys, "argv", ["../tools/train.py"])
    assert door("check-data") == ["python", "../tools/check_data.py"]
    assert through_the_door("see vision-peft check-data data=x") == "see python ../tools/check_data.py data=x"


def test_every_verb_reads_a_folder_with_an_odd_name_and_the_printed_commands_do_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vision-peft"])
    root = tmp_path / "a b" / "c=d,[e]#é"
    for split in ("train", "val", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = Image.new("RGB", (9, 9), (100 * label, 9 * number, 50 + 9 * len(split)))
                pixels.save(root / split / name / f"{number}.png")

    def run(*words: str) -> str:
        assert main(words) == 0
        return capsys.readouterr().out

    data = ["data=folder", f"data.root={root}"]
    tiny = [*TINY, "recipe.epochs=1", "recipe.batch_size=4", "output_dir=my runs=1"]
    checked = run("check-data", *data)
    assert shlex.split(checked.splitlines()[-1]) == ["vision-peft", "train", *data]
    commands = [shlex.split(line) for line in run("train", *tiny, *data).partition("\nnext:\n")[2].splitlines()]
    assert [words[:2] for words in commands] == [["vision-peft", verb] for verb in ("evaluate", "report", "plot")]
    for words in commands:
        run(*words[1:])
    (row,) = find_rows([tmp_path / "my runs=1"])
    assert "is finished" in run(*shlex.split(row.command)[1:])
    tuned = run("tune", *tiny, *data, "grid.recipe.lr=[1e-3,1e-2]")
    (line,) = (line for line in tuned.splitlines() if line.startswith("  vision-peft train "))
    run(*shlex.split(line)[1:])
