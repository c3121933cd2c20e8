"""An unknown key is looked for in every section, so that who types `lr` learns of `recipe.lr`."""

import pytest

from vision_peft.cli.main import main
from vision_peft.config.command_line import prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.key_hints import SYNONYMS, describe_dashed, suggest_keys
from vision_peft.config.sections import list_keys


def problem_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(list(overrides))
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=1e-3", "recipe.lr"),
        ("learning_rate=1e-3", "recipe.lr"),
        ("epochs=3", "recipe.epochs"),
        ("epoch=3", "recipe.epochs"),
        ("num-epochs=3", "recipe.epochs"),
        ("batch_size=8", "recipe.batch_size"),
        ("img_size=112", "backbone.img_size"),
        ("image_size=112", "backbone.img_size"),
        ("bottleneck=4", "method.bottleneck"),
        ("train_share=0.1", "data.train_share"),
        ("timeout_s=60", "distributed.timeout_s"),
        ("recipe.img_size=112", "backbone.img_size"),
        ("recipe.bottleneck=4", "method.bottleneck"),
        ("recipe.seed=1", "seed or data.seed"),
        ("recipe.learning_rate=1", "recipe.lr"),
        ("method.lr=1e-3", "recipe.lr"),
        ("data.batch_size=8", "recipe.batch_size"),
        ("model=vit_base_patch16_224", "backbone"),
        ("num_workers=2", "workers"),
        ("optim.lr=1e-3", "recipe.lr"),
        ("LR=1e-3", "recipe.lr"),
    ],
)
def test_a_key_of_another_section_is_named_with_its_section(typed: str, meant: str) -> None:
    key = typed.partition("=")[0].partition(".")[0] if typed.startswith("optim.") else typed.partition("=")[0]
    assert problem_of(typed) == f"unknown key {key}: did you mean {meant}?"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--method", "lora"], "--method lora: keys have no dashes, write method=lora"),
        (["--method=lora"], "--method=lora: keys have no dashes, write method=lora"),
        (["--lr", "1e-3"], "--lr 1e-3: keys have no dashes, write recipe.lr=1e-3"),
        (["--learning-rate", "1e-3"], "--learning-rate 1e-3: keys have no dashes, write recipe.lr=1e-3"),
        (["--data.root", "photos", "data=folder"], "--data.root photos: keys have no dashes, write data.root=photos"),
        (["--overwrite"], "--overwrite: keys have no dashes, write overwrite=VALUE"),
        (["method", "lora"], "method lora has no = (write key=value): write method=lora"),
        (["lora"], "lora has no = (write key=value): write method=lora"),
        (["recipe.lr"], "recipe.lr has no value (write key=value): write recipe.lr=VALUE"),
        (["recipe.lr", "seed=1"], "recipe.lr has no value (write key=value): write recipe.lr=VALUE"),
    ],
)
def test_a_key_in_the_form_of_other_tools_is_answered_with_ours(typed: list[str], said: str) -> None:
    assert problem_of(*typed) == said


@pytest.mark.parametrize("verb", ["train", "tune", "sweep", "compare", "check-data"])
def test_every_verb_that_takes_overrides_says_so(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--method", "lora", "data=digits"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --method lora: keys have no dashes, write method=lora\n"


def test_options_of_the_verb_and_their_beginnings_stay_options() -> None:
    sections = {"": ["seed", "seeds"]}
    assert describe_dashed(["--seeds", "0,1", "--seed=1"], ["--seeds"], sections) == []
    assert describe_dashed(["-m", "x"], [], sections) == []


def test_a_far_spelling_is_answered_with_the_keys_that_there_are() -> None:
    problem = problem_of("zzz_top=1")
    assert problem.startswith("unknown key zzz_top: config has seed, protocol, ")
    assert "did you mean" not in problem


def test_a_key_that_two_sections_have_is_named_in_both() -> None:
    assert suggest_keys("size", 1, {"": ["seed"], "a.": ["size"], "b.": ["size"]}) == ["a.size", "b.size"]


def test_the_section_that_was_typed_wins_over_another_with_as_near_a_key() -> None:
    assert suggest_keys("sead", 1, {"data.": ["seed"], "": ["seed"]}) == ["data.seed"]


def test_what_other_tools_call_a_key_is_a_key_here() -> None:
    here = {key for keys in list_keys({}, {}).values() for key in keys} | {"root"}
    assert set(SYNONYMS.values()) <= here
