"""Early stopping ends a training as its last epoch does: what is left to do afterwards trains nothing again."""

from collections.abc import Callable
from typing import Any

import pytest
from support.killed import Killed

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.runs.checkpoint import find_newest_state
from vision_peft.training import fit as fit_module
from vision_peft.training import solve_head as solve_module
from vision_peft.training import trained as train_module
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
WAYS = {
    "fit": [],
    "solve_head": ["method=linear", "recipe=lbfgs", "recipe.weight_decay=1e-5"],
    "fit_heads": ["method=linear", "recipe.head_grid={lr: [1e-3, 1e-2]}"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_state_after_the_last_epoch_is_saved(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    def first_is_best(task: Any, entry: Any, best: Any) -> bool:
        return best is None

    def fail(*_: Any, **__: Any) -> Any:
        raise Killed

    for module in (fit_module, solve_module):
        monkeypatch.setattr(module, "is_better", first_is_best)
    config = tiny(*WAYS[way], "recipe.early_stopping=2", "recipe.epochs=9")
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", fail)
        with pytest.raises(Killed):
            train(config)
    newest = find_newest_state(run_folder(config) / "state")
    assert newest is not None
    monkeypatch.setattr(fit_module, "seed_everything", fail)
    monkeypatch.setattr(solve_module.Regression, "solve", fail)
    row = train(config).row
    assert (len(row.curve), row.chosen_epoch) == (3, 1)
    assert row.top1 is not None
