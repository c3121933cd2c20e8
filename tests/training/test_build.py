"""What the loop gets: splits of a protocol and the way from an image to the model's input."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vision_peft.config.parse import Config
from vision_peft.config.schema import Recipe
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.training import trained as train_module
from vision_peft.training.build import attach_methods, check_shares, create_model, input_settings, load_splits

Tiny = Callable[..., Config]


def test_an_attentive_head_stands_before_methods_ask_what_it_reads(tiny: Tiny) -> None:
    frames = ["backbone.num_frames=2", "method=st_adapter", "method.width=4"]
    for settings, adapted in ((["recipe.head=attentive", "recipe.head_options.queries=4"], 2), ([], 1)):
        config = tiny(*frames, *settings)
        model = create_model(config.backbone, 0)
        attach_methods(model, config, SimpleNamespace(classes=["a", "b"]), 2, torch.device("cpu"))  # type: ignore[arg-type]
        blocks = {name.split(".")[1] for name, _ in model.named_parameters() if "st_adapter" in name}
        assert len(blocks) == adapted


def test_a_search_trial_does_not_open_the_test_split(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    take, opened = SplitItems.take, []
    monkeypatch.setattr(SplitItems, "take", lambda self, split: opened.append(split) or take(self, split))
    assert list(load_splits(tiny("read_test=false"))) == opened == ["train", "val"]
    assert "test" in load_splits(tiny("read_test=false", "protocol=best_test"))
    assert "test" in load_splits(tiny())


@pytest.mark.parametrize(("given", "expected"), [("backbone", "bicubic"), ("bilinear", "bilinear")])
def test_the_recipe_may_name_the_interpolation_of_the_resize(tiny: Tiny, given: str, expected: str) -> None:
    config = tiny(f"recipe.interpolation={given}")
    assert input_settings(create_model(config.backbone, 0), config.recipe)["interpolation"] == expected


@pytest.mark.parametrize(
    ("recipe", "processes", "samples", "message"),
    [
        (Recipe(batch_size=6, mixup=0.8), 2, 60, r"6 in 2 parts .* take a multiple of 4"),
        (Recipe(batch_size=2, cutmix=1.0), 2, 60, r"2 in 2 parts .* take a multiple of 4"),
        (Recipe(batch_size=8, mixup=0.8, accumulate=2), 4, 60, r"8 in 8 parts .* take a multiple of 16"),
        (Recipe(batch_size=8, mixup=0.8), 2, 3, "3 of them are too few for 2 processes"),
    ],
)
def test_a_share_in_which_images_cannot_be_paired_is_refused(
    recipe: Recipe, processes: int, samples: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_shares(recipe, processes, samples)


def test_shares_that_can_be_paired_and_recipes_that_pair_nothing_pass() -> None:
    check_shares(Recipe(batch_size=8, mixup=0.8, accumulate=2), 2, 60)
    check_shares(Recipe(batch_size=6), 2, 3)


@pytest.mark.parametrize("protocol", ["val_select", "val_select_retrain"])
def test_a_run_that_has_ended_keeps_no_model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    models: list[weakref.ref] = []
    real = train_module.attach_methods

    def attach(*arguments: Any) -> Any:
        models.append(weakref.ref(model := real(*arguments)))
        return model

    monkeypatch.setattr(train_module, "attach_methods", attach)
    usual = gc.get_threshold()
    gc.set_threshold(0)  # Python looks for what refers to itself only now and then; here never
    try:
        train_module.train(tiny("recipe.epochs=1", f"protocol={protocol}"))
        alive = [model() is not None for model in models]
    finally:
        gc.set_threshold(*usual)
    assert alive == [False] * {"val_select": 1, "val_select_retrain": 2}[protocol]
