"""V-JEPA 2's rotary embedding of tubelets over time, rows and columns (https://arxiv.org/abs/2506.09985).

Of the h channels of a head d = 2 ⌊⌊h/3⌋/2⌋ turn with the time step of their tubelet, the next d with its row, the next
d with its column, the rest do not turn. With ω_i = 10000^(-2i/d), i < d/2, and position p, the neighbours 2i and 2i + 1
become

    x'[2i]     = x[2i] cos(p a[2i]) - x[2i + 1] sin(p a[2i])
    x'[2i + 1] = x[2i + 1] cos(p a[2i + 1]) + x[2i] sin(p a[2i + 1])

where a is (ω_0, .., ω_{d/2-1}, ω_0, .., ω_{d/2-1}): the two of a pair turn by different angles. That is how the weights
were trained. Positions are whole numbers of tubelets, whatever the size of the image.

Source: facebookresearch/vjepa2@c2963a4 src/models/utils/modules.py.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Rotary3d(nn.Module):
    """Turns queries or keys (B heads N h) of a sequence that ends in the tubelets of ``embed``.

    It takes the place of timm's ``q_norm`` and ``k_norm``, which these models do not have, so that whatever asks an
    attention for its queries and keys gets turned ones. Tokens in front of the tubelets, and shorter sequences of
    prompts alone, have no position and do not turn.
    """

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = (embed,)  # in a tuple, so as to be no child: it knows the grid

    def forward(self, t: Tensor) -> Tensor:
        (embed,) = self.embed
        grid: tuple[int, int, int] = embed.grid_size  # type: ignore[assignment]
        angles = make_angles(grid, t.shape[-1], t.device)
        if t.shape[2] < len(angles):
            return t
        front, tubelets = t.tensor_split([t.shape[2] - len(angles)], dim=2)
        turning, still = tubelets.tensor_split([angles.shape[1]], dim=-1)
        even, odd = turning.unflatten(-1, (-1, 2)).unbind(-1)
        crossed = torch.stack([-odd, even], dim=-1).flatten(-2)
        cos, sin = angles.cos().to(t.dtype), angles.sin().to(t.dtype)
        return torch.cat([front, torch.cat([turning * cos + crossed * sin, still], dim=-1)], dim=2)


def make_angles(grid: tuple[int, int, int], head_dim: int, device: Any = None) -> Tensor:
    """Compute the angles (N 3 d) of the turning channels of every tubelet, by time step, then row, then column."""
    d = 2 * (head_dim // 3 // 2)
    omega = 10000 ** (-torch.arange(d // 2, device=device, dtype=torch.float32) / (d / 2)) if d else None
    if omega is None:
        return torch.zeros(grid[0] * grid[1] * grid[2], 0, device=device)
    steps = [torch.arange(size, device=device, dtype=torch.float32) for size in grid]
    places = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).flatten(0, 2)  # N 3
    return (places.unsqueeze(-1) * omega.repeat(2)).flatten(1)


def rotate_blocks(model: Any) -> nn.Module:
    """Let attention of every block of a VisionTransformer of tubelets turn its queries and keys, in place."""
    for block in model.blocks:
        block.attn.q_norm, block.attn.k_norm = Rotary3d(model.patch_embed), Rotary3d(model.patch_embed)
    return model
