"""NaFlexViT on dicts of patches: what fills a batch up stays out of sight, with prompts too."""

from typing import Any

import pytest
import torch
from support.families import randomise_tuned, tiny
from torch import Tensor

import vision_peft as vp

ROWS, COLUMNS, FILL = 2, 3, 4  # patches of an image, and those that fill its row of the batch up


def patches(fill: int) -> dict[str, Tensor]:
    """One image of ROWS x COLUMNS patches of 16 x 16 x 3, with ``fill`` more that are not valid and hold noise."""
    generator = torch.Generator().manual_seed(0)
    count = ROWS * COLUMNS
    pixels = torch.randn(1, count + FILL, 16 * 16 * 3, generator=generator)[:, : count + fill]
    places = torch.stack(torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij"), -1).reshape(-1, 2)
    coordinates = torch.cat([places, torch.zeros(fill, 2, dtype=torch.long)])[None]
    return {"patches": pixels, "patch_coord": coordinates, "patch_valid": (torch.arange(count + fill) < count)[None]}


@pytest.mark.parametrize("family", ["naflexvit", "naflexvit_rope"])
@pytest.mark.parametrize(
    "method",
    [
        vp.AdaptFormer(bottleneck=4),
        vp.LoRA(rank=2),
        vp.VPT(tokens=3),
        vp.VPT(tokens=3, deep=False),
        vp.PrefixTuning(tokens=3, hidden=None),
        vp.SSF(),
    ],
    ids=lambda method: f"{method.name}-{getattr(method, 'deep', '')}",
)
def test_patches_that_fill_a_batch_up_change_nothing(method, family):
    model: Any = vp.attach(tiny(family), method)
    randomise_tuned(model)
    alone, filled = model.eval()(patches(0)), model(patches(FILL))
    torch.testing.assert_close(filled, alone, rtol=1e-5, atol=1e-5)
    vp.detach(model)
    assert not torch.allclose(model(patches(0)), alone)
