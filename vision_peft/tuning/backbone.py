"""What a timm vision transformer is at a glance: its head, its patches and frames, what tells it from another."""

from typing import Any

from timm.layers import HybridEmbed
from torch import nn

from vision_peft.tuning.blocks import BLOCKS, blocks, width
from vision_peft.tuning.families import family_of, family_of_block
from vision_peft.tuning.layers import body_layers


def classifier_names(model: Any) -> tuple[str, ...]:
    """Name the classification layers of ``model``; two for a distilled model.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    return family_of(model).classifier_names(model)


def patch_area(model: Any) -> int:
    """Return the fan-in of the patch embedding: pixels of one patch times channels.

    A tubelet counts the pixels of all its frames, and a convolution behind a stem reads the stem's channels; a stem
    without one has the pixels of a patch.
    """
    embed = family_of(model).patch_embedding(model)
    projection = getattr(embed, "proj", None)
    if isinstance(projection, nn.Conv2d | nn.Conv3d | nn.Linear):
        return projection.weight[0].numel()
    height, width = _patch_size(model)
    return input_channels(model) * height * width


def input_channels(model: Any) -> int:
    """Return the channels of the images that `model` takes, as its first layer says."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            return layer.in_channels
        if isinstance(layer, nn.Linear):  # patches are cut out before
            height, width = _patch_size(model)
            return layer.in_features // (height * width)
    raise ValueError(f"{type(model).__name__} has no layer that takes an image")


def _patch_size(model: Any) -> list[int]:
    """Return height and width of a patch: of what embeds patches, of its convolution, or the stride of a stem."""
    embed = family_of(model).patch_embedding(model)
    if embed is None:
        return [model.stem.stride] * 2
    if isinstance(embed, HybridEmbed):  # its own patches are of the feature map
        pixels: Any = embed.feat_ratio(as_scalar=False)
        return list(pixels)
    size = embed.patch_size if hasattr(embed, "patch_size") else embed.proj.stride
    return [size, size] if isinstance(size, int) else list(size)


def architecture(model: Any) -> dict[str, Any]:
    """Describe ``model`` by what tells two backbones apart at a glance.

    Class, depth, widths, heads, patch and image size (pixels); channels where they are not RGB; of clips also the
    frames of a clip and of a patch (None: frame by frame), and whether their mean is taken before the norm.
    """
    if not has_blocks(model):
        return _describe_layers(model)
    all_blocks = blocks(model)
    embed = family_of(model).patch_embedding(model)
    clip = {key: getattr(embed, key, None) for key in ("num_frames", "tubelet_size")}  # timm's own have neither
    return {
        "class": _plain_class(model),
        "depth": len(all_blocks),
        "width": sorted({width(block) for block in all_blocks}),
        "num_heads": sorted({family_of_block(block).heads(block) for block in all_blocks}),
        "patch_size": _patch_size(model),
        "img_size": image_size(model),
        **_describe_channels(model),
        **(clip if clip["num_frames"] is not None else {}),
        **({"mean_first": True} if getattr(embed, "mean_first", False) else {}),
    }


def has_blocks(model: Any) -> bool:
    """Tell whether ``model`` is made of transformer blocks that split in two halves.

    Raises:
        ValueError: not a family that methods can attach to.
    """
    family_of(model)
    return BLOCKS.missing(model) is None


def _describe_layers(model: Any) -> dict[str, Any]:
    """Describe a model without blocks: ``depth`` counts its layers, ``width`` lists the channels they make."""
    layers = body_layers(model)
    return {
        "class": _plain_class(model),
        "depth": len(layers),
        "width": sorted({layer.weight.shape[0] for layer in layers.values()}),
        "num_heads": [],
        "patch_size": [],
        "img_size": image_size(model),
        **_describe_channels(model),
    }


def _describe_channels(model: Any) -> dict[str, int]:
    channels = input_channels(model)
    return {} if channels == 3 else {"in_chans": channels}


def image_size(model: Any) -> list[int]:
    """Return height and width that ``model`` is built for, nothing where it takes any image."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or getattr(model, "img_size", None) or ()
    return [size, size] if isinstance(size, int) else list(size)


def frames_in_batch(model: Any) -> int:
    """Return the number of frames that the patch embedding folds into the batch; 1 for images and for tubelets."""
    clip = architecture(model)
    return 1 if clip.get("tubelet_size") is not None else clip.get("num_frames", 1)


def trained_with_methods(model: Any) -> list[nn.Parameter]:
    """List the parameters of the backbone that train with every method which lets features change.

    Its patch embedding names them (a tubelet embedding its ``temporal_embed``); timm's own names none.
    """
    names: tuple[str, ...] = getattr(getattr(model, "patch_embed", None), "trained_with_methods", ())
    return [getattr(model.patch_embed, name) for name in names]


def _plain_class(model: nn.Module) -> str:
    return next(cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("timm."))
