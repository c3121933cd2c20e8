"""Old spellings: one clear error where they are typed, read as what they mean in the folder of an old run."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vision_peft.config.command_line import prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import parse_config, to_dict
from vision_peft.config.renames import KEYS, VALUES, with_todays_names
from vision_peft.formats.input_record import _RENAMED
from vision_peft.runs.run_config import read_config
from vision_peft.search.trials import expand_grid


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "recipe.repeats=2",
            "recipe.repeats is now called recipe.repeated_augmentation: give recipe.repeated_augmentation=2",
        ),
        ("recipe.frozen=train", "recipe.frozen is now called recipe.frozen_mode: give recipe.frozen_mode=train"),
        (
            "recipe.grad_checkpointing=true",
            "recipe.grad_checkpointing is now called recipe.recompute: give recipe.recompute=block",
        ),
        ("recipe.resize=short_side", "recipe.resize=short_side is now called shortest: give recipe.resize=shortest"),
    ],
)
def test_an_old_spelling_is_one_error_that_names_the_new_one(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare([override])
    assert caught.value.problems == [expected]


def test_an_old_key_of_a_grid_names_the_new_one(tiny) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.frozen is now called recipe\.frozen_mode"):
        expand_grid(tiny("grid.recipe.frozen=[eval,train]"))


def test_every_new_name_is_one_of_today(tiny) -> None:
    raw = to_dict(tiny())
    for key in (*KEYS.values(), *VALUES):
        group, _, field = key.partition(".")
        assert field in raw[group], key
    for key, values in VALUES.items():
        for new in values.values():
            parse_config(with_todays_names({**raw, "recipe": {**raw["recipe"], key.partition(".")[2]: new}}))


def test_the_config_of_an_old_run_reads_as_what_it_meant(tiny, tmp_path: Path) -> None:
    config = tiny(
        "recipe.resize=shortest", "recipe.repeated_augmentation=2", "recipe.frozen_mode=train", "recipe.recompute=block"
    )
    raw = to_dict(config)
    recipe = raw["recipe"]
    recipe["repeats"], recipe["frozen"] = recipe.pop("repeated_augmentation"), recipe.pop("frozen_mode")
    recipe["resize"], recipe["grad_checkpointing"] = "short_side", recipe.pop("recompute") == "block"
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(raw)))
    assert parse_config(read_config(tmp_path)) == config
    recipe["grad_checkpointing"] = False
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(raw)))
    assert parse_config(read_config(tmp_path)).recipe.recompute == "none"


def test_an_adapter_of_an_earlier_version_is_read_with_the_same_words() -> None:
    assert {key.partition(".")[2]: values for key, values in VALUES.items()} == _RENAMED
