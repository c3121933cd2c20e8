"""The shortcut by which most tests come to a config gives what Hydra composes."""

from pathlib import Path

import pytest
from support.tiny_run import TINY, tiny_config

from vision_peft.config.command_line import compose_config
from vision_peft.config.errors import ConfigError


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("seed=3", "recipe.lr=1e-3", "backbone.num_frames=2", "recipe.epochs=5", "save_every=null", "requeue_file=1e3"),
        ("method=lora", "method.rank=2", "recipe.lr=2", "backbone.kwargs.num_heads=2", "recipe.lr=0.5", "tf32=false"),
        ("data=moving_digits", "recipe=lbfgs", "method=linear", "backbone.num_frames=2", "device=cpu"),
        ("data.val=07", "data.classes=null", "backbone.name=1", "trackers=none"),
        ("method.bottelneck=8", "sed=1", "recipe.epochs=five", "recipe.optimizer.name=adam", "backbone.imgsize=3"),
        ("method=lora", "+method_2=vpt"),
        ("recipe.head_grid={lr: [1e-3]}",),
        ("experiment=vpt_vtab",),
        ("method=lroa",),
    ],
)
def test_a_tiny_config_is_the_composed_one(overrides: tuple[str, ...], tmp_path: Path) -> None:
    def composed(*words: str) -> object:
        where = ["data=folder", f"data.root={tmp_path}", f"output_dir={tmp_path / 'runs'}"]
        return compose_config([*TINY, *where, *words])

    def answer(make, *given) -> object:
        try:
            return make(*given)
        except ConfigError as error:
            return error.problems

    expected = answer(composed, *overrides)
    for _ in range(2):  # the second time from what was kept
        assert answer(tiny_config, tmp_path, tmp_path / "runs", *overrides) == expected
