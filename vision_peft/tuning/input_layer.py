"""The layer of a timm model that an image meets first."""

from typing import Any

from torch import nn

from vision_peft.tuning.needs import Need


def find_first_convolution(model: Any) -> nn.Conv2d | nn.Conv3d:
    """Find the convolution that reads the channels of an image.

    Raises:
        ValueError: patches are cut out and go through a linear layer, or each channel has a convolution of its own.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.groups == 1:
            return layer
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            break
    raise ValueError(
        f"{type(model).__name__} has no convolution that reads all channels of an image: take a model with one, or a "
        "method of the blocks alone"
    )


FIRST_CONVOLUTION = Need("a convolution that images enter", find_first_convolution)
