"""P-Tuning's tokens at places of patches: one with the content of the patch there acts as a copy of it."""

import math
from functools import partial
from typing import Any

import pytest
import timm
import torch
from support.families import FLAT, images, randomise_tuned, tiny
from timm.models import beit
from torch import Tensor, nn

import vision_peft as vp
from vision_peft.backbones import create_backbone
from vision_peft.tuning.graft import grafts
from vision_peft.tuning.input_tokens import prompt_insertion_module

PATCHES = {  # of three tokens, by number of patches
    ("end", 4): [1, 2, 3],
    ("end", 8): [5, 6, 7],
    ("end", 16): [13, 14, 15],
    ("interleaved", 4): [0, 2, 3],
    ("interleaved", 8): [1, 4, 6],
    ("interleaved", 16): [2, 8, 13],
}
_TINY: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
_CLIP: dict[str, Any] = {**_TINY, "img_size": 16, "num_frames": 4}
MORE = {  # further ways to tell a place
    "rotary by block": partial(timm.create_model, "vit_small_patch16_rope_mixed_224", **_TINY),
    "rotary by block and absolute": partial(timm.create_model, "vit_small_patch16_rope_mixed_ape_224", **_TINY),
    "perception encoder": partial(timm.create_model, "vit_pe_core_tiny_patch16_384", global_pool="token", **_TINY),
    "inflated": partial(create_backbone, "vit_tiny_patch16_224", **_CLIP, tubelet_size=2, inflate="average"),
    "frames of dinov3": partial(create_backbone, "vit_small_patch16_dinov3", **_CLIP),
    "beit with both tables": partial(
        timm.create_model, "beit_base_patch16_224", **_TINY, use_abs_pos_emb=True, use_shared_rel_pos_bias=True
    ),
}


def contents(model: Any, x: Tensor) -> Tensor:
    """Patches (N D) of the one image ``x`` before anything tells their places."""
    seen: list[Tensor] = []
    handle = model.patch_embed.norm.register_forward_hook(lambda module, args, y: seen.append(y.detach()))
    model(x)
    handle.remove()
    return seen[0][0].flatten(0, -2)


def outputs(model: Any, x: Tensor) -> list[Tensor]:
    """Tokens behind every block, all of them."""
    vp.restore_last_block(model)
    seen: list[Tensor] = []
    handles = [block.register_forward_hook(lambda module, args, y: seen.append(y.detach())) for block in model.blocks]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


def one_image(model: Any) -> Tensor:
    """A batch of one; of frames a clip that stands still."""
    x = images(model, batch=1).double()
    return x[:, :, :1].expand_as(x).contiguous() if x.ndim == 5 and len(model.patch_embed.grid_size) == 2 else x


def set_tokens(model: Any, tokens: Tensor) -> None:
    with torch.no_grad():
        prompt_insertion_module(model).pseudo_tokens.copy_(tokens)  # pyright: ignore[reportCallIssue]


def attended_twice(model: Any, patches: list[int]) -> None:
    """Let every query of ``model`` see the keys of ``patches`` twice: exp(s + log 2) = 2 exp(s)."""
    length = model.num_prefix_tokens + model.patch_embed.num_patches
    mask = torch.zeros(length, length, dtype=torch.float64)
    mask[:, [model.num_prefix_tokens + patch for patch in patches]] = math.log(2)

    def add(attn: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        name = "shared_rel_pos_bias" if isinstance(attn, beit.Attention) else "attn_mask"
        given = kwargs.get(name)
        return args, {**kwargs, name: mask if given is None else given + mask}

    for block in model.blocks:
        block.attn.register_forward_pre_hook(add, with_kwargs=True)


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def check_copies(model: Any, plain: Any, where: str) -> None:
    model, plain = model.double(), plain.double()
    vp.attach(model, vp.PTuning(tokens=3, encoder="none", positions=where))
    patches = PATCHES[where, model.patch_embed.num_patches]
    x, at = one_image(model), plain.num_prefix_tokens
    set_tokens(model, contents(plain, x)[patches])
    got = outputs(model, x)
    for tokens in got:
        copies, grid = tokens[:, at : at + 3], tokens[:, at + 3 :]
        same(copies, grid[:, patches])
    attended_twice(plain, patches)
    for tokens, expected in zip(got, outputs(plain, x), strict=True):
        same(torch.cat([tokens[:, :at], tokens[:, at + 3 :]], 1), expected)
    same(model(x), plain(x))


@pytest.mark.parametrize("where", ["end", "interleaved"])
@pytest.mark.parametrize("family", FLAT)
def test_a_token_with_the_content_of_its_patch_is_a_copy_of_it(family, where):
    check_copies(tiny(family), tiny(family), where)


def random(make: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    model = make(**fields).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 if "norm" in name else torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("where", ["end", "interleaved"])
@pytest.mark.parametrize("kind", MORE)
def test_so_it_is_where_places_are_told_in_yet_another_way(kind, where):
    check_copies(random(MORE[kind]), random(MORE[kind]), where)


PLACED = vp.PTuning(tokens=3, encoder="none", positions="interleaved")
OTHERS = [
    vp.VPT(tokens=2, deep=False),
    vp.PromptTuning(tokens=2),
    vp.PrefixTuning(tokens=2, hidden=None),
    vp.VPT(tokens=2),
    vp.SSF(),
]


@pytest.mark.parametrize("family", ["vit", "clip", "dinov3", "eva02_base", "rope_gqa", "beit", "beit_shared_bias"])
@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_a_copy_it_stays_beside_other_prompts_in_either_order(family, other):
    model, swapped = tiny(family).double(), tiny(family).double()
    vp.attach(vp.attach(model, PLACED), other)
    vp.attach(vp.attach(swapped, other), PLACED)
    randomise_tuned(model)
    patches, x = PATCHES["interleaved", model.patch_embed.num_patches], one_image(model)
    set_tokens(model, contents(model, x)[patches])
    for tokens in outputs(model, x):
        grid = tokens[:, model.num_prefix_tokens :]
        same(tokens[:, model.num_prefix_tokens - 3 : model.num_prefix_tokens], grid[:, patches])
    vp.load_tuned(swapped, vp.tuned_state_dict(model))
    same(swapped(x), model(x))
    expected = tiny(family).double()
    vp.load_tuned(vp.detach(model), {n: t for n, t in expected.state_dict().items() if n.startswith("head")})
    assert torch.equal(model(x), expected(x))


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "deit3_small_patch16_224"])
def test_where_sizes_are_dynamic_the_places_are_those_in_the_grid_at_hand(name):
    model = random(partial(timm.create_model, name, **_TINY, dynamic_img_size=True)).double()
    vp.attach(model, PLACED)
    x, at = torch.randn(1, 3, 48, 40, dtype=torch.float64), model.num_prefix_tokens
    patches = [5, 15, 25]  # of 6 x 5
    set_tokens(model, contents(model, x)[patches])
    for tokens in outputs(model, x):
        assert tokens.shape[1] == at + 30
        same(tokens[:, at - 3 : at], tokens[:, [at + patch for patch in patches]])
    with pytest.raises(ValueError, match="at most 2 tokens, got 3"):
        model(torch.randn(1, 3, 8, 16, dtype=torch.float64))


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_ape_224"])
def test_coordinates_that_are_drawn_in_training_are_those_of_the_patches(name):
    model = random(partial(timm.create_model, name, **_TINY, rope_shift_coords=0.3, rope_jitter_coords=1.5)).double()
    vp.attach(model, PLACED)
    vp.train_mode(model, frozen="train")
    x, at = one_image(model), model.num_prefix_tokens
    set_tokens(model, contents(model, x)[PATCHES["interleaved", 16]])
    first, second = outputs(model, x)[-1], outputs(model, x)[-1]
    assert (first - second).abs().max() > 1e-3
    same(first[:, at - 3 : at], first[:, [at + patch for patch in PATCHES["interleaved", 16]]])


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_base_patch16_clip_224",
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_mixed_ape_224",
    ],
)
def test_places_of_dropped_patches_stay_places(name):
    model = random(partial(timm.create_model, name, **_TINY, patch_drop_rate=0.5)).double()
    attributes = dict(vars(model.patch_drop))
    vp.attach(model, vp.PTuning(tokens=16, encoder="none", positions="end"))
    x = one_image(model)
    set_tokens(model, contents(model, x))
    vp.train_mode(model, frozen="train")
    for tokens in outputs(model, x):
        copies, patches = tokens[0, : model.num_prefix_tokens][-16:], tokens[0, model.num_prefix_tokens :]
        assert patches.shape == (8, 32)
        nearest = (patches[:, None] - copies).norm(dim=-1).min(1)
        same(nearest.values, torch.zeros(8, dtype=torch.float64))
        assert len(set(nearest.indices.tolist())) == 8
    vp.detach(model)
    assert vars(model.eval().patch_drop) == attributes


@pytest.mark.parametrize("methods", [(PLACED, vp.AIM()), (vp.AIM(), PLACED)], ids=["first", "last"])
def test_frames_that_a_method_counts_are_counted_at_places_too(methods):
    model = tiny("frames").double()
    for method in methods:
        vp.attach(model, method)
    randomise_tuned(model)
    patches, x = PATCHES["interleaved", 4], one_image(model)
    set_tokens(model, contents(model, x)[patches])
    for tokens in outputs(model, x):
        same(tokens[:, 1:4], tokens[:, [4 + patch for patch in patches]])


@pytest.mark.parametrize("family", FLAT)
def test_the_content_of_patches_can_be_what_they_start_from(family):
    plain, model = tiny(family), tiny(family)
    x = images(model, batch=1)
    method = vp.PTuning(tokens=2, encoder="none", init="patches", positions="end")
    vp.attach(model, method, samples=[(x, torch.tensor([0]))])
    seen: list[Tensor] = []
    plain.patch_embed.norm.register_forward_hook(lambda module, args, y: seen.append(y.flatten(0, -2)))
    plain(x)
    drawn: Any = prompt_insertion_module(model).pseudo_tokens
    nearest = (drawn[:, None] - seen[0]).norm(dim=-1).min(1)
    torch.testing.assert_close(nearest.values, torch.zeros(2), rtol=0, atol=1e-4)
    assert len(set(nearest.indices.tolist())) == 2


@pytest.mark.parametrize("family", FLAT)
def test_what_is_stored_is_the_content_alone(family, tmp_path):
    model = vp.attach(tiny(family), vp.PTuning(tokens=3, positions="interleaved"))
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    assert vp.count_parameters(model).stored == 3 * 32
    vp.save_adapter(model, tmp_path)
    torch.testing.assert_close(vp.load_adapter(tiny(family), tmp_path)(x), expected, rtol=1e-5, atol=1e-5)
    vp.bake(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "dinov3", "beit"])
def test_more_tokens_than_patches_have_no_places(family):
    model = tiny(family)
    with pytest.raises(ValueError, match="at most 16 tokens, got 17"):
        vp.attach(model, vp.PTuning(tokens=17, positions="interleaved"))
    assert not list(grafts(model))


def test_where_patches_have_no_places_there_are_none_to_take():
    model: Any = timm.create_model("vit_tiny_patch16_224", **_TINY, pos_embed="none")
    with pytest.raises(ValueError, match='have no positions that tokens could take: wanted positions="start"'):
        vp.attach(model, PLACED)
