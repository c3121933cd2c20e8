"""The normalisation layers of a timm vision transformer."""

from typing import Any

from timm.layers import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vision_peft.tuning.backbone import has_blocks
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of
from vision_peft.tuning.layers import outside_of_body
from vision_peft.tuning.needs import Need

# timm's classes of LayerNorm, GroupNorm and BatchNorm derive from torch's
NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d)


def makes_maps(norm: nn.Module) -> bool:
    """Tell whether the channels of what ``norm`` gives are its second axis (B C ...), not its last."""
    return isinstance(norm, nn.GroupNorm | _BatchNorm | RmsNorm2d | SimpleNorm2d) or "2d" in _timm_class(norm)


def _timm_class(norm: nn.Module) -> str:
    return next(cls.__name__ for cls in type(norm).__mro__ if cls.__module__.startswith(("timm.", "torch.")))


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """List every norm of the backbone that has parameters, in order of ``named_modules``; 25 on ViT-B.

    Those of the stem, of Swin's patch merging, inside attention or MLP, and of attention pooling count; the head's do
    not.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    outside = outside_of_body(model)
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, NORMS) and module.weight is not None and not f"{name}.".startswith(outside)
    ]


def check_norm_behind_blocks(model: Any) -> None:
    """Check that the final norm reads what the last block gives.

    Raises:
        ValueError: there is more between the two.
    """
    blocks(model)
    if not family_of(model).norm_follows_blocks:
        raise ValueError(
            f"between the last block of {type(model).__name__} and its final norm a class token joins, and the method "
            "works on the tokens of the blocks there: take a ViT whose class token passes all blocks"
        )


NORM_BEHIND_BLOCKS = Need("a final norm right behind the blocks", check_norm_behind_blocks)


def token_norm(model: Any) -> nn.Module:
    """Return what all tokens pass behind the last block: the final norm, or an Identity where it follows pooling."""
    return family_of(model).final_norms(model)[0]


def final_norm(model: Any) -> nn.Module:
    """Return the norm behind the last block: of all tokens, else of the pooled ones, else ``token_norm``."""
    found = family_of(model).final_norms(model)
    return next((norm for norm in found if not isinstance(norm, nn.Identity)), found[0])


def final_norms(model: Any) -> list[nn.Module]:
    """List the norms with parameters behind the last block: of all tokens, or of the pooled ones.

    Of a model without blocks: its last norm.
    """
    found = family_of(model).final_norms(model) if has_blocks(model) else norm_layers(model)[-1:]
    return [norm for norm in found if isinstance(norm, NORMS) and norm.weight is not None]
