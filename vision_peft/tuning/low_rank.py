"""The low-rank update of a linear layer or a convolution.

    y = W x + b + s · (B E A dropout(x) + c),   minus s · B₀ A₀ x where the update starts from parts of W

E keeps or drops whole rows of A while training, c is a bias on B. A convolution has A in the shape of its kernels, B a
1 x 1 convolution behind it.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.tuning.autograd_functions import narrow_linear


class Start(NamedTuple):
    """Start values of one update."""

    A: Tensor  # (rank, in), of a convolution (rank, in, k, k)
    B: Tensor  # (out, rank)
    subtract: bool = False  # take s · B₀ A₀ off the weight, so that the update starts as nothing

    def split(self, rows: list[int]) -> list["Start"]:
        """Cut B into those of layers with so many output channels each, which share A."""
        return [self._replace(B=B.clone()) for B in self.B.split(rows)]


class LowRank(nn.Module):
    """The update of one weight (out, in), or of a slice of its rows; ``first`` is another one, whose A it shares.

    Args:
        weight: of the layer; of a convolution (out, in, k, k).
        start: values of A and B.
        scaling: s, the factor on B A.
        dropout: rate on the input of A.
        expert_dropout: rate at which a row of A with its column of B is left out; one draw a forward.
        dora: learn the length of every weight row apart from its direction.
        bias: learn a bias behind B.
    """

    made_of_weights: ClassVar = ("A0", "B0")  # see ``record.graft_tensors``
    B0: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        start: Start,
        scaling: float,
        first: "LowRank | None" = None,
        *,
        dropout: float = 0.0,
        expert_dropout: float = 0.0,
        dora: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.first = () if first is None else (first,)  # in a tuple, so that it is not registered a second time
        if first is None:
            self.A = nn.Parameter(start.A)
            self.register_buffer("A0", start.A.detach().clone() if start.subtract else None)
        self.B = nn.Parameter(start.B)
        self.register_buffer("B0", start.B.detach().clone() if start.subtract else None)
        self.bias = nn.Parameter(torch.zeros(len(weight))) if bias else None
        self.magnitude = nn.Parameter(weight.detach().flatten(1).norm(dim=1)) if dora else None
        self.dropout = nn.Dropout(dropout)
        self.expert_dropout = expert_dropout
        self.scaling = scaling

    def forward(self, x: Tensor, apply: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Compute the update for the input ``x`` of the frozen layer: channels last.

        ``apply(x, A)`` is what a convolution, whose channels are the second axis, does with a weight.
        """
        if apply is None:
            hidden = self.narrow(x)
        else:
            hidden = self._drop_experts(apply(self.dropout(x), self.down()).movedim(1, -1))
        update = F.linear(hidden, self.B, self.bias)
        if self.B0 is not None:
            A0 = self._owner().A0
            start = F.linear(x, A0) if apply is None else apply(x, A0).movedim(1, -1)
            update = update - F.linear(start, self.B0)
        return update * self.scaling

    def add(self, y: Tensor, update: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Add what ``forward`` gave to the output ``y`` of the frozen layer, whose weight and bias these are."""
        channels = 1 if weight.ndim > 2 else -1
        if self.magnitude is None:
            return y + update.movedim(-1, channels)
        gain = self._gain(self.magnitude, weight)
        y = y.movedim(channels, -1)
        without_bias = y if bias is None else y - bias
        return (y + (gain - 1) * without_bias + gain * update).movedim(-1, channels)

    def narrow(self, x: Tensor) -> Tensor:
        """Return A dropout(x) (..., rank), of which rows may be left out."""
        return self._drop_experts(narrow_linear(x, self.down(), dropout=self.dropout))

    @property
    def only_adds(self) -> bool:
        """Whether the update is s · B A x and nothing else."""
        return self.B0 is None and self.bias is None and self.magnitude is None

    def restart(self, A: Tensor, scaling: float) -> None:
        """Start anew from A (rank, in), of another rank perhaps, with B at zero."""
        if not self.first:
            self.A = nn.Parameter(A.to(self.A, copy=True))
        self.B = nn.Parameter(self.B.new_zeros(len(self.B), len(A)))
        self.scaling = scaling

    def down(self) -> Tensor:
        """Return A (rank, in), whichever module holds it."""
        return self._owner().A

    def on_original(self) -> tuple[Tensor, Tensor]:
        """Return A and B of the plain update of W that this is; twice the rank where it starts from parts of W."""
        if self.B0 is None:
            return self.down(), self.B
        return torch.cat([self.down(), self._owner().A0]), torch.cat([self.B, -self.B0], dim=1)

    def dense(self) -> Tensor:
        """s · (B A - B₀ A₀) as a dense matrix (out, in), of a convolution (out, in, k, k)."""
        A = self.down()
        dense = self.B @ A.flatten(1)
        if self.B0 is not None:
            dense = dense - self.taken_off()
        return (dense * self.scaling).unflatten(1, A.shape[1:])

    def taken_off(self) -> Tensor:
        """B₀ A₀ (out, in · k · k) of an update that starts from parts of the weight.

        Raises:
            ValueError: it does not.
        """
        if self.B0 is None:
            raise ValueError("this update takes nothing off the weight")
        return self.B0 @ self._owner().A0.flatten(1)

    def fold_into(self, weight: Tensor, bias: Tensor | None) -> None:
        """Write the updated weight into ``weight`` (out, in) and c into ``bias`` (out).

        Raises:
            ValueError: there is a c and no bias that could take it.
        """
        if self.bias is not None and bias is None:
            raise ValueError("a shift behind a layer without a bias has nowhere to go (lora_bias=False has none)")
        gain = None if self.magnitude is None else self._gain(self.magnitude, weight)
        weight += self.dense()
        if gain is not None:
            weight *= gain.view(-1, *[1] * (weight.ndim - 1))
        if self.bias is not None and bias is not None:
            bias += self.bias * self.scaling

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        own = {f"{prefix}{name}": getattr(self, name, None) for name in self.made_of_weights}
        kept = {key: tensor for key, tensor in own.items() if tensor is not None and key not in state_dict}
        super()._load_from_state_dict({**state_dict, **kept}, prefix, *args)  # a tuned state has none of them

    def _owner(self) -> Any:
        return self.first[0] if self.first else self

    def _drop_experts(self, hidden: Tensor) -> Tensor:
        if not (self.training and self.expert_dropout):
            return hidden
        return hidden * F.dropout(hidden.new_ones(hidden.shape[-1]), self.expert_dropout)

    def _gain(self, magnitude: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            length = (weight + self.dense()).flatten(1).norm(dim=1)
        return magnitude / length.clamp_min(torch.finfo(length.dtype).tiny)  # a row of zeros stays one
