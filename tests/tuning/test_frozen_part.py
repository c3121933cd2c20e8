"""Going on from what the frozen blocks made of images is the forward pass on the images, bit for bit."""

import dataclasses
from typing import Any

import pytest
import torch
from support.families import WITH_BLOCKS, attach, images, randomise_tuned, tiny
from support.matrix import fits, parametrize
from torch import Tensor

import vision_peft as vp
from vision_peft.tuning.block_method import BlockMethod
from vision_peft.tuning.blocks import blocks
from vision_peft.tuning.frozen_part import FrozenPart, NotConstant, find_frozen_part

READS_ALL = ("lst",)  # its side network, whatever blocks it has layers for


def find(model: Any) -> FrozenPart | None:
    return find_frozen_part(model.eval(), images(model, 1) * 0)


def gradients(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Of the trained parameters, of a loss that feels every logit."""
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in vp.tuned_parameters(model) if p.grad is not None}


def check_the_same(model: Any, part: FrozenPart) -> None:
    """What was kept stays true however the tuned tensors change, forward and backward, and the model is left as is."""
    x = images(model, 3)
    kept = part.run(model, x)
    randomise_tuned(model, seed=5)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected, wanted = model(x).detach(), gradients(model, x)
    with part.left_out(model):
        assert torch.equal(model(kept), expected)
        found = gradients(model, kept)
        assert model.state_dict().keys() == state.keys()
    assert found.keys() == wanted.keys()
    assert found
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name
    assert torch.equal(model(x).detach(), expected)


DEPTHS = [
    pytest.param(family, last, id=f"{family}-last {last}", marks=[pytest.mark.matrix] if last > 1 else [])
    for family in WITH_BLOCKS
    for last in range(1, len(blocks(tiny(family))))
]


@pytest.mark.parametrize(("family", "last"), DEPTHS)
def test_every_family_goes_on_from_the_last_frozen_block(family: str, last: int) -> None:
    model = attach(tiny(family), vp.LoRA(rank=2, blocks=f"last {last}"))
    part = find(model)
    assert part is not None
    assert part.blocks == blocks(model)[: len(blocks(model)) - last]
    check_the_same(model, part)


@parametrize([])
def test_what_is_kept_depends_on_nothing_that_trains(method: vp.Method, family: str) -> None:
    model = attach_to_last_block(method, family)
    part = find(model)
    if part is not None:
        check_the_same(model, part)


def attach_to_last_block(method: vp.Method, family: str) -> Any:
    """Attach to the last block alone where the method acts on blocks and can do with one, else to all."""
    if isinstance(method, BlockMethod):
        try:
            last = dataclasses.replace(method, blocks="last 1")
            if fits(last, family):
                return attach(tiny(family), last)
        except ValueError:  # at a layer in front of the blocks, or where no gradient would arrive
            pass
    return attach(tiny(family), method)


@pytest.mark.parametrize("name", [name for name, m in vp.METHODS.items() if issubclass(m, BlockMethod)])
def test_methods_on_the_last_block_leave_those_below_out(name: str) -> None:
    made: Any = vp.METHODS[name]
    method = made(blocks="last 1")
    if not fits(method, "vit"):
        pytest.skip("it needs another backbone")
    model = attach(tiny("vit"), method)
    part = find(model)
    assert (None if part is None else part.blocks) == (None if name in READS_ALL else blocks(model)[:1])
    if part is not None:
        check_the_same(model, part)


def test_methods_in_front_of_the_blocks_leave_nothing_out() -> None:
    for method in (vp.VPT(tokens=2, deep=False), vp.PromptTuning(tokens=2), vp.LoRA(rank=2), vp.BitFit()):
        assert find(attach(tiny("vit"), method)) is None
    for trained in ("pos_embed", "patch_embed.proj.weight"):
        model = attach(tiny("vit"), vp.LoRA(rank=2, blocks="last 1"))
        model.get_parameter(trained).requires_grad_(True)
        assert find(model) is None


def test_what_trains_between_two_stages_runs() -> None:
    model = attach(tiny("swin"), vp.LoRA(rank=2, blocks="last 1"))
    model.layers[1].downsample.requires_grad_(True)
    part = find(model)
    assert part is not None
    assert part.blocks == blocks(model)[:2]


def test_the_model_is_what_it_was_after_an_error_inside() -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2, blocks="last 1"))
    part = find(model)
    assert part is not None
    before = [(name, type(module)) for name, module in model.named_modules()]

    def interrupted() -> None:
        with part.left_out(model):
            assert [(name, type(module)) for name, module in model.named_modules()] != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert not hasattr(model, "handover")


def test_frozen_blocks_and_the_patch_embedding_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2, blocks="last 1"))
    vp.restore_last_block(model)  # else its attention is written out
    part, x = find(model), images(model, 3)
    assert part is not None
    kept, runs = part.run(model, x), []
    for name, cls in (("attention", type(model.blocks[0].attn)), ("embedding", type(model.patch_embed))):
        real = cls.forward
        monkeypatch.setattr(
            cls, "forward", lambda self, *a, real=real, name=name, **k: runs.append(name) or real(self, *a, **k)
        )
    with part.left_out(model):
        model(kept)
    assert runs == ["attention"]
    part.run(model, x)
    assert runs == ["attention", "embedding", "attention"]  # and nothing behind the last frozen block


@pytest.mark.parametrize("recomputed", ["mlp", "attention", "block"])
def test_what_runs_again_in_the_backward_pass_goes_on_from_the_same_tokens(recomputed: str) -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2, blocks="last 1"))
    expected = gradients(model, images(model, 3))
    vp.set_recompute(model, recomputed)
    part = find(model)
    assert part is not None
    kept = part.run(model, images(model, 3))
    with part.left_out(model):
        found = gradients(model, kept)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_a_model_that_goes_on_from_tokens_compiles_as_one_graph() -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2, blocks="last 1"))
    part, x = find(model), images(model, 3)
    assert part is not None
    kept = part.run(model, x)
    with part.left_out(model):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for size in (3, 2):
            torch.testing.assert_close(compiled(kept[:size]), model(kept[:size]))


def test_of_clips_taken_frame_by_frame_the_frames_stay_with_their_clip() -> None:
    model = attach(tiny("frames"), vp.LoRA(rank=2, blocks="last 1"))
    part, x = find(model), images(model, 3)
    assert part is not None
    kept = torch.cat([part.run(model, each[None]) for each in x])
    assert kept.shape[:2] == (3, 4)
    with part.left_out(model):
        torch.testing.assert_close(model(kept[[2, 0]]), model(kept)[[2, 0]])
        torch.testing.assert_close(model(kept), attach(tiny("frames"), vp.LoRA(rank=2, blocks="last 1")).eval()(x))


def test_blocks_that_run_twice_are_not_left_out() -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2, blocks="last 1"))
    forward = type(model).forward_features
    model.forward_features = lambda *args, **kwargs: forward(model, *args, **kwargs) + forward(model, *args, **kwargs)
    with pytest.raises(NotConstant, match="do not give one tensor with rows for each image"):
        find(model)
