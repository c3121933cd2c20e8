"""The linear and convolutional layers of a timm model, whatever its architecture, and how to run one of them anew."""

from typing import Any

from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from vision_peft.tuning.families import family_of
from vision_peft.tuning.graft import Graft, children, grafts
from vision_peft.tuning.needs import Need


def body_layers(model: nn.Module) -> dict[str, Any]:
    """Name every ``nn.Linear`` and every ungrouped ``nn.Conv2d`` of the backbone, in order of ``named_modules``.

    The head's are left out, and so are those that grafts added. Grouped convolutions, most of them depthwise, have one
    small matrix a group, of a rank that is low already. What torch's own attention reads without a call is left out.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    outside = outside_of_body(model)
    return {
        name: module
        for name, module in model.named_modules()
        if _is_layer(module) and not f"{name}.".startswith(outside)
    }


def outside_of_body(model: nn.Module) -> tuple[str, ...]:
    """Tell how names begin of what belongs to a head or a graft, each with a dot behind it."""
    found = [f"{name}." for name in family_of(model).classifier_names(model)]
    for name, module in grafts(model):
        found += [f"{name}.{child}.".removeprefix(".") for child, _ in children(module)]
    return tuple(found)


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


def convolve(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps ``x`` (B in H W) with ``weight`` (any, in, k, k) as ``layer`` does with its own; without a bias.

    Of clips x is (B in T H W) and the layer a 3-D convolution.
    """
    conv: Any = layer
    if isinstance(layer, Conv2dSame) or getattr(layer, "same_pad", False):  # padded by the size of the map
        x = pad_same(x, conv.kernel_size, conv.stride, conv.dilation)
    plain = nn.Conv3d if isinstance(layer, nn.Conv3d) else nn.Conv2d
    return plain._conv_forward(conv, x, weight, None)


def check_plain(layer: nn.Module) -> None:
    """Check that ``layer`` uses its weight as it is, so that an update of it can be added.

    Raises:
        ValueError: it standardises its weight in every forward.
    """
    if isinstance(layer, StdConv2d | StdConv2dSame | ScaledStdConv2d | ScaledStdConv2dSame):
        plain = next(cls for cls in type(layer).__mro__ if not issubclass(cls, Graft))
        raise ValueError(
            f"{plain.__name__} makes another weight out of its own in every forward, and an update of it has nowhere "
            "to go"
        )


def check_plain_layers(model: nn.Module) -> None:
    """Check that every layer of the body uses its weight as it is.

    Raises:
        ValueError: as of ``check_plain``.
    """
    for layer in body_layers(model).values():
        check_plain(layer)


PLAIN_LAYERS = Need("layers that use their weights as they are", check_plain_layers)
