"""The order of choices, and the smallest one in a refusal."""

import pytest

from vision_peft.config.schema import RECOMPUTES, Recipe
from vision_peft.memory.choose import DoesNotFit, choose, list_choices
from vision_peft.memory.predict import Choice, Prediction


def written(choices: list[Choice]) -> list[tuple[int, str]]:
    return [(choice.accumulate, choice.recompute) for choice in choices]


def test_parts_come_first_where_they_change_nothing_and_small_ones_last() -> None:
    found = written(list(list_choices(Recipe(batch_size=32), ("none", "mlp"), ["fp32"], 1, draws=False)))
    assert found[:6] == [(1, "none"), (2, "none"), (4, "none"), (1, "mlp"), (2, "mlp"), (4, "mlp")]
    assert found[6:] == [(8, "none"), (16, "none"), (32, "none"), (8, "mlp"), (16, "mlp"), (32, "mlp")]


def test_recomputing_comes_first_where_parts_would_draw_other_numbers() -> None:
    found = written(list(list_choices(Recipe(batch_size=32), RECOMPUTES, ["fp32"], 1, draws=True)))
    assert found[:5] == [(1, "none"), (1, "mlp"), (1, "attention"), (1, "block"), (2, "none")]
    assert len(found) == len(set(found)) == 4 * 6


def test_parts_keep_to_the_recipe_and_the_processes() -> None:
    mixed = Recipe(batch_size=24, accumulate=2, mixup=0.5)
    assert [c.accumulate for c in list_choices(mixed, ("none",), ["fp32"], 1, draws=False)] == [2, 3, 4, 6, 12]
    assert [c.accumulate for c in list_choices(mixed, ("none",), ["fp32"], 2, draws=False)] == [2, 3, 6]
    repeated = Recipe(batch_size=24, repeated_augmentation=4)
    assert [c.accumulate for c in list_choices(repeated, ("none",), ["fp32"], 1, draws=False)] == [1, 2, 3, 6]
    assert written(list(list_choices(Recipe(batch_size=3), ("none",), ["fp32"], 1, draws=False)))[0] == (1, "none")


def test_another_precision_comes_after_everything_else() -> None:
    found = list(list_choices(Recipe(batch_size=2), ("none", "mlp"), ["fp32", "bf16"], 1, draws=False))
    assert [choice.precision for choice in found] == ["fp32"] * 4 + ["bf16"] * 4


def predict(choice: Choice) -> Prediction:
    """400 bytes of model, and 100 an item, a third less where the MLP is recomputed."""
    share = {"none": 1.0, "mlp": 0.6}[choice.recompute] * {"fp32": 1.0, "bf16": 0.5}[choice.precision]
    return Prediction(400, 0, 100 * 8 / choice.accumulate * share, 50, 0)


CHOICES = list(list_choices(Recipe(batch_size=8), ("none", "mlp"), ["fp32", "bf16"], 1, draws=False))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1200, Choice(1, "none", "fp32")),
        (1199, Choice(1, "mlp", "fp32")),
        (800, Choice(2, "none", "fp32")),
        (460, Choice(8, "mlp", "fp32")),
        (450, Choice(8, "none", "bf16")),
    ],
)
def test_the_first_that_fits_is_chosen(limit: int, expected: Choice) -> None:
    assert choose(limit, CHOICES, predict)[0] == expected


def test_what_does_not_work_is_passed_over() -> None:
    tried: list[Choice] = []
    choice, _ = choose(2000, CHOICES, predict, lambda choice: bool(tried.append(choice)) or choice.accumulate >= 4)
    assert choice == Choice(4, "none", "fp32")
    assert tried == [Choice(1, "none", "fp32"), Choice(1, "mlp", "fp32"), Choice(2, "none", "fp32"), choice]


def test_a_limit_that_nothing_fits_names_the_smallest() -> None:
    smallest = r"smallest that works here is about 0 MB \(a batch in 8 parts, recipe.recompute=none, bf16\)"
    with pytest.raises(DoesNotFit, match=smallest):
        choose(449, CHOICES, predict)


def test_training_and_evaluation_take_turns() -> None:
    assert Prediction(400, 10, 100, 50, 5).total == 515
    assert Prediction(400, 10, 100, 500, 5).total == 915
    assert str(Prediction(4e8, 1e6, 1e6, 2e9, 0)).startswith("2.4 GB (process and model 400 MB, ")
