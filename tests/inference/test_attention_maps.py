"""Where the class token and prompts look, on every family that has a class token."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.families import FAMILIES, images, tiny, tuned

import vision_peft as vp
from vision_peft.inference.attention_maps import Looks, check_class_token, read_attention
from vision_peft.inference.attention_picture import draw_attention
from vision_peft.tuning.blocks import blocks

REFUSED = {
    **dict.fromkeys(("siglip", "swin", "swin_v2", "swin_v2_cr"), "has no class token"),
    **dict.fromkeys(("tubelet", "frames"), "for image models only, and this one takes clips"),
    **dict.fromkeys(("cait", "xcit"), "has no class token in its blocks: .* the token comes behind them"),
    "vit_parallel": "has several attentions in a block",
}
WITH_CLASS_TOKEN = [name for name in FAMILIES if name not in REFUSED]


def total(looks: Looks) -> list[float]:
    each = [look for look in (looks.frozen, looks.tuned, looks.prompts) if look is not None]
    return [float(look.patches.sum()) + look.on_itself + look.on_prompts for look in each]


@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
def test_shares_of_attention_add_up_and_prompts_get_theirs(family: str) -> None:
    model = tuned(family, vp.VPT(tokens=3), vp.PromptTuning(tokens=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = images(model)
    for looks in read_attention(model, x):
        assert total(looks) == pytest.approx([1, 1, 1], abs=1e-5)
        assert looks.frozen.on_prompts == pytest.approx(0, abs=1e-6)
        assert looks.tuned.on_prompts > 1e-3
        assert looks.tuned.patches.shape == tuple(model.patch_embed.grid_size)
        assert not torch.allclose(looks.tuned.patches, looks.frozen.patches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [type(method) for method in model.__dict__["_tuning_record"].methods] == [vp.VPT, vp.PromptTuning]


@pytest.mark.parametrize("family", REFUSED)
def test_models_without_a_class_token_are_refused_with_the_reason(family: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[family]):
        check_class_token(tiny(family))


def test_it_is_the_softmax_of_the_block_that_is_asked_for() -> None:
    model = tuned("vit", vp.LoRA(rank=2))
    x = images(model)
    attention, seen = blocks(model)[0].attn, list[torch.Tensor]()
    hook = attention.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    with torch.no_grad():
        model(x)
    hook.remove()
    with torch.no_grad():
        q, k, _ = attention.qkv(seen[0]).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4).unbind(0)
        expected = (q @ k.transpose(-2, -1) / 4).softmax(-1).mean(1)[:, 0]
    for number in (0, -2):
        found = read_attention(model, x, number)
        for looks, row in zip(found, expected, strict=True):
            torch.testing.assert_close(looks.tuned.patches.flatten(), row[1:])
            assert looks.tuned.on_itself == pytest.approx(float(row[0]), abs=1e-5)
    with pytest.raises(ValueError, match="there are 2 blocks, 0 to 1; got 2"):
        read_attention(model, x, 2)


def test_prompts_of_a_block_stand_in_front_of_the_class_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned("vit", vp.VPT(tokens=3))
    x, seen = images(model), list[torch.Tensor]()
    real = F.scaled_dot_product_attention

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **given: Any) -> torch.Tensor:
        seen.append((q @ k.transpose(-2, -1) * given["scale"]).softmax(-1).mean(1)[:, 0])
        return real(q, k, v, **given)

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(F, "scaled_dot_product_attention", watched)
        model(x)
    for looks, row in zip(read_attention(model, x), seen[-1], strict=True):
        assert looks.tuned.on_prompts == pytest.approx(float(row[:3].sum()), abs=1e-5)
        assert looks.tuned.on_itself == pytest.approx(float(row[3]), abs=1e-5)
        torch.testing.assert_close(looks.tuned.patches.flatten(), row[4:])


@pytest.mark.parametrize("family", ["vit", "eva02_base", "beit"])
def test_attention_that_is_not_fused_shows_the_same(family: str) -> None:
    model = tuned(family, vp.LoRA(rank=2))
    fused = read_attention(model, images(model))
    for block in blocks(model):
        block.attn.fused_attn = False
    for one, other in zip(fused, read_attention(model, images(model)), strict=True):
        torch.testing.assert_close(one.tuned.patches, other.tuned.patches)
        torch.testing.assert_close(one.frozen.patches, other.frozen.patches)


def test_where_nothing_is_attached_tuned_is_frozen() -> None:
    model = tiny("vit")
    (looks, _) = read_attention(model, images(model))
    assert torch.equal(looks.frozen.patches, looks.tuned.patches)


def test_the_picture_has_a_row_an_image_and_a_column_more_for_prompts(tmp_path: Path) -> None:
    for methods, columns in (((vp.LoRA(rank=2),), 4), ((vp.PromptTuning(tokens=2),), 5)):
        model = tuned("vit", *methods)
        x = images(model)
        looks = read_attention(model, x)
        file = draw_attention(x.sigmoid(), looks, ["a.png", "b\x1b.png"], ["cat 9 %", ""], "x", "y", tmp_path / "a.png")
        with Image.open(file) as picture:
            assert picture.size == (48 + columns * 238 - 14, 96 + 2 * 282 + 24)
            assert len(picture.convert("RGB").crop((262, 96, 486, 320)).getcolors(10**6) or []) > 50
