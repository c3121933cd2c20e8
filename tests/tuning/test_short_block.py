"""The last block for the tokens that are read: the same logits and gradients, fewer operations, and a way back."""

import copy
import threading
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.families import attach, four_sizes, images, randomise_tuned, tiny, with_drop_paths
from support.matrix import COVER, METHODS, fits
from support.short_blocks import assert_same, build, gradients, is_short, whole_twin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vision_peft as vp
from vision_peft.tuning.short_block import shorten_last_block, whole_last_block

# Families of tiny models whose head reads the class token, and flat ones that are told to.
READ = ["vit", "deit3", "deit_distilled", "dinov2_reg4", "dinov2_swiglu", "clip", "frames", "hybrid", "eva_post_norm"]
READ += ["vit_parallel"]
TOLD = ["beit", "beit_shared_bias", "dinov3", "dinov3_qkvb", "eva02_tiny", "eva02_base", "rope_gqa", "relpos"]
TOLD += ["naflexvit"]
# Methods with a graft on the last block or behind it that needs all tokens, by name.
WHOLE = {"dtl", "lst", "mona"}
CASES = [(method, family) for family in READ + TOLD for method in METHODS if fits(method, family)]
DEFAULT = [case for case in CASES if case in COVER and case[1] in READ][::3]
DEFAULT += [(vp.LoRA(), "beit"), (vp.BitFit(), "eva02_tiny"), (vp.VPT(), "dinov3")]
DEFAULT += [(vp.PTuningV2(), "rope_gqa"), (vp.VPT(tokens=3, deep=False), "relpos")]
DEFAULT += [(vp.AdaptFormer(), "naflexvit")]


@pytest.mark.parametrize(
    ("method", "family"),
    [
        pytest.param(
            *case,
            id=f"{case[0]!r}-{case[1]}",
            marks=[pytest.mark.matrix, *([pytest.mark.cover] if case in DEFAULT else [])],
        )
        for case in CASES
    ],
)
def test_logits_and_gradients_are_those_of_the_whole_block(method, family):
    model: Any = attach(build(family), method)
    randomise_tuned(model)
    fields = vars(method)
    needs_all = method.name in WHOLE or (method.name == "st_adapter" and {"attn"} & {*fields["sites"]})
    assert is_short(model) == (not (needs_all or fields.get("keep_dead")))
    if is_short(model):
        assert_same(model.eval(), whole_twin(model), images(model).double())


@pytest.mark.parametrize("family", ["relpos_shared", "relpos_post", "vit_res_post", "vitamin"])
def test_the_block_stays_whole_where_the_first_token_is_a_patch(family):
    """A model without a class token, told to read the first one: a convolution over the map sees its neighbours."""
    assert not is_short(attach(build(family), vp.Convpass()))


def test_drop_paths_and_two_logits_in_training():
    model: Any = attach(with_drop_paths(build("deit_distilled")), vp.Houlsby(bottleneck=4, sigma=0.1))
    model.set_distilled_training(True)
    vp.train_mode(model, frozen="train")
    assert is_short(model)
    assert_same(model, whole_twin(model), images(model, batch=8).double())


def test_a_gate_reads_the_tokens_that_ask():
    model = build("deit_distilled")
    model.blocks[-1].attn.gate = nn.Linear(32, 32).double()
    whole = copy.deepcopy(model)
    assert shorten_last_block(model)
    assert_same(model, whole, images(model).double())


@pytest.mark.parametrize("family", ["vit", "deit_distilled"])
def test_operations_are_those_of_the_read_tokens(family):
    model, read = build(family), {"vit": 1, "deit_distilled": 2}[family]
    x = images(model, batch=3)
    B, N, D = 3, 16 + read, 32
    # one multiplication and one addition each; queries, output projection and MLP of the other tokens, their scores
    saved = 2 * B * (N - read) * (D * D + D * D + 8 * D * D + 2 * N * D)
    plain = _count(model, x)
    assert shorten_last_block(model)
    assert plain - _count(model, x) == saved
    vp.attach(model, vp.LoRA(rank=2, targets=("q", "v")))
    assert _count(whole_twin(model), x) - _count(model, x) == saved + 2 * B * (N - read) * 2 * (D + D)


def _count_tokens(seen: list[int]) -> Any:
    """A hook that counts tokens and is taken for one of torch's own, which do not ask for all of them."""

    def count(_: Any, __: Any, output: Tensor) -> None:
        seen.append(output.shape[1])

    count.__module__ = "torch.nn"
    return count


def _count(model: Any, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(x.double())
    return counter.get_total_flops()


def test_features_are_those_of_all_tokens():
    model: Any = vp.attach(build("vit"), vp.VPT(tokens=3)).eval()
    x, twin = images(model).double(), whole_twin(model)
    with torch.no_grad():
        assert torch.equal(model.forward_features(x), twin.forward_features(x))
        found, wanted = (each.forward_intermediates(four_sizes(x))[1] for each in (model, twin))
        assert all(map(torch.equal, found, wanted))
        tokens = model.norm_pre(torch.ones(2, 17, 32).double())
        assert torch.equal(model.blocks(tokens), twin.blocks(tokens))


@pytest.mark.parametrize("part", ["blocks.1", "blocks.1.attn.qkv", "blocks.1.mlp.fc1", "norm"])
def test_a_hook_of_the_user_sees_all_tokens(part):
    model: Any = vp.attach(build("vit"), vp.LoRA(rank=2)).eval()
    x, seen = images(model).double(), list[int]()
    with torch.no_grad():
        short = model(x)
        hook = model.get_submodule(part).register_forward_hook(lambda _, __, tokens: seen.append(tokens.shape[1]))
        whole = model(x)
        hook.remove()
        assert torch.equal(model(x), short)
    assert seen == [17]
    torch.testing.assert_close(whole, short, rtol=0, atol=1e-12)


def test_detach_disabled_and_a_failed_attach_leave_what_was_there():
    model = build("vit")
    x = images(model).double()
    expected, classes = model(x), [type(module) for module in model.modules()]
    vp.attach(model, vp.AdaptFormer(bottleneck=4))
    head = copy.deepcopy(model.head.state_dict())
    assert is_short(model)
    with vp.disabled(model):
        assert torch.equal(model(x), expected)
    assert is_short(model)
    with pytest.raises(ValueError, match="already attached"):
        vp.attach(model, vp.AdaptFormer(bottleneck=4))
    assert is_short(model)
    model.head.load_state_dict(head)
    vp.detach(model)
    assert torch.equal(model(x), expected)
    assert [type(module) for module in model.modules()] == classes
    assert shorten_last_block(model)
    vp.detach(model)  # nothing is attached, but this
    assert [type(module) for module in model.modules()] == classes
    with pytest.raises(ValueError, match="blocks"):
        vp.attach(model, vp.AdaptFormer(bottleneck=4, blocks=(7,)))
    assert [type(module) for module in model.modules()] == classes


def test_modes_and_order_of_parts_stay():
    model: Any = vp.attach(build("vit"), vp.AdaptFormer(bottleneck=4))
    vp.train_mode(model)
    modes, names = [m.training for m in model.modules()], [name for name, _ in model.named_parameters()]
    with whole_last_block(model):
        assert not is_short(model)
        assert [m.training for m in model.modules()] == modes
    assert is_short(model)
    assert [m.training for m in model.modules()] == modes
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
def test_a_recomputed_block_runs_again_as_it_ran(part):
    model: Any = vp.attach(build("vit"), vp.AdaptFormer(bottleneck=4)).eval()
    randomise_tuned(model)
    first, second = images(model).double(), images(model, seed=4).double()
    wanted = _of_both(model, first, second)
    vp.set_recompute(model, part)
    assert shorten_last_block(model)
    for name, gradient in _of_both(model, first, second).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert model.forward_features(first).shape[1] == 17


def _of_both(model: Any, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss = model(first).square().sum()
    loss = loss + model.forward_features(second).square().sum() + model(second).sum()
    loss.backward()
    return {name: p.grad.clone() for name, p in vp.tuned_parameters(model) if p.grad is not None}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_model_in_shards_has_the_same_gradients(checkpointed, tmp_path):
    model: Any = vp.attach(build("vit"), vp.AdaptFormer(bottleneck=4)).eval()
    randomise_tuned(model)
    first, second = images(model).double(), images(model, seed=4).double()
    wanted = _of_both(model, first, second)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        added = {parameter for _, parameter in vp.tuned_parameters(model)}
        for part in [*model.blocks, model]:
            fully_shard(part, mesh=init_device_mesh("cpu", (1,)), ignored_params=added)
        model.set_grad_checkpointing(checkpointed)
        last: list[int] = []
        model.norm.register_forward_hook(_count_tokens(last))
        found = _of_both(model, first, second)
        assert last == [1, 17, 1]
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-12)
    finally:
        dist.destroy_process_group()


def test_autocast_and_weights_that_train():
    model: Any = vp.attach(build("dinov2_reg4"), vp.FullFineTune())
    assert_same(model.eval(), whole_twin(model), images(model).double())
    model.float()
    x, twin = images(model), whole_twin(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        short, whole = model(x), twin(x)
    assert short.dtype == whole.dtype == torch.bfloat16
    torch.testing.assert_close(short, whole, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("method", [vp.LoRA(rank=2), vp.VPT(tokens=3)], ids=lambda method: method.name)
def test_compiled_and_exported_models_are_short_too(method):
    model: Any = vp.attach(tiny("vit"), method).eval()
    randomise_tuned(model)
    x = images(model)
    expected, operations = model(x), _count_calls(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    features = torch.compile(model.forward_features, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(features, model.forward_features(x))
    program = torch.export.export(model, (x,))
    assert _count_calls(program.module(), x) == operations
    traced: Any = torch.jit.trace(model, x, check_trace=False)
    torch.testing.assert_close(traced(x), expected)


def _count_calls(model: Any, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("by_call", [True, False])
def test_blocks_compiled_one_by_one(by_call):
    model: Any = vp.attach(build("vit"), vp.AdaptFormer(bottleneck=4)).eval()
    randomise_tuned(model)
    x = images(model).double()
    operations, (logits, wanted) = _count_calls(model, x), gradients(model, x)
    torch._dynamo.reset()
    for block in model.blocks:
        if by_call:
            block.compile(backend="eager")
        else:  # as training does, for the length of an update
            block.forward = torch.compile(block.forward, backend="eager")
    assert _count_calls(model, x) == operations
    with torch.no_grad():
        torch.testing.assert_close(model(x), logits)
        assert model.forward_features(x).shape[1] == 17
    model.set_grad_checkpointing(True)  # a second run in the backward pass cannot be told apart: the whole block
    for name, gradient in gradients(model, x)[1].items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-11, atol=1e-11)


def test_merged_and_frozen_models_take_it():
    model: Any = vp.attach(build("vit"), vp.LoRA(rank=2))
    randomise_tuned(model)
    x, expected = images(model).double(), model.eval()(images(model).double())
    vp.merge(model, reversible=True)
    assert not is_short(model)
    assert shorten_last_block(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    vp.unmerge(model)
    assert is_short(model)
    assert torch.equal(model(x), expected)


def test_another_thread_sees_all_features_meanwhile():
    model: Any = vp.attach(tiny("vit"), vp.AdaptFormer(bottleneck=4)).eval()
    x, shapes = images(model), []
    look = threading.Thread(target=lambda: shapes.append(model.forward_features(x).shape))
    seen: list[bool] = []

    def once(*_: Any) -> None:
        if not seen:
            seen.append(True)
            look.start()
            look.join()

    model.blocks[0].register_forward_hook(once)
    last: list[int] = []
    model.norm.register_forward_hook(_count_tokens(last))
    model(x)
    assert shapes[0][1] == 17
    assert last == [17, 1]
