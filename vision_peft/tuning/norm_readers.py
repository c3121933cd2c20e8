"""What a map of the output of a block's norms folds into: the linear layers that read it, or the norm itself."""

from typing import Any

import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.families import family_of_block
from vision_peft.tuning.needs import Need


def check_input_norms(model: Any) -> None:
    """Check that the norms of the blocks stand in front of attention and MLP, whose layers read them.

    Raises:
        ValueError: they stand behind them, and nothing of the block reads them.
    """
    if not all(family_of_block(block).has_input_norms for block in blocks(model)):
        raise ValueError(
            f"the norms of {type(model).__name__} stand behind attention and MLP, and the method changes what layers "
            "read of norms in front of them: take a pre-norm backbone"
        )


INPUT_NORMS = Need("norms in front of attention and MLP", check_input_norms)


def norm_readers(block: Any, site: str) -> list[tuple[nn.Module, list[nn.Linear]]]:
    """List the norms of ``block`` in front of attention (``site="attn"``) or MLP, and the linear layers that read each.

    One norm in most blocks.
    """
    family = family_of_block(block)
    assert family.has_input_norms, "INPUT_NORMS"
    found = []
    for branch in family.branches(block, site):
        if site == "mlp":
            readers = family.mlp_linears(branch.layer, "fc1")
        else:
            gate = family.gate(branch.layer)
            readers = family.attention_linears(branch.layer, "qkv") + ([] if gate is None else [gate])
        found.append((family.norm_read(branch), readers))
    return found


def add_to_output(block: Any, reader: nn.Linear, shift: Tensor) -> None:
    """Add the constant ``shift`` (out) to the output of a layer of ``norm_readers``, for good.

    It joins the bias. BEiT's fused layer has q_bias and v_bias beside it and none for its keys, which need none: a
    constant on every key adds the same number to all scores of a query, and softmax takes it out, with a position bias
    too. (Not so where keys are rotated, in EVA: every position would turn the constant another way.)

    Raises:
        ValueError: there is no such bias.
    """
    if not takes_shift(block, reader):
        raise ValueError("a shift at a Linear without a bias has nowhere to go")
    bias: Tensor | None = reader.bias
    if bias is not None:
        bias.add_(shift)
    else:
        q, _, v = shift.chunk(3)
        attn = _attention_with(block, reader)
        attn.q_bias.add_(q)
        attn.v_bias.add_(v)


def takes_shift(block: Any, reader: nn.Linear) -> bool:
    """Tell whether ``add_to_output`` finds a bias for this layer."""
    family, attn = family_of_block(block), _attention_with(block, reader)
    beside = attn is not None and family.separate_bias(attn) is not None and family.key_shift_cancels(attn)
    return reader.bias is not None or beside


def _attention_with(block: Any, reader: nn.Linear) -> Any:
    """Return the attention of ``block`` whose fused layer ``reader`` is, None where it is another layer."""
    family = family_of_block(block)
    found = [branch.layer for branch in family.branches(block, "attn") if family.is_fused(branch.layer)]
    return next((attn for attn in found if attn.qkv is reader), None)


def add_to_norm(norm: Any, shift: Tensor) -> None:
    """Add the constant ``shift`` (C) to the output of a norm, for good.

    Raises:
        ValueError: the norm has no bias.
    """
    if isinstance(norm, RmsNorm) or norm.bias is None:
        raise ValueError("a shift between a norm and a Linear, both without a bias, has nowhere to go")
    norm.bias.add_(shift)


def fold_in_front(
    block: Any, norm: Any, readers: list[nn.Linear], matrix: Tensor, shift: Tensor, *, padded: bool = False
) -> None:
    """Fold n + M n + t, of what a norm gives, into the layers that read it, for good.

    The ``shift`` t goes into their biases, or, where one has none or zeros may join the tokens on the way (``padded``),
    into the norm's.

    Raises:
        ValueError: there is no bias that it could go into, or I + M is not safely invertible.
    """
    into_norm = padded or not all(takes_shift(block, reader) for reader in readers)
    if into_norm:
        add_to_norm(norm, _move_in_front(matrix, shift))
    for reader in readers:
        if not into_norm:
            add_to_output(block, reader, reader.weight @ shift)
        reader.weight.add_(reader.weight @ matrix)


def _move_in_front(matrix: Tensor, shift: Tensor) -> Tensor:
    """Compute (I + M)⁻¹ t."""
    whole = matrix.double().cpu() + torch.eye(len(shift), dtype=torch.float64)
    solved, singular = torch.linalg.solve_ex(whole, shift.double().cpu())
    if singular or not solved.abs().max() <= 100 * shift.abs().max():  # beyond, rounding would be felt in the logits
        raise ValueError("the shift has to go into the norm in front, which I + M, not safely invertible, forbids")
    return solved.to(shift)
