"""Paths arrive as typed, in every verb, and come back in the commands that are printed."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from support.tiny_run import TINY

import vision_peft as vp
from vision_peft.cli.main import main
from vision_peft.config.command_line import compose_config, read_command_line
from vision_peft.config.commands import door, through_the_door, with_values
from vision_peft.config.data_overrides import read_overrides
from vision_peft.config.errors import ConfigError
from vision_peft.config.registered import REGISTERED
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings
from vision_peft.config.typed_values import list_text_fields, quote_values, unquote_value
from vision_peft.data import DATASETS
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
    "-x",
    "--multirun",
    "$HOME",
    "a$b{c}",
    "{}",
    "\\",
    "a\\",
    "\\'",
    "'",
    '"',
    "a\nb",
    "a\tb",
    " a ",
    "+a",
    "~a",
    "a=",
    "=",
    "0x1f",
    "007",
    "1_000",
    "null ",
    "nan",
    "a,",
    ",",
    "choice(a,b)",
    "@a",
    "a: b",
    "%s",
    "привет мир",
    "नमस्ते",
    "👩\u200d🚀",
    "\x1b[31m",
]


def list_text_keys() -> list[str]:
    """Every key of every schema whose value is text: those of the settings, and of each method and dataset."""
    parts = {"": Settings, "backbone": BackboneConfig, "recipe": Recipe, "distributed": Distributed}
    keys = [f"{prefix}.{name}".lstrip(".") for prefix, part in parts.items() for name in list_text_fields(part)]
    for group, kinds in (("method", vp.METHODS), ("data", DATASETS)):
        keys += [f"{group}={name} {group}.{field}" for name, kind in kinds.items() for field in list_text_fields(kind)]
    return [key for key in keys if key not in LISTS_ELSEWHERE]


# Text here, a list of text in another method: Hydra reads it, as it reads what is no text.
LISTS_ELSEWHERE = ["method=p_tuning method.positions"]


@pytest.mark.parametrize("name", [*NAMES, "/a b/c=d,[e]"])
def test_a_path_arrives_as_it_was_typed(name: str) -> None:
    overrides = ["data=list", f"data.root={name}", f"data.train={name}", f"output_dir={name}"]
    config = compose_config([*overrides, f"backbone.checkpoint={name}"])
    raw = vars(config.data)
    assert (raw["root"], raw["train"], config.output_dir, config.backbone.checkpoint) == (name,) * 4
    assert read_overrides([f"data.root={name}"])["data"] == {"root": name}
    (again,) = with_values([], {"data.root": name})
    assert read_overrides([again])["data"] == {"root": name}


@pytest.mark.parametrize("words", list_text_keys())
def test_every_text_arrives_as_it_was_typed(words: str) -> None:
    *choice, key = words.split()
    for name in NAMES:
        typed = [*choice, f"{key}={name}"]
        assert parse(typed)[key] == name
        (again,) = with_values([], {key: name})
        assert parse([*choice, again])[key] == name
        shown = unquote_value(quote_values([typed[-1]])[0])
        assert quote_values([shown]) == quote_values([typed[-1]])


def parse(words: list[str]) -> dict[str, Any]:
    """Read overrides as Hydra does once they are quoted; to compose each of a thousand would take minutes."""
    parser, found = OverridesParser.create(), {}
    for override in map(parser.parse_override, quote_values(words)):
        assert not override.is_sweep_override()
        found[override.key_or_group] = override.value()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_task_and_a_name_of_weights_arrive_in_the_whole_config(name: str) -> None:
    (run,) = read_command_line(["data=vtab1k", f"data.task={name}", f"backbone.name={name}"]).runs
    assert run.raw["data"]["task"] == run.raw["backbone"]["name"] == name
    assert read_overrides([f"split={name}", f"device={name}"]) == {"split": name, "device": name}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a,b", ["a", "b"]),
        ("a b,c=d", ["a b", "c=d"]),
        ("[x],{y}", ["[x]", "{y}"]),
        ("'a,b',c", ["a,b", "c"]),
        ('c,"a,b"', ["c", "a,b"]),
        ("it's,b", ["it's", "b"]),
        ("'a,b", ["'a", "b"]),
        ("choice(a,b)", ["a", "b"]),
        ("1,2", ["1", "2"]),
    ],
)
def test_commas_separate_the_texts_of_a_sweep_unless_they_stand_in_quotes(typed: str, expected: list[str]) -> None:
    runs = read_command_line(["-m", "data=vtab1k", f"data.task={typed}"]).runs
    assert [run.raw["data"]["task"] for run in runs] == expected


def test_without_m_a_comma_is_a_letter_of_a_text_and_separates_numbers() -> None:
    (run,) = read_command_line(["data=vtab1k", "data.task=a,b"]).runs
    assert run.raw["data"]["task"] == "a,b"
    with pytest.raises(ConfigError, match="lists several values: give one of them"):
        read_command_line(["seed=1,2"])


def test_text_of_a_class_of_ones_own_arrives_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Own:
        label: str = "x"

    monkeypatch.setitem(REGISTERED["data"], "own", Own)
    assert quote_values(["data.label=a=b", "data.other=a"]) == ["data.label='a=b'", "data.other=a"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.root=null", "data.root=null"),
        ("data.root='a b'", "data.root='a b'"),
        ("data.root=${oc.env:HOME}/x", "data.root=${oc.env:HOME}/x"),
        ("data.root=photos", "data.root=photos"),
        ("recipe.betas=[0.9,0.95]", "recipe.betas=[0.9,0.95]"),
        ("data.task='a,b'", "data.task='a,b'"),
        ("recipe.class_weights=[1,2]", "recipe.class_weights=[1,2]"),
        ("workers=auto", "workers=auto"),
    ],
)
def test_what_hydra_reads_by_itself_stays_as_it_is(typed: str, expected: str) -> None:
    assert quote_values([typed]) == [expected]


def test_commas_separate_the_paths_of_a_sweep() -> None:
    runs = read_command_line(["-m", "data=folder", "data.root=a,b"]).runs
    assert [run.raw["data"]["root"] for run in runs] == ["a", "b"]
    (run,) = read_command_line(["-m", "data=folder", "data.root='a,b'", "seed=1"]).runs
    assert run.raw["data"]["root"] == "a,b"


def test_a_path_is_printed_as_it_would_be_typed() -> None:
    assert [unquote_value(quote_values([f"data.root={name}"])[0]) for name in ("a b", "photos")] == [
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
    assert [words[:2] for words in commands] == [["vision-peft", verb] for verb in ("inspect", "report", "plot")]
    for words in commands:
        run(*words[1:])
    (row,) = find_rows([tmp_path / "my runs=1"])
    assert "is finished" in run(*shlex.split(row.command)[1:])
    tuned = run("tune", *tiny, *data, "grid.recipe.lr=[1e-3,1e-2]")
    (line,) = (line for line in tuned.splitlines() if line.startswith("  vision-peft train "))
    run(*shlex.split(line)[1:])
