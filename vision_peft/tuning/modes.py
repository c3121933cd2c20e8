"""Which modules of a tuned model are in training mode: those that train, and of the frozen ones what the user wants."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vision_peft.tuning import graft
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.layers import outside_of_body


def set_modes(model: nn.Module, frozen: str) -> None:
    """Put everything that trains into training mode and all other modules into ``frozen`` mode (``eval``, ``train``).

    A part of the backbone all of whose parameters train (full fine-tuning, an unfrozen block) counts as trained. A
    BatchNorm of the backbone keeps its running statistics all the same: no adapter holds them, and the next method
    would start from others.
    """
    plain: Any = type(model)  # its own train and eval: an attribute of the model may stand before them
    plain.train(model, frozen == "train")
    if frozen != "train":
        _train_what_trains(model)
    outside = outside_of_body(model)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not f"{name}.".startswith(outside):
            module.training = False


def _train_what_trains(model: nn.Module) -> None:
    plain: Any = type(model)
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
