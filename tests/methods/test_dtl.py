"""DTL's running sums written out block by block, what training keeps of it, checkpointing, counts, refusals."""

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from support.block_inputs import recorded_calls
from support.families import images, randomise_tuned, tiny
from support.saved_bytes import count_saved_bytes
from support.vit_base import count_on_vit_base
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import vision_peft as vp
from vision_peft.tuning.blocks import attn_half, block_end, blocks, mlp_half, stages

DEEP = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 5}


def deep_vit(depth: int = 8, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=depth, **{**DEEP, **arguments}).eval()


def depthwise(taps: Tensor, maps: Tensor) -> Tensor:
    """Each pixel of maps (B H W D) as a sum over its neighbours; taps (D 1 k k), of which (k - 1) // 2 come before."""
    k, (rows, columns) = taps.shape[-1], maps.shape[1:3]
    before = (k - 1) // 2
    y = torch.zeros_like(maps)
    for r in range(rows):
        for c in range(columns):
            for i in range(k):
                for j in range(k):
                    row, column = r + i - before, c + j - before
                    if 0 <= row < rows and 0 <= column < columns:
                        y[:, r, c] += taps[:, 0, i, j] * maps[:, row, column]
    return y


def side_output(h: Tensor, beta: float, conv: Any, grid: tuple[int, ...], steps: int = 1) -> Tensor:
    g = h / (1 + (-beta * h).exp())
    if conv is None:
        return g
    if g.ndim == 4:
        return depthwise(conv.weight, g)
    patches = grid[0] * grid[1]
    prefix, rest = g.split([g.shape[1] - steps * patches, steps * patches], 1)
    maps = [depthwise(conv.weight, step.unflatten(1, grid)).flatten(1, 2) for step in rest.split(patches, 1)]
    return torch.cat([prefix, *maps], 1)


@pytest.mark.parametrize("kernel", [None, 3, 4])
@pytest.mark.parametrize(
    "family", ["vit", "deit_distilled", "dinov2_reg4", "eva02_base", "beit", "tubelet", "frames", "swin", "swin_v2_cr"]
)
def test_every_block_adds_what_the_running_sum_of_its_stage_gives(family, kernel):
    plain: Any = tiny(family)
    model: Any = vp.attach(tiny(family), vp.DTL(rank=3, kernel=kernel, beta=3.0))
    randomise_tuned(model)
    stage_of = {block: members for members in stages(model) for block in members}
    halves = dict(zip(blocks(model), blocks(plain), strict=True))
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model.eval()(images(model))
        h: Any = None
        for block, (x,), kwargs, y in calls:
            first = stage_of[block][0]
            low_rank = x @ block.dtl.A.T @ block.dtl.B.T
            h = low_rank if block is first else h + low_rank
            grid, steps = tuple(model.patch_embed.grid_size[-2:]), 2 if family == "tubelet" else 1
            added = side_output(h, 3.0, first.dtl_output.conv, grid, steps)
            assert added.abs().max() > 0.01, "the side path does nothing"
            bare = halves[block]
            expected = block_end(bare, mlp_half(bare, attn_half(bare, x, **kwargs)) + added)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=5e-5)


def test_fed_and_added_choose_blocks_and_what_no_added_block_stands_behind_learns_nothing():
    model: Any = vp.attach(deep_vit(), vp.DTL(kernel=3, fed=(1, 3, 6), added=(3, 5)))
    names = {name.rsplit(".", 2)[0] for name, _ in vp.tuned_parameters(model) if "dtl" in name}
    assert names == {"blocks.1", "blocks.3", "blocks.1.dtl_output"}
    randomise_tuned(model)
    vp.restore_last_block(model)
    plain = deep_vit()
    with torch.no_grad(), recorded_calls(blocks(model)) as calls:
        model(images(model))
        found = dict(enumerate(calls))
        z = {i: found[i][1][0] @ model.blocks[i].dtl.A.T @ model.blocks[i].dtl.B.T for i in (1, 3)}
        for i, (_, (x,), _, y) in found.items():
            expected = plain.blocks[i](x)
            if i in (3, 5):
                expected = expected + side_output(z[1] + z[3], 100.0, model.blocks[1].dtl_output.conv, (4, 4))
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=5e-5)


def test_fed_and_added_count_within_the_chosen_blocks():
    model = vp.attach(deep_vit(), vp.DTL(blocks="2-7", fed="last 4", added="last 2"))
    fed = [i for i, block in enumerate(blocks(model)) if getattr(block, "dtl", None) is not None]
    added = [i for i, block in enumerate(blocks(model)) if getattr(block, "dtl_shared", ())]
    assert (fed, added) == ([4, 5, 6, 7], [6, 7])
    model = vp.attach(deep_vit(4), vp.DTL())
    assert [len(block.dtl_shared) for block in blocks(model)] == [1, 1, 1, 1]


def test_of_swin_only_stages_with_an_added_block_learn():
    model: Any = vp.attach(tiny("swin"), vp.DTL(kernel=3, added="last 1"))
    stages_that_learn = {name.split(".")[1] for name, _ in vp.tuned_parameters(model) if "dtl" in name}
    assert stages_that_learn == {"1"}


@pytest.mark.parametrize(("kernel", "figure"), [(None, 36_864), (3, 43_776), (4, 49_152), (5, 56_064)])
def test_counts_are_those_of_the_closed_form(kernel, figure):
    counts = count_on_vit_base(vp.DTL(kernel=kernel))
    assert counts.trained == counts.stored == 2 * 768 * 2 * 12 + (kernel or 0) ** 2 * 768 == figure


def test_swin_has_a_convolution_for_every_stage():
    with torch.device("meta"):
        model = timm.create_model("swin_base_patch4_window7_224", num_classes=0)
        counts = vp.count_parameters(vp.attach(model, vp.DTL(kernel=5, added="all")))
    stages_of_swin = {128: 2, 256: 2, 512: 18, 1024: 2}
    assert counts.trained == sum(depth * 2 * dim * 2 + 25 * dim for dim, depth in stages_of_swin.items())


def test_the_start_is_a_plain_linear_layer_in_front_of_zeros_and_only_the_zeros_have_a_gradient():
    model: Any = vp.attach(deep_vit(), vp.DTL(kernel=3))
    model(images(model)).square().sum().backward()
    for name, parameter in vp.tuned_parameters(model):
        if "dtl" in name:
            moves = parameter.grad.abs().max() > 0  # type: ignore[union-attr]
            assert moves == name.endswith(".B"), name
    A = torch.stack([block.dtl.A for block in blocks(model)])
    assert 0.9 * 32**-0.5 < A.abs().max() <= 32**-0.5
    assert all(block.dtl.B.abs().max() == 0 for block in blocks(model))
    taps = blocks(model)[0].dtl_output.conv.weight
    assert 0.9 / 3 < taps.abs().max() <= 1 / 3


def test_no_block_in_front_of_the_first_added_one_is_in_a_graph():
    model: Any = vp.train_mode(vp.attach(deep_vit(12), vp.DTL()))
    randomise_tuned(model)
    with recorded_calls([model.patch_embed, *model.blocks]) as calls:
        model(images(model))
    assert [call[3].requires_grad for call in calls] == [False] * 7 + [True] * 6


@pytest.mark.parametrize("kernel", [None, 3])
def test_training_keeps_at_most_six_tenths_of_what_lora_keeps(kernel):
    size = {"img_size": 224, "patch_size": 16, "embed_dim": 48, "num_heads": 3}
    kept = []
    for method in (vp.LoRA(rank=8), vp.DTL(kernel=kernel)):
        model = vp.train_mode(vp.attach(deep_vit(12, **size), method))
        vp.restore_last_block(model)  # DTL's is whole
        kept.append(count_saved_bytes(model, torch.randn(1, 3, 224, 224)))
    assert kept[1] <= 0.6 * kept[0]


def two_batches(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Gradients of two batches whose forwards both come before the backward pass."""
    model.zero_grad()
    torch.cat([model(x), model(2 * x + 1)]).square().sum().backward()
    return {name: p.grad.clone() for name, p in vp.tuned_parameters(model)}  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["vit", "eva02_base", "swin", "swin_v2_cr"])
def test_checkpointing_gives_the_same_gradients_also_of_two_batches_at_once(family):
    model: Any = vp.attach(vp.attach(tiny(family), vp.LoRA(rank=2)), vp.DTL(kernel=3, beta=3.0))
    randomise_tuned(model)
    expected = two_batches(model, images(model))
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(two_batches(model, images(model)), expected)


def test_checkpointing_gives_the_same_gradients_where_blocks_are_cut_into_shards(tmp_path):
    model: Any = vp.attach(deep_vit(4), vp.DTL(kernel=3, beta=3.0))
    randomise_tuned(model)
    x = images(model)
    expected = two_batches(model, x)
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        added = {p for _, p in vp.tuned_parameters(model)}
        for part in [*model.blocks, model]:
            fully_shard(part, mesh=init_device_mesh("cpu", (1,)), ignored_params=added)
        model.set_grad_checkpointing(True)
        torch.testing.assert_close(two_batches(model, x), expected)
    finally:
        dist.destroy_process_group()


def test_a_forward_does_not_see_what_another_one_left_and_copies_start_empty():
    model: Any = vp.attach(deep_vit(), vp.DTL(beta=3.0))
    randomise_tuned(model)
    x = images(model)
    expected = model(x)
    model(x[:1] + 1)
    assert torch.equal(model(x), expected)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        states = {id(block.dtl_state) for block in blocks(twin)}
        assert len(states) == 1
        assert not blocks(twin)[0].dtl_state.terms
        assert torch.equal(twin(x), expected)
    blocks(model)[0].forget()
    assert not blocks(model)[-1].dtl_state.terms


def test_the_published_settings_are_the_default():
    assert vp.DTL.as_published(kernel=3) == vp.DTL(rank=2, kernel=3, beta=100.0, fed="all", added="last 6")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rank": 0}, "rank must be a number above 0; got 0"),
        ({"beta": -1.0}, "beta must be a number above 0; got -1.0"),
        ({"kernel": 0}, "kernel must be a number above 0; got 0"),
        ({"fed": "every"}, "fed must be"),
        ({"added": (1, 1)}, "added must be distinct"),
        ({"blocks": "some"}, "blocks must be"),
    ],
)
def test_impossible_fields_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        vp.DTL(**fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"fed": "last 1", "added": "first 1"},
            r"behind block 0: no block is fed before it; got fed='last 1', added='fi",
        ),
        ({"added": (8,)}, r"added=\[8\], but this backbone has 8 blocks"),
        ({"fed": (9,)}, r"fed=\[9\], but"),
    ],
)
def test_blocks_that_do_not_fit_the_backbone_are_refused(fields, reason):
    model = deep_vit()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=reason):
        vp.attach(model, vp.DTL(**fields))
    assert list(model.state_dict()) == names


def test_a_stage_in_which_nothing_is_fed_before_an_added_block_is_refused():
    with pytest.raises(ValueError, match=r"behind block 2: no block is fed before it in its stage"):
        vp.attach(tiny("swin"), vp.DTL(fed=(0,), added="all"))


def test_patches_that_are_dropped_in_training_form_no_grid_and_are_refused_with_a_convolution_only():
    vp.attach(deep_vit(patch_drop_rate=0.5), vp.DTL())
    with pytest.raises(ValueError, match="drops patches"):
        vp.attach(deep_vit(patch_drop_rate=0.5), vp.DTL(kernel=3))
