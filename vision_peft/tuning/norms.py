"""Where the normalisation layers of timm's vision transformers are."""

from typing import Any

from timm.layers import RmsNorm
from timm.models import swin_transformer
from torch import nn

from vision_peft.tuning.timm_blocks import blocks, classifier_names

NORMS = (nn.LayerNorm, RmsNorm)  # timm's LayerNorm classes derive from torch's


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Every norm of the backbone that has parameters, in order of ``named_modules``; 25 on ViT-B.

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


def final_norm(model: Any) -> nn.Module:
    """The norm behind the last block: ``norm`` of all tokens, else ``fc_norm`` of the pooled ones.

    Where the backbone has neither it is the Identity at ``norm``.
    """
    if isinstance(model, swin_transformer.SwinTransformer) or not isinstance(model.norm, nn.Identity):
        return model.norm
    return model.norm if isinstance(model.fc_norm, nn.Identity) else model.fc_norm


def final_norms(model: Any) -> list[nn.Module]:
    """The norms with parameters behind the last block: ``norm`` of all tokens, or ``fc_norm`` of the pooled ones."""
    seats = [model.norm] if isinstance(model, swin_transformer.SwinTransformer) else [model.norm, model.fc_norm]
    return [seat for seat in seats if isinstance(seat, NORMS) and seat.weight is not None]
