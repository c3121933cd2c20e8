"""The flags are those of the installed Hydra; a folder of configs that cannot be read is an error."""

from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from vision_peft.config.command_line import read_command_line
from vision_peft.config.errors import ConfigError
from vision_peft.config.flags import parse_flags


def test_every_flag_of_hydra_is_known_with_as_many_values() -> None:
    for action in get_args_parser()._actions:
        for flag in action.option_strings:
            words = [flag, "job"] if action.nargs is None else [flag]
            if action.dest not in ("config_path", "experimental_rerun"):
                assert getattr(parse_flags([*words, "seed=1"]), action.dest) not in (None, False), flag


def test_overrides_stand_before_and_behind_flags() -> None:
    parsed = parse_flags(["method=lora", "-m", "seed=0,1", "--config-dir", "mine", "recipe.lr=1"])
    assert parsed.overrides == ["method=lora", "seed=0,1", "recipe.lr=1"]
    assert (parsed.multirun, parsed.config_dir) == (True, "mine")


@pytest.mark.parametrize(
    ("content", "words", "expected"),
    [
        (b"a: [1,\nb: }\n", ["data=mine"], r"invalid YAML: .*mine\.yaml: .*line 2"),
        (b"\xff\xfe\x00", ["data=mine"], r"mine\.yaml is not UTF-8 text"),
        (b"defaults:\n  - absent\n", ["data=mine"], r"Could not load 'data/absent'\.$"),
        (None, ["data=digits"], r"--config-dir=.* is not a folder"),
    ],
)
def test_a_damaged_folder_of_configs_is_one_clear_line(
    tmp_path: Path, content: bytes | None, words: list[str], expected: str
) -> None:
    if content is not None:
        (tmp_path / "own" / "data").mkdir(parents=True)
        (tmp_path / "own" / "data" / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as refused:
        read_command_line([f"--config-dir={tmp_path / 'own'}", *words])
    assert len(refused.value.problems) == 1
    assert "\n" not in str(refused.value)


def test_an_argument_that_is_not_utf_8_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^'output_dir=x\\udcff' is not UTF-8 text"):
        read_command_line(["output_dir=x\udcff", "seed=1"])


def test_an_unknown_flag_is_said_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(["-x"])
    assert " train: error: unrecognized arguments: -x" in capsys.readouterr().err.replace("\n", " ")
