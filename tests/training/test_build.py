"""What the loop gets: splits of a protocol and the way from an image to the model's input."""

from collections.abc import Callable

import pytest

from vision_peft.config.parse import Config
from vision_peft.data.datasets.folder import Folder
from vision_peft.training.build import create_model, input_settings, load_splits

Tiny = Callable[..., Config]


def test_a_search_trial_does_not_open_the_test_split(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    load, opened = Folder.load, []
    monkeypatch.setattr(Folder, "load", lambda self, split: opened.append(split) or load(self, split))
    assert list(load_splits(tiny("read_test=false"))) == opened == ["train", "val"]
    assert "test" in load_splits(tiny("read_test=false", "protocol=best_test"))
    assert "test" in load_splits(tiny())


@pytest.mark.parametrize(("given", "expected"), [("backbone", "bicubic"), ("bilinear", "bilinear")])
def test_the_recipe_may_name_the_interpolation_of_the_resize(tiny: Tiny, given: str, expected: str) -> None:
    config = tiny(f"recipe.interpolation={given}")
    assert input_settings(create_model(config.backbone, 0), config.recipe)["interpolation"] == expected
