"""Which modules of a tuned model are in training mode: those that train, and of the frozen ones what the user wants."""

from typing import Any

from torch import nn

from vision_peft.tuning import graft
from vision_peft.tuning.backbone import classifier_names


def set_modes(model: nn.Module, frozen: str) -> None:
    """Put everything that trains into training mode and all other modules into ``frozen`` mode (``eval``, ``train``).

    A part of the backbone all of whose parameters train (full fine-tuning, an unfrozen block) counts as trained.
    """
    plain: Any = type(model)  # its own train and eval: an attribute of the model may stand before them
    plain.train(model, frozen == "train")
    if frozen == "train":
        return
    for name in classifier_names(model):
        model.get_submodule(name).train()
    for _, module in graft.grafts(model):
        for _, child in graft.children(module):
            if isinstance(child, nn.Module):
                child.train()
    trained = set(classifier_names(model))
    for name, module in model.named_modules():
        if any(name.startswith(f"{parent}.") for parent in trained) or name in trained:
            continue
        trains = (parameter.requires_grad for parameter in module.parameters())
        if next(trains, False) and all(trains):
            plain.train(model) if module is model else module.train()
            trained.add(name)
            if not name:
                break
