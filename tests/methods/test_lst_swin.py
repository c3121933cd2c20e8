"""LST's ladder on Swin, by stage: written out, at sizes that windows do not tile and at new ones; counts; refusals."""

from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from methods.test_lst import SETTINGS
from support.block_inputs import recorded_calls
from support.families import WINDOWED, images, randomise_tuned, tiny
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.tuning import blocks as tuned_blocks
from vision_peft.tuning.norms import final_norm


def merged_neighbours(s: Tensor, weight: Tensor) -> Tensor:
    """Four neighbours side by side, in the order in which timm's PatchMerging has them; odd sides end in zeros."""
    s = nn.functional.pad(s, (0, 0, 0, s.shape[2] % 2, 0, s.shape[1] % 2))
    corners = [s[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return torch.cat(corners, dim=-1) @ weight.T


def climbed_by_stage(ladder: Any, features: list[list[Tensor]], gate: str, mix: str, layers: Any) -> Tensor:
    """Up s on Swin, from what enters the blocks of each stage and what leaves its last one."""
    s, layer, index = features[0][0] @ ladder.first_down.weight.T, 0, 0
    for stage, of_stage in enumerate(features):
        if stage:
            s = merged_neighbours(s, ladder.mergings[stage - 1].reduction.weight)
        for feature in of_stage[1:]:
            if layer in layers:
                b = feature @ ladder.downs[index].weight.T
                g = 1 / (1 + (-ladder.gates[index] / 0.1).exp()) if gate == "learned" else None
                if mix == "after":
                    s = ladder.blocks[index](s)
                s = s + b if g is None else g * s + (1 - g) * b
                if mix == "before":
                    s = ladder.blocks[index](s)
                index += 1
            layer += 1
    assert index == len(layers)
    return s @ ladder.up.weight.T


def swin(img_size: int = 56, depths: Any = (2, 2)) -> Any:
    """A tiny Swin whose patches have 4 pixels and whose windows 7 patches a side."""
    torch.manual_seed(0)
    arguments: Any = {"embed_dim": 16, "depths": depths, "num_heads": (2,) * len(depths), "num_classes": 5}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=img_size, **arguments).eval()


def check_swin(
    model: Any, plain: Any, x: Tensor, gate: str = "learned", mix: str = "before", blocks: Any = None
) -> None:
    norm, end = final_norm(plain), final_norm(model)
    with torch.no_grad(), recorded_calls([*tuned_blocks.blocks(plain), norm, end]) as calls:
        plain(x)
        model.eval()(x)
        came = {module: args[0] for module, args, _, _ in calls}
        left = {module: y for module, _, _, y in calls}
        features = [[came[stage[0]], *[left[block] for block in stage]] for stage in tuned_blocks.stages(plain)]
        features[-1][-1] = came[norm].view_as(features[-1][-1])  # the norm may be the end of the last block
        chosen = range(len(tuned_blocks.blocks(plain))) if blocks is None else blocks
        expected = norm(climbed_by_stage(end.lst, features, gate, mix, chosen))
        torch.testing.assert_close(left[end], expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("family", WINDOWED)
@pytest.mark.parametrize("setting", [*SETTINGS, {"blocks": (1, 2)}, {"blocks": (2, 3), "mix": "after"}], ids=str)
def test_the_ladder_merges_neighbours_where_the_tokens_merge(setting, family):
    plain = tiny(family)
    model: Any = vp.attach(tiny(family), vp.LST(reduction=4, **setting))
    randomise_tuned(model)
    check_swin(model, plain, images(plain), **setting)


@pytest.mark.parametrize(("img_size", "sides"), [(56, (14, 7, 4)), (40, (10, 5, 3)), (36, (9, 5, 3))])
def test_windows_need_not_tile_the_maps(img_size, sides):
    model: Any = vp.attach(swin(img_size, (2, 1, 2)), vp.LST(reduction=4))
    randomise_tuned(model)
    x = torch.randn(2, 3, img_size, img_size)
    check_swin(model, swin(img_size, (2, 1, 2)), x)
    assert model.forward_features(x).shape == (2, sides[-1], sides[-1], 64)


@pytest.mark.parametrize("img_size", [112, 28])
def test_the_ladder_follows_a_new_image_size(img_size):
    model: Any = vp.attach(swin(), vp.LST(reduction=4))
    randomise_tuned(model)
    plain: Any = swin()
    for changed in (model, plain):
        changed.set_input_size((img_size, img_size))
    check_swin(model, plain, torch.randn(1, 3, img_size, img_size))


def test_counts_are_those_of_the_closed_form():
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    counts = vp.count_parameters(vp.attach(model, vp.LST(reduction=8)))
    D, heads, depths = (96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 6, 2)
    d = [width // 8 for width in D]
    table = (2 * 7 - 1) ** 2  # position biases of a window, one for each head
    rungs = (L * (12 * s * s + 13 * s + table * h + w * s + 1) for L, s, w, h in zip(depths, d, D, heads, strict=True))
    between = (4 * narrow * wide for narrow, wide in pairwise(d))
    assert counts.trained == counts.stored == sum(rungs) + D[0] * d[0] + sum(between) + d[-1] * D[-1] == 803_502


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reduction": 16}, "reduction must make the width 16 a multiple of 2 heads; got 16, a side width of 1"),
        ({"blocks": (0, 4)}, r"blocks=\[0, 4\], but this backbone has 4 blocks \(0 to 3\)"),
    ],
)
def test_a_ladder_that_does_not_fit_swin_is_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.attach(tiny("swin"), vp.LST(**fields))
