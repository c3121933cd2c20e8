"""A state holds what trains and its optimiser, never the frozen backbone."""

from collections.abc import Callable

import torch

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.training.trained import train


def test_the_state_of_adaptformer_on_vit_base_stays_below_20_mb(tiny: Callable[..., Config]) -> None:
    size = ["backbone.name=vit_base_patch16_224", "~backbone.kwargs", "recipe.epochs=1", "recipe.batch_size=24"]
    config = tiny(*size, "read_test=false")
    row = train(config).row
    assert row.params_backbone > 85e6
    assert row.params_trained == 1_189_632
    (file,) = (run_folder(config) / "state").glob("step_1/state.pt")
    assert 4 * 4 * row.params_trained < file.stat().st_size < 20e6  # tuned, two moments, the best so far; fp32
    state = torch.load(file, weights_only=True)
    numbers = sum(tensor.numel() for tensor in state["tuned"].values())
    assert numbers == row.params_trained + row.params_head
