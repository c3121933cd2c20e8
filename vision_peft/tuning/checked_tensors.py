"""Tensors of a graft that are more than numbers: what they may hold is checked before a file's are taken."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class CheckedTensors(nn.Module, ABC):
    """A module that says of tensors out of a file whether it can work with them; ``load_tuned`` asks."""

    @abstractmethod
    def problem(self, name: str, tensor: Tensor) -> str | None:
        """Say what is wrong with ``tensor``, of the right shape, as parameter or buffer ``name``; None: nothing."""
