"""FacT's updates as dense matrices, built tile by tile from the factors; counts, start, refusals."""

from typing import Any

import pytest
import timm
import torch
from families import images, randomise_tuned, tiny
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.timm_blocks import blocks

FORMS = pytest.mark.parametrize("form", ["tt", "tk"])
D, RANK = 32, 4


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
            tiles = max(layer.in_features, layer.out_features) // D
            cores = list(layer.fact_core) if form == "tt" else tucker_cores(factors, first, tiles, part)
            first += tiles
            blocks_of_weight = [scale * factors.V @ core @ factors.U for core in cores]
            found[f"blocks.{i}.{name}"] = torch.cat(blocks_of_weight, dim=1 if part == "fc2" else 0)
    return found


@FORMS
@pytest.mark.parametrize("family", ["vit", "deit3", "dinov3_qkvb", "eva02_tiny", "eva02_base", "beit"])
def test_the_tuned_model_is_the_backbone_with_dense_updates_added_to_its_weights(family, form):
    model, plain = tuned(family, form, scale=0.8), tiny(family)
    with torch.no_grad():
        for name, delta in updates(model, form, 0.8).items():
            assert delta.abs().max() > 1e-3, "the update does nothing: this test tests nothing"
            plain.get_parameter(f"{name}.weight").add_(delta)
        plain.head.load_state_dict(model.head.state_dict())
        x = images(plain)
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "eva02_base"])
def test_with_columns_of_their_own_every_tile_has_the_core_of_its_column(family):
    model, plain = tuned(family, "tk", columns="own"), tiny(family)
    factors, column = next(m.fact for _, m in model.named_modules() if hasattr(m, "fact")), 0
    with torch.no_grad():
        for name, layer in [(n, m) for n, m in model.named_modules() if hasattr(m, "fact_scale")]:
            tiles = []
            for _ in range(max(layer.in_features, layer.out_features) // D):
                core = torch.stack([factors.cube[:, :, c] * factors.columns[c, column] for c in range(RANK)]).sum(0)
                tiles.append(factors.V @ (core if "fc2" in name else core.T) @ factors.U)
                column += 1
            plain.get_parameter(f"{name}.weight").add_(torch.cat(tiles, dim=1 if "fc2" in name else 0))
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
    counts = vp.count_parameters(vp.attach(timm.create_model("vit_base_patch16_224", num_classes=0), method))
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


def test_a_weight_that_cannot_be_cut_into_square_tiles_is_refused():
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1)
    with pytest.raises(ValueError, match="fc1 with 192 inputs and 1024 outputs cannot be cut into 192 x 192 tiles"):
        vp.attach(model, vp.FacT())


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
