"""FacT's updates as dense matrices, built tile by tile from the factors; counts, start, refusals."""

import math
from typing import Any

import pytest
import timm
import torch
from support.families import images, randomise_tuned, tiny
from support.vit_base import count_on_vit_base
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.blocks import blocks

FORMS = pytest.mark.parametrize("form", ["tt", "tk"])
D, RANK = 32, 4
UNEVEN = ["dinov2_swiglu", "rope_gqa"]  # a hidden layer of 5.33 D; keys and values of D / 2


def tuned(family: str, form: str, **fields: Any) -> Any:
    model = vp.attach(tiny(family), vp.FacT(rank=RANK, form=form, **fields))
    randomise_tuned(model)
    return model.eval()


def tucker_cores(factors: Any, first: int, tiles: int, part: str) -> list[Tensor]:
    """The cores of one weight by loops over the code's own indices, its flattening of fc1 and fc2 included."""
    cube, columns, r = factors.cube, factors.columns, RANK
    product = torch.zeros(r, r, tiles)
    for n in range(tiles):
        for c in range(r):
            product[:, :, n] += cube[:, :, c] * columns[c, first + n]
    cores = []
    for j in range(tiles):
        core = torch.zeros(r, r)
        for a in range(r):
            for d in range(r):
                if part in ("fc1", "fc2"):
                    b, n = divmod(j * r + d, tiles)  # column 4 b + n, read back as j r + d
                    core[(d, a) if part == "fc1" else (a, d)] = product[a, b, n]
                else:
                    core[d, a] = product[a, d, j]
        cores.append(core)
    return cores


def updates(model: Any, form: str, scale: float) -> dict[str, Tensor]:
    """ΔW of every tuned layer by name."""
    first_block = blocks(model)[0]
    factors = (first_block.attn.qkv if first_block.attn.qkv is not None else first_block.attn.q_proj).fact
    found, first = {}, 0
    for i, block in enumerate(blocks(model)):
        layers: list[tuple[str, Any]] = [(n, m) for n, m in block.named_modules() if hasattr(m, "fact_scale")]
        for name, layer in layers:
            part = "fc1" if "fc1" in name else name.split(".")[-1]
            tiles = math.ceil(max(layer.in_features, layer.out_features) / D)
            cores = list(layer.fact_core) if form == "tt" else tucker_cores(factors, first, tiles, part)
            assert len(cores) == tiles
            first += tiles
            blocks_of_weight = [scale * factors.V @ core @ factors.U for core in cores]
            whole = torch.cat(blocks_of_weight, dim=1 if part == "fc2" else 0)
            found[f"blocks.{i}.{name}"] = whole[: layer.out_features, : layer.in_features]
    if form == "tk":
        assert first == factors.columns.shape[1]
    return found


@FORMS
@pytest.mark.parametrize("family", ["vit", "deit3", "dinov3_qkvb", "eva02_tiny", "eva02_base", "beit", *UNEVEN])
def test_the_tuned_model_is_the_backbone_with_dense_updates_added_to_its_weights(family, form):
    model, plain = tuned(family, form, scale=0.8), tiny(family)
    with torch.no_grad():
        for name, delta in updates(model, form, 0.8).items():
            assert delta.abs().max() > 1e-3, "the update does nothing: this test tests nothing"
            plain.get_parameter(f"{name}.weight").add_(delta)
        plain.head.load_state_dict(model.head.state_dict())
        x = images(plain)
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
        vp.merge(model)
        for name, weight in plain.named_parameters():
            torch.testing.assert_close(model.get_parameter(name), weight)


@pytest.mark.parametrize("family", ["vit", "eva02_base", *UNEVEN])
def test_with_columns_of_their_own_every_tile_has_the_core_of_its_column(family):
    model, plain = tuned(family, "tk", columns="own"), tiny(family)
    factors, column = next(m.fact for _, m in model.named_modules() if hasattr(m, "fact")), 0
    with torch.no_grad():
        for name, layer in [(n, m) for n, m in model.named_modules() if hasattr(m, "fact_scale")]:
            tiles = []
            for _ in range(math.ceil((layer.in_features if "fc2" in name else layer.out_features) / D)):
                core = torch.stack([factors.cube[:, :, c] * factors.columns[c, column] for c in range(RANK)]).sum(0)
                tiles.append(factors.V @ (core if "fc2" in name else core.T) @ factors.U)
                column += 1
            whole = torch.cat(tiles, dim=1 if "fc2" in name else 0)
            plain.get_parameter(f"{name}.weight").add_(whole[: layer.out_features, : layer.in_features])
        assert column == factors.columns.shape[1]
        plain.head.load_state_dict(model.head.state_dict())
        x = images(plain)
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
        mixed = vp.attach(tiny(family), vp.FacT(rank=RANK, form="tk")).eval()
        vp.load_tuned(mixed, vp.tuned_state_dict(model))
        assert (mixed(x) - model(x)).abs().max() > 1e-3


def test_presets_differ_in_the_columns_of_the_mlp():
    assert vp.FacT.as_published(form="tk", rank=4) == vp.FacT(form="tk", rank=4, columns="mixed")
    assert vp.FacT.as_in_paper(form="tk", rank=4) == vp.FacT(form="tk", rank=4, columns="own")


@pytest.mark.parametrize(
    ("method", "closed_form", "figure"),
    [
        (vp.FacT(), 2 * 768 * 16 + 12 * 12 * 16**2, 61_440),
        (vp.FacT(rank=4), 2 * 768 * 4 + 12 * 12 * 4**2, 8_448),
        (vp.FacT(rank=32, form="tk"), 2 * 768 * 32 + 32**3 + 12 * 12 * 32, 86_528),
        (vp.FacT(rank=16, form="tk"), 2 * 768 * 16 + 16**3 + 12 * 12 * 16, 30_976),
    ],
    ids=repr,
)
def test_counts_are_those_of_the_closed_form(method, closed_form, figure):
    counts = count_on_vit_base(method)
    assert counts.trained == counts.stored == closed_form == figure


@FORMS
def test_dropout_acts_between_core_and_v_with_a_mask_per_tile(form):
    model = tuned("vit", form, dropout=0.5)
    vp.train_mode(model)
    qkv: Any = model.get_submodule("blocks.0.attn.qkv")
    x = torch.randn(64, 3, D)
    with torch.no_grad():
        change = (qkv(x) - x @ qkv.weight.T - qkv.bias).unflatten(-1, (3, D))
        hidden = torch.linalg.lstsq(qkv.fact.V, change.flatten(0, -2).T).solution.T.view(64, 3, 3, RANK)
        kept = hidden.abs() > 1e-5
        full = torch.einsum("bna,tca->bntc", x @ qkv.fact.U.T, qkv.fact_cores())
    torch.testing.assert_close(hidden[kept], 2 * full[kept], rtol=1e-3, atol=1e-4)
    assert 0.4 < kept.float().mean() < 0.6
    assert not torch.equal(kept[:, :, 0], kept[:, :, 1])


@FORMS
def test_the_factors_are_stored_once_on_the_first_block(form):
    names = [name for name, _ in vp.tuned_parameters(tuned("vit", form)) if ".fact." in name]
    wanted = ["U", "V"] if form == "tt" else ["U", "V", "cube", "columns"]
    assert names == [f"blocks.0.attn.qkv.fact.{name}" for name in wanted]


def test_v_starts_from_zero_and_all_else_does_not():
    for form in ("tt", "tk"):
        model = vp.attach(tiny("vit"), vp.FacT(rank=RANK, form=form))
        for name, parameter in vp.tuned_parameters(model):
            if "fact" in name:
                assert (parameter.abs().max() == 0) == name.endswith(".V"), name


def padded_updates(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """s V C U x of ``layer`` with x padded to whole tiles and the surplus outputs cut, and the numbers cut off."""
    factors, whole = layer.fact_shared[0], x
    if layer.in_features % D:
        zeros = torch.zeros(*x.shape[:-1], D - layer.in_features % D)
        whole = torch.cat([x, zeros], dim=-1)
    inputs = whole.split(D, dim=-1)
    if len(inputs) == 1:
        inputs *= len(layer.fact_cores())  # tiles side by side in the output
    tiles = [x @ factors.U.T @ C.T @ factors.V.T for x, C in zip(inputs, layer.fact_cores(), strict=True)]
    update = 0.8 * (torch.stack(tiles).sum(0) if layer.in_features > D else torch.cat(tiles, dim=-1))
    return update[..., : layer.out_features], update[..., layer.out_features :]


@FORMS
@pytest.mark.parametrize(
    ("family", "layer", "cut"),
    [
        ("dinov2_swiglu", "mlp.fc1", 192 - 170),
        ("dinov2_swiglu", "mlp.fc2", 0),
        ("rope_gqa", "attn.k_proj", 16),
        ("rope_gqa", "attn.v_proj", 16),
        ("rope_gqa", "mlp.fc2", 0),
    ],
)
def test_a_side_of_no_whole_tiles_is_padded_at_the_input_and_cut_at_the_output(family, layer, cut, form):
    linear: Any = tuned(family, form, scale=0.8).get_submodule(f"blocks.1.{layer}")
    x = torch.randn(2, 3, linear.in_features)
    update, surplus = padded_updates(linear, x)
    bias = 0 if linear.bias is None else linear.bias
    torch.testing.assert_close(linear(x), x @ linear.weight.T + bias + update, rtol=1e-5, atol=1e-5)
    assert surplus.shape[-1] == cut
    assert update.abs().max() > 1e-3


@FORMS
@pytest.mark.parametrize("head_dim", [4, 12])  # two heads: attention is half or one and a half times as wide as D = 16
def test_attention_of_another_width_than_the_stream_is_cut_into_tiles_too(head_dim, form):
    model: Any = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        embed_dim=16,
        depths=(1,),
        num_heads=(2,),
        head_dim=head_dim,
        num_classes=5,
    )
    vp.attach(model.eval(), vp.FacT(rank=RANK, form=form))
    randomise_tuned(model)
    attn, x, expected = blocks(model)[0].attn, images(model), model(images(model))
    tiles = [len(layer.fact_cores()) for layer in (attn.qkv, attn.proj)]
    assert tiles == {4: [2, 1], 12: [5, 2]}[head_dim]
    merged = vp.merge(model)
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tiles"),
    [
        ("eva02_tiny_patch14_224", 3 + 1 + 6 + 3),  # a packed SwiGLU: 1,024 outputs, 512 inputs on 192 channels
        ("eva02_base_patch14_224", 3 + 1 + 2 * 3 + 3),  # 2,048 on 768
        ("vit_giant_patch14_dinov2", 3 + 1 + 6 + 3),  # 8,192 and 4,096 on 1,536
        ("vit_so400m_patch14_siglip_224", 3 + 1 + 4 + 4),  # 4,304 on 1,152
    ],
)
def test_counts_round_the_tiles_up(name, tiles):
    with torch.device("meta"):
        model: Any = timm.create_model(name, depth=2, num_classes=0)
    width = model.num_features
    counts = vp.count_parameters(vp.attach(model, vp.FacT(rank=8)))
    assert counts.trained == counts.stored == 2 * width * 8 + 2 * tiles * 8**2


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(ValueError, match="rank must be at most the width 32 of the backbone; got 33"):
        vp.attach(tiny("vit"), vp.FacT(rank=33))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rank": 0}, "rank must"),
        ({"scale": 0}, "scale must"),
        ({"dropout": -0.1}, "dropout must"),
        ({"columns": "shared"}, "columns must be one of 'mixed', 'own'"),
        ({"form": "cp"}, "form must be one of 'tt', 'tk'; got 'cp'"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.FacT(**fields)
