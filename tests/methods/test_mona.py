"""Mona's equation written out token by token, the golden module, counts, start, drop-path, refusals."""

import json
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from timm.layers import DropPath
from torch import Tensor

import vision_peft as vp
from vision_peft.formats.foreign.mona import _SHAPES
from vision_peft.methods.mona import Adapter
from vision_peft.tuning.blocks import attn_half, block_end, blocks, mlp_half

FAMILIES = ["vit", "deit_distilled", "dinov2_reg4", "eva02_base", "beit", "tubelet", "frames", "swin", "swin_v2_cr"]


def adapt(m: Any, x: Tensor, grid: tuple[int, int], steps: int) -> Tensor:
    """M of tokens (B N D), whose last ``steps`` grids are patches; each output pixel a sum over its neighbours."""
    rows, columns = grid
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    normed = (x - mean) / (variance + 1e-5).sqrt() * m.norm.weight + m.norm.bias
    z = (m.gamma * normed + m.gammax * x) @ m.down_proj.weight.T + m.down_proj.bias
    prefix = z.shape[1] - steps * rows * columns
    mixed = []
    for token in range(z.shape[1]):
        step, place = divmod(token - prefix, rows * columns)
        row, column = divmod(place, columns)
        total = z[:, token]
        for conv in m.depthwise:
            reach = conv.weight.shape[-1] // 2
            seen = conv.bias.expand(len(z), -1)
            for dr in range(-reach, reach + 1):
                for dc in range(-reach, reach + 1):
                    taps = conv.weight[:, 0, dr + reach, dc + reach]
                    if token < prefix and dr == dc == 0:
                        seen = seen + taps * z[:, token]
                    elif token >= prefix and 0 <= row + dr < rows and 0 <= column + dc < columns:
                        seen = seen + taps * z[:, prefix + (step * rows + row + dr) * columns + column + dc]
            total = total + seen / 3
        mixed.append(total + total @ m.pointwise.weight[:, :, 0, 0].T + m.pointwise.bias)
    hidden = torch.stack(mixed, 1)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + hidden @ m.up_proj.weight.T + m.up_proj.bias


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_passes_an_adapter_behind_either_half(family):
    plain: Any = tiny(family)
    model: Any = vp.attach(tiny(family), vp.Mona(width=6))
    randomise_tuned(model)
    steps = 2 if family == "tubelet" else 1
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model.eval()(images(model))
        for bare, (block, (x,), kwargs, y) in list(zip(blocks(plain), calls, strict=True))[1:2]:
            grid = tuple(x.shape[1:3]) if x.ndim == 4 else tuple(model.patch_embed.grid_size[-2:])

            def m(i: int, x: Tensor, block: Any = block, grid: Any = grid) -> Tensor:
                return adapt(block.mona[i], x.flatten(1, -2), grid, steps).view_as(x)

            middle = m(0, attn_half(bare, x, **kwargs))
            expected = block_end(bare, m(1, mlp_half(bare, middle)))
            assert (m(0, x) - x).abs().max() > 0.01, "the adapter does nothing"
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)


def test_the_module_is_the_official_one(shared):
    path = shared / "golden" / "mona_module.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = safetensors.torch.load_file(path)
    module = Adapter(config["dim"], None, 1, vp.Mona(width=config["inner"])).eval()
    module.load_state_dict({ours: tensors[f"state/{theirs}"] for theirs, (ours, _) in _SHAPES.items()}, strict=True)
    x = tensors["input"].unflatten(1, config["hw"]).requires_grad_()
    y = module(x)
    assert (y.flatten(1, 2) - tensors["output"]).abs().max() <= 1e-5
    y.square().sum().backward()
    gradients = {"input": x.grad} | {name: p.grad for name, p in module.named_parameters()}
    wanted = {ours: tensors[f"grad/{theirs}"] for theirs, (ours, _) in _SHAPES.items()}
    wanted["input"] = tensors["grad_input"].view_as(x)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        assert gradient is not None
        assert (gradient - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name


def closed_form(dim: int, inner: int = 64) -> int:
    one = 2 * dim + 2 * dim + dim * inner + inner + inner * (9 + 25 + 49) + 3 * inner + inner**2 + inner
    return 2 * (one + inner * dim + dim)


def test_counts_are_those_of_the_closed_form():
    counts = count_on_vit_base(vp.Mona())
    assert counts.trained == counts.stored == 12 * closed_form(768) == 12 * 2 * (133 * 768 + 9_728) == 2_684_928


@pytest.mark.parametrize(("name", "dim", "figure"), [("base", 128, 3_667_456), ("large", 192, 5_267_712)])
def test_counts_on_swin_are_those_of_the_closed_form(name, dim, figure):
    with torch.device("meta"):
        model = timm.create_model(f"swin_{name}_patch4_window7_224", num_classes=0)
        counts = vp.count_parameters(vp.attach(model, vp.Mona()))
    assert counts.trained == figure
    assert figure == sum(depth * closed_form(dim << stage) for stage, depth in enumerate((2, 2, 18, 2)))


def test_the_start_is_that_of_the_code():
    model: Any = vp.attach(tiny("vit"), vp.Mona())
    for block in blocks(model):
        for m in block.mona:
            assert torch.equal(m.gamma, torch.full((32,), 1e-6))
            assert torch.equal(m.gammax, torch.ones(32))
            assert all(layer.bias.abs().max() == 0 for layer in (m.down_proj, m.up_proj))
            assert all(0.017 < layer.weight.std() < 0.023 for layer in (m.down_proj, m.up_proj))
            for conv in m.depthwise:
                k = conv.weight.shape[-1]
                assert 0.9 / k < conv.weight.abs().max() <= 1 / k


def test_drop_path_acts_on_the_block_and_not_on_the_adapter():
    model: Any = tiny("vit")
    block: Any = blocks(model)[0]
    block.drop_path1 = DropPath(0.99)
    vp.attach(model, vp.Mona(width=6, dropout=0.0))
    randomise_tuned(model)
    vp.train_mode(model, "train")
    torch.manual_seed(0)
    x = torch.randn(8, 17, 32)
    with torch.no_grad():
        dropped = block.attn_half(x)
        torch.testing.assert_close(dropped, block.mona[0](x))


def test_dropout_stands_in_front_of_the_last_layer():
    model: Any = vp.train_mode(vp.attach(tiny("vit"), vp.Mona(dropout=0.5)))
    m = blocks(model)[0].mona[0]
    given: list[Tensor] = []
    m.up_proj.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    m(torch.randn(4, 17, 32))
    assert 0.4 < (given[0] == 0).float().mean() < 0.6


def test_patches_that_are_dropped_in_training_form_no_grid_and_are_refused():
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2, patch_drop_rate=0.5)
    with pytest.raises(ValueError, match="drops patches"):
        vp.attach(model, vp.Mona())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"width": 0}, "width must be a number above 0; got 0"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"blocks": "some"}, "blocks must be"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.Mona(**fields)
