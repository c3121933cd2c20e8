"""The normalisation layers of a timm vision transformer."""

from typing import Any

from timm.layers import RmsNorm
from torch import nn

from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of

NORMS = (nn.LayerNorm, RmsNorm)  # timm's LayerNorm classes derive from torch's


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """List every norm of the backbone that has parameters, in order of ``named_modules``; 25 on ViT-B.

    Those of the stem, of Swin's patch merging, inside attention or MLP, and of attention pooling count; the head's do
    not.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    blocks(model)
    heads = tuple(f"{name}." for name in classifier_names(model))
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, NORMS) and module.weight is not None and not f"{name}.".startswith(heads)
    ]


def token_norm(model: Any) -> nn.Module:
    """Return what all tokens pass behind the last block: the final norm, or an Identity where it follows pooling."""
    return family_of(model).final_norms(model)[0]


def final_norm(model: Any) -> nn.Module:
    """Return the norm behind the last block: of all tokens, else of the pooled ones, else ``token_norm``."""
    found = family_of(model).final_norms(model)
    return next((norm for norm in found if not isinstance(norm, nn.Identity)), found[0])


def final_norms(model: Any) -> list[nn.Module]:
    """List the norms with parameters behind the last block: of all tokens, or of the pooled ones."""
    found = family_of(model).final_norms(model)
    return [norm for norm in found if isinstance(norm, NORMS) and norm.weight is not None]
