"""Files of Bi-AdaptFormer (JieShibo/PETL-ViT@026e4f1 binary_adapter/adaptformer.py): see ``few_bit_files``."""

from pathlib import Path

from torch import nn

from vision_peft.formats.foreign import few_bit_files
from vision_peft.formats.foreign.few_bit_files import (
    FILES,
    RAW,
    Layer,
    check_backbone,
    decode,
    only_method,
    read_folder,
    read_raw,
    take_head,
)
from vision_peft.formats.foreign.read import Foreign
from vision_peft.formats.foreign.tensors import State, block_numbers, no_leftovers, take
from vision_peft.methods.bi_adaptformer import BiAdaptFormer
from vision_peft.tuning import blocks

__all__ = ["FILES", "read", "read_folder", "read_raw", "write"]


def read(
    state: State,
    *,
    bottleneck: int,
    bits: int,
    scale: float,
    head_bits: int = 32,
    width: int = 768,
    depth: int = 12,
    dropout: float = 0.1,
) -> Foreign:
    """Decode the bytes of a file, whose weights are used as they are, or map latent weights by their official keys.

    Args:
        state: tensors of the file.
        bottleneck: h of the run (``dim`` in its yaml).
        bits: of every weight of the adapters, 1, 2 or 4.
        scale: s of the task.
        head_bits: 1 for a head of 1 bit (bihead), else 32.
        width: channels of the backbone.
        depth: blocks of the backbone.
        dropout: of use for further training only.

    Raises:
        ValueError: bytes or keys that are not of this code and these sizes.
    """
    method = BiAdaptFormer(bottleneck=bottleneck, bits=bits, scale=scale, dropout=dropout, packed=RAW in state)
    check_backbone(width=width, depth=depth)
    if RAW in state:
        tuned, head, classes = decode(state[RAW], _layers(depth, width * bottleneck), bits, width, head_bits)
        return Foreign(None, method, tuned, head, classes=classes)
    state = dict(state)
    tuned, head, classes = take_head(state)
    for i in block_numbers(state, "blocks."):
        for part, shape in (("down", (bottleneck, None)), ("up", (None, bottleneck))):
            theirs = f"blocks.{i}.adapter_mlp.adapter_{part}.weight"
            tuned[f"blocks.{i}.bi_adaptmlp.{part}.weight"] = take(state, theirs, *shape)
    no_leftovers(state, "Bi-AdaptFormer")
    return Foreign(None, method, tuned, head, classes=classes)


def write(model: nn.Module, folder: Path) -> Path:
    """Write ``adapter.bin``, the bytes that the official code reads, and ``keywords.json``, what they cannot tell.

    Raises:
        ValueError: something else than one Bi-AdaptFormer in all blocks is attached, or a count of weights of which the
            official format would lose some.
    """
    method = only_method(model, BiAdaptFormer, "bi_adaptformer")
    found = blocks.blocks(model)
    dim = blocks.width(found[0])
    keywords = {"bottleneck": method.bottleneck, "bits": method.bits, "scale": method.scale}
    keywords |= {"width": dim, "depth": len(found)}
    return few_bit_files.write(model, folder, _layers(len(found), dim * method.bottleneck), keywords)


def _layers(depth: int, count: int) -> list[Layer]:
    return [Layer(f"blocks.{i}.bi_adaptmlp.{part}", count) for i in range(depth) for part in ("down", "up")]
