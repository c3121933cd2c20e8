"""What a method recommends is used where the user gives nothing, and said."""

import pytest

import vision_peft as vp
from vision_peft.config.command_line import compose_config
from vision_peft.config.recommended import RECOMMENDED, describe_recipe, recommend_recipe

ADAPTFORMER, LORA, FULL = (cls.recommended["lr"] for cls in (vp.AdaptFormer, vp.LoRA, vp.FullFineTune))


@pytest.mark.parametrize("name", list(vp.METHODS))
def test_a_method_recommends_a_rate_and_keys_of_the_recipe_only(name: str) -> None:
    assert {"lr"} <= set(vp.METHODS[name].recommended) <= set(RECOMMENDED)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (ADAPTFORMER, 5)),
        (["method=linear"], (1e-2, 100)),
        (["method=linear", "recipe.epochs=3"], (1e-2, 3)),
        (["method=lora"], (LORA, 5)),
        (["method=lora", "recipe.lr=null"], (LORA, 5)),
        (["method=lora", "recipe.lr=2e-3"], (2e-3, 5)),  # the default of the dataclass is a value like any other
        (["method=lora", "+method_2=p_tuning_v2"], (LORA, 5)),
        (["method=full", "+method_2=p_tuning"], (FULL, 5)),
        (["experiment=vpt_vtab", "data.task=dtd"], (1.25, 100)),
    ],
)
def test_what_the_user_leaves_out_is_as_the_methods_recommend(
    overrides: list[str], expected: tuple[float, int]
) -> None:
    recipe = compose_config(overrides).recipe
    assert (recipe.lr, recipe.epochs) == expected


def test_of_several_methods_the_lowest_rate_and_the_most_epochs_are_taken() -> None:
    assert recommend_recipe([vp.LoRA(), vp.LinearProbe(), vp.PTuningV2()]) == {"lr": LORA, "epochs": 100}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=lora"], f"lr {LORA:g}, 5 epochs, weight decay 0.0001 (lr as recommended for lora)"),
        (["method=lora", "recipe.lr=1"], "lr 1, 5 epochs, weight decay 0.0001"),
        (["method=linear"], "lr 0.01, 100 epochs, weight decay 0.0001 (epochs and lr as recommended for linear)"),
        (["method=linear", "recipe.epochs=6"], "lr 0.01, 6 epochs, weight decay 0.0001 (lr as recommended for linear)"),
    ],
)
def test_the_log_says_what_of_the_recipe_is_recommended(overrides: list[str], expected: str) -> None:
    config = compose_config(overrides)
    assert describe_recipe(config.recipe, config.methods) == expected
