"""Training from Python, as the command line does it.

    from vision_peft.training import compose_config, evaluate, train

    trained = train(compose_config(["method=lora", "data=digits", "recipe.epochs=2"]))
    print(trained.row.top1, trained.folder)
    logits = trained.model(images)
    print(evaluate(trained.folder, ["split=val"]).metrics.top1)

A config can also be built from its dataclasses:

    config = Config(
        backbone=BackboneConfig(name="vit_small_patch14_dinov2.lvd142m", img_size=56),
        methods=(vp.LoRA(rank=4),),
        data=vp.data.datasets.digits.Digits(),
        recipe=Recipe(epochs=2, lr=1e-3),
        output_dir="runs",
    )

`train` resumes the run of the same config in the same `output_dir`, and returns at once where it is finished. The names
are imported when they are first used, so that `import vision_peft.training` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision_peft.config.command_line import compose_config
    from vision_peft.config.parse import Config
    from vision_peft.config.schema import BackboneConfig, Distributed, Recipe
    from vision_peft.training.evaluate_saved import Evaluation
    from vision_peft.training.evaluate_saved import evaluate_saved as evaluate
    from vision_peft.training.trained import Trained, train

__all__ = [
    "BackboneConfig",
    "Config",
    "Distributed",
    "Evaluation",
    "Recipe",
    "Trained",
    "compose_config",
    "evaluate",
    "train",
]

_HOMES = {  # name -> module and its name there
    "compose_config": ("vision_peft.config.command_line", "compose_config"),
    "Config": ("vision_peft.config.parse", "Config"),
    "BackboneConfig": ("vision_peft.config.schema", "BackboneConfig"),
    "Distributed": ("vision_peft.config.schema", "Distributed"),
    "Recipe": ("vision_peft.config.schema", "Recipe"),
    "Evaluation": ("vision_peft.training.evaluate_saved", "Evaluation"),
    "evaluate": ("vision_peft.training.evaluate_saved", "evaluate_saved"),
    "Trained": ("vision_peft.training.trained", "Trained"),
    "train": ("vision_peft.training.trained", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}")
    module, there = _HOMES[name]
    return getattr(importlib.import_module(module), there)


def __dir__() -> list[str]:
    return __all__
