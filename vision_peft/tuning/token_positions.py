"""Positions of the image for input tokens: a token is encoded where it is as the patch there would be.

Attention does not know the order of a sequence; what gives a patch its position differs between backbones, and is all
taken over: position embeddings, which join the token and pass the pre-norm (CLIP) with it; rotary embeddings, of every
block; rows and columns of a relative position bias (BEiT); positions and times that tubelets carry. The tokens stand
right before the patches, where pooling leaves them out and patches keep their grid. Nothing of it is stored.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenPositions:
    """The patches whose positions ``tokens`` tokens take: ``end`` the last ones, ``interleaved`` some spread evenly."""

    tokens: int
    where: str

    def index(self, patches: int, device: Any = None) -> Tensor:
        """Give these patches (P) numbers in reading order (of tubelets by time first).

        Raises:
            ValueError: fewer patches than tokens.
        """
        if self.tokens > patches:
            raise ValueError(
                f'positions="{self.where}" takes a patch for every token: wanted at most {patches} tokens, '
                f"got {self.tokens}"
            )
        token = torch.arange(self.tokens, device=device)
        return patches - self.tokens + token if self.where == "end" else (2 * token + 1) * patches // (2 * self.tokens)
