"""An unknown key is looked for in every section, so that who types `lr` learns of `recipe.lr`."""

import pytest

from vision_peft.cli.main import main
from vision_peft.config.command_line import prepare
from vision_peft.config.errors import ConfigError
from vision_peft.config.key_hints import describe_dashed, suggest_keys
from vision_peft.config.sections import list_keys
from vision_peft.config.synonyms import ANSWERS, SYNONYMS


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
    chosen = {"method": {"name": "lora"}, "data": {"name": "folder"}}
    here = {key for keys in list_keys(chosen, {}).values() for key in keys}
    assert set(SYNONYMS.values()) <= here | {"tokens", "bottleneck"}  # of VPT and AdaptFormer
    assert not {*SYNONYMS, *ANSWERS} & here


@pytest.mark.parametrize("key", ANSWERS)
def test_what_is_no_key_here_is_answered_with_what_does_it(key: str) -> None:
    assert problem_of(f"{key}=1") == f"unknown key {key}: {ANSWERS[key]}"
    assert problem_of(f"--{key.replace('_', '-')}", "1") == f"--{key.replace('_', '-')}: {ANSWERS[key]}"


def test_it_is_answered_in_a_section_too() -> None:
    assert problem_of("data.num_classes=7") == f"unknown key data.num_classes: {ANSWERS['num_classes']}"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["method=lora", "r=4"], "method.rank"),
        (["method=lora", "method.lora_alpha=4"], "method.alpha"),
        (["method=vpt", "num_tokens=4"], "method.tokens"),
        (["data=folder", "data.root=x", "val_split=0.2"], "data.val_fraction"),
        (["weights=a.pt"], "backbone.checkpoint"),
        (["wandb=true"], "trackers"),
    ],
)
def test_words_of_other_tools_are_keys_of_what_is_chosen(typed: list[str], meant: str) -> None:
    assert problem_of(*typed) == f"unknown key {typed[-1].partition('=')[0]}: did you mean {meant}?"


@pytest.mark.parametrize(
    ("typed", "lacking", "method"),
    [("reduction=4", "reduction", "lst"), ("lora_alpha=4", "alpha", "lora"), ("RANK=4", "rank", "lora")],
)
def test_a_key_of_methods_that_were_not_chosen_is_answered_with_them(typed: str, lacking: str, method: str) -> None:
    said, _, methods = problem_of(typed).partition("; those that have it are ")
    assert said == f"unknown key {typed.partition('=')[0]}: the chosen method has no {lacking}"
    assert method in methods.split(", ")
    assert "adaptformer" not in methods.split(", ")


def test_in_the_section_of_the_method_its_own_keys_are_listed_too() -> None:
    said, *_, listed = problem_of("method=lora", "method.reduction=4").split("; ")
    assert said == "unknown key method.reduction: the chosen method has no reduction"
    assert listed.startswith("method has rank, alpha, ")
