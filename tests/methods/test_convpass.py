"""Convpass's equation written out token by token, its counts, its start, prompts between class token and patches."""

from typing import Any

import pytest
import timm
import torch
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.layers import DropPath
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import attn_half, blocks, mlp_half

FAMILIES = ["vit", "deit_distilled", "dinov2_reg4", "siglip", "dinov3", "eva02_base", "beit", "swin"]


def quick_gelu(z: Tensor) -> Tensor:
    return z / (1 + (-1.702 * z).exp())


def bypass(branch: Any, n: Tensor, rows: int, columns: int) -> Tensor:
    """CP of tokens (B N D), each output pixel as a sum over its nine neighbours; prefix tokens see the centre tap."""
    z = quick_gelu(n @ branch.down_proj.weight.T + branch.down_proj.bias)
    prefix = z.shape[1] - rows * columns
    taps, mixed = branch.conv.weight, []
    for token in range(z.shape[1]):
        total = branch.conv.bias.expand(len(z), -1)
        row, column = divmod(token - prefix, columns)
        for dr, dc in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]:
            inside = 0 <= row + dr < rows and 0 <= column + dc < columns
            if token < prefix and dr == dc == 0:
                total = total + z[:, token] @ taps[:, :, 1, 1].T
            elif token >= prefix and inside:
                neighbour = prefix + (row + dr) * columns + column + dc
                total = total + z[:, neighbour] @ taps[:, :, dr + 1, dc + 1].T
        mixed.append(quick_gelu(total))
    return torch.stack(mixed, 1) @ branch.up_proj.weight.T + branch.up_proj.bias


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_computes_the_equation(family):
    model: Any = vp.attach(tiny(family), vp.Convpass(bottleneck=4, scale=0.7))
    randomise_tuned(model)
    vp.restore_last_block(model)
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model.eval()(images(model))
        for block, (x,), kwargs, y in calls:
            rows, columns = x.shape[1:3] if x.ndim == 4 else model.patch_embed.grid_size

            def branch(site: str, n: Tensor, block: Any = block, rows: int = rows, columns: int = columns) -> Tensor:
                tokens = n.flatten(1, 2) if n.ndim == 4 else n
                return 0.7 * bypass(block.convpass[site], tokens, rows, columns).view_as(n)

            middle = attn_half(block, x, **kwargs) + branch("attn", block.norm1(x))
            expected = mlp_half(block, middle) + branch("mlp", block.norm2(middle))
            assert branch("mlp", block.norm2(middle)).abs().max() > 0.01, "the bypass does nothing"
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("sites", [("attn", "mlp"), ("attn",), ("mlp",)])
def test_counts_are_those_of_the_closed_form(sites):
    D, h = 768, 8
    site = (D * h + h) + (9 * h * h + h) + (h * D + D)
    counts = count_on_vit_base(vp.Convpass(sites=sites))
    assert counts.trained == counts.stored == 12 * len(sites) * site == {2: 327_552, 1: 163_776}[len(sites)]


@pytest.mark.parametrize("order", [0, 1])
def test_prompts_that_join_the_sequence_leave_the_patches_in_place(order):
    methods = [vp.Convpass(bottleneck=4), vp.VPT(tokens=3, deep=False)]
    model = tiny("dinov2_reg4")
    for method in methods[:: 1 if order else -1]:
        vp.attach(model, method)
    randomise_tuned(model)
    with torch.no_grad(), recorded_calls([blocks(model)[0].convpass["attn"]]) as calls:
        model.eval()(images(model))
        branch, (n,), _, y = calls[0]
        assert n.shape[1] == 1 + 4 + 3 + 4
        torch.testing.assert_close(y, bypass(branch, n, 2, 2), rtol=1e-5, atol=1e-5)


def test_a_model_of_changing_image_size_convolves_the_grid_of_the_image_it_sees():
    model = vp.attach(tiny("dinov3"), vp.Convpass(bottleneck=4))
    randomise_tuned(model)
    block: Any = blocks(model.eval())[0]
    for rows, columns in [(4, 4), (2, 6), (6, 2)]:
        with torch.no_grad(), recorded_calls([block.convpass["mlp"]]) as calls:
            model(torch.randn(2, 3, 8 * rows, 8 * columns))
            branch, (n,), _, y = calls[0]
            torch.testing.assert_close(y, bypass(branch, n, rows, columns), rtol=1e-5, atol=1e-5)


def test_both_drop_paths_draw_their_own_mask_and_pass_no_other_adapter():
    model: Any = tiny("vit")
    block: Any = blocks(model)[0]
    block.drop_path1 = block.drop_path2 = DropPath(0.5)
    vp.attach(model, vp.Convpass(bottleneck=4, dropout=0.0))
    vp.attach(model, vp.AdaptFormer(bottleneck=4, dropout=0.0, form="sequential"))
    randomise_tuned(model)
    vp.train_mode(model, "train")
    x = torch.randn(64, 17, 32)
    with torch.no_grad():
        full = block.convpass["attn"](block.norm1(x))
        own = block.attn(block.norm1(x))
        change = block.attn_half(x) - x
    # attention also passes the sequential adapter, which shares the drop-path module here; the bypass must not
    adapter: Any = block.drop_path2.adaptmlp
    found = set()
    for i in range(len(x)):
        for a in (0, 2):
            for b in (0, 2):
                m = a * own[i]
                with torch.no_grad():
                    expected = m + adapter(m) + b * full[i]
                if torch.allclose(change[i], expected, atol=1e-4):
                    found.add((a, b))
    assert found == {(0, 0), (0, 2), (2, 0), (2, 2)}


def test_the_start_is_xavier_or_identity_in_the_convolution_and_zero_in_the_last_layer():
    for init in ("xavier", "identity"):
        model = vp.attach(tiny("vit"), vp.Convpass(bottleneck=4, init=init))
        branch: Any = model.get_submodule("blocks.0.convpass.attn")
        assert branch.up_proj.weight.abs().max() == 0
        assert all(layer.bias.abs().max() == 0 for layer in (branch.down_proj, branch.conv, branch.up_proj))
        taps = branch.conv.weight
        if init == "identity":
            assert torch.equal(taps[:, :, 1, 1], torch.eye(4))
            assert taps.abs().sum() == 4
        else:
            bound = (6 / (2 * 4 * 9)) ** 0.5
            assert 0.5 * bound < taps.abs().max() <= bound


def test_patches_that_are_dropped_in_training_form_no_grid_and_are_refused():
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2, patch_drop_rate=0.5)
    with pytest.raises(ValueError, match="drops patches"):
        vp.attach(model, vp.Convpass())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bottleneck": 0}, "bottleneck must"),
        ({"scale": -1}, "scale must"),
        ({"dropout": 1.5}, "dropout must"),
        ({"init": "eye"}, "init must be one of 'xavier', 'identity'; got 'eye'"),
        ({"sites": ()}, "sites must be distinct and at least one of 'attn', 'mlp'"),
        ({"sites": ("attn", "attn")}, "sites must be distinct"),
        ({"sites": ("ffn",)}, "sites must be one of 'attn', 'mlp'; got 'ffn'"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.Convpass(**fields)
