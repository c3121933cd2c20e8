"""Recomputing halves of blocks: the same gradients bit for bit, fewer saved bytes, few more FLOPs."""

import copy
import pickle
import re
from typing import Any

import pytest
import timm
import torch
from support.families import WITH_BLOCKS, attach, images, randomise_tuned, tiny, with_drop_paths
from support.matrix import every_compiled_case
from support.saved_bytes import count_saved_bytes
from torch.autograd.graph import save_on_cpu
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vision_peft as vp
from vision_peft.config.schema import RECOMPUTES
from vision_peft.tuning import graft
from vision_peft.tuning.recompute import MODES


def compute_gradients(model: Any, x: torch.Tensor, bf16: bool = False) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(x)
    logits.float().square().sum().backward()
    return {name: p.grad.clone() for name, p in vp.tuned_parameters(model) if p.grad is not None}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@every_compiled_case
def test_gradients_are_the_same_bits_under_every_method_on_every_family(method, family):
    if family not in WITH_BLOCKS:
        with pytest.raises(ValueError, match="block"):
            vp.set_recompute(attach(tiny(family), method), "mlp")
        return
    model = attach(with_drop_paths(tiny(family), 0.3), method)
    randomise_tuned(model)
    vp.train_mode(model, "train")  # dropout and drop-path draw
    x, bf16 = images(model), len(repr(method)) % 2 == 0
    own = compute_gradients(model, x)
    with save_on_cpu():  # under hooks of torch methods run plain operations, as in what is recomputed
        expected = compute_gradients(model, x, bf16)
    for part in ("mlp", "attention"):
        vp.set_recompute(model, part)
        with save_on_cpu():
            assert are_equal(compute_gradients(model, x, bf16), expected), part
    for name, gradient in compute_gradients(model, x).items():
        torch.testing.assert_close(gradient, own[name], rtol=1e-4, atol=1e-4 * float(own[name].abs().max()), msg=name)


def test_every_part_and_none_give_the_same_bits_and_the_modes_of_modules_stay() -> None:
    model = attach(tiny("vit"), vp.Mona())
    randomise_tuned(model)
    vp.train_mode(model)  # the frozen block is in eval mode, the dropout of the method in it is not
    x, modes = images(model), [module.training for module in model.modules()]
    expected = compute_gradients(model, x)
    for part in ("block", "mlp", "attention", "none"):
        vp.set_recompute(model, part)
        assert are_equal(compute_gradients(model, x), expected), part
        assert [module.training for module in model.modules()] == modes
    assert type(model.blocks[0]).__name__ == "Block[Mona]"


def measure(method: vp.Method, part: str, depth: int = 3) -> tuple[int, int]:
    """Saved bytes and FLOPs of a step of a ViT-B/16 with fewer blocks, all alike, on an image of 224 pixels."""
    model = timm.create_model("vit_base_patch16_224", depth=depth, num_classes=10, weight_init="skip")
    vp.set_recompute(vp.attach(model, method), part)
    vp.restore_last_block(model)
    vp.train_mode(model)
    x = torch.zeros(1, 3, 224, 224)
    saved = count_saved_bytes(model, x)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return saved, counter.get_total_flops()


@pytest.mark.parametrize("method", [vp.LoRA(), vp.FullFineTune()])
def test_parts_save_bytes_for_flops(method: vp.Method) -> None:
    saved, flops = measure(method, "none")
    for part, most_saved, most_flops in (("mlp", 0.65, 1.2), ("attention", 0.75, 1.2), ("block", 0.2, 1.4)):
        fewer, more = measure(method, part)
        assert fewer <= most_saved * saved, part
        assert flops < more <= most_flops * flops, part


@pytest.mark.parametrize("method", [vp.LoRA(targets=("all-linear",)), vp.Houlsby(), vp.FacT()])
def test_a_frozen_last_layer_does_not_run_twice_for_what_stands_beside_or_behind_it(method: vp.Method) -> None:
    saved, flops = measure(method, "none")
    fewer, more = measure(method, "mlp")
    assert fewer <= 0.65 * saved
    assert flops < more <= 1.2 * flops


def test_what_has_no_backward_pass_is_not_recomputed() -> None:
    """Under LST no gradient goes through the backbone, under partial fine-tuning through its last block only."""
    for method, blocks_with_graph in ((vp.LST(), 0), (vp.PartialFineTune(blocks=1), 1)):
        saved, flops = measure(method, "none")
        fewer, more = measure(method, "mlp")
        assert (fewer < saved) == (more > flops) == bool(blocks_with_graph)
    forward = 2 * 197 * 768 * 4 * 768  # a first layer of an MLP
    assert more - flops == forward
    model: Any = vp.set_recompute(vp.attach(tiny("vit"), vp.LoRA()), "mlp")
    with torch.no_grad():
        assert not model(images(model)).requires_grad


def test_a_recomputed_model_is_copied_pickled_merged_and_detached() -> None:
    model: Any = tiny("eva02_base")
    x, plain = images(model), dict(model.state_dict())
    expected = model(x)
    vp.set_recompute(attach(model, vp.LoRA(rank=2)), "attention")
    names = {name for name, _ in vp.tuned_parameters(model)}
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert {name for name, _ in vp.tuned_parameters(copied)} == names
        assert "RecomputedAttention" in {kind.__name__ for kind in graft.kinds(copied.blocks[0])}
    with vp.disabled(model):
        assert torch.equal(model(x), expected)
    assert graft.kinds(model.blocks[1])
    merged = vp.merge(copy.deepcopy(model))
    torch.testing.assert_close(merged(x), expected, rtol=1e-4, atol=1e-5)
    assert list(vp.detach(model).state_dict()) == list(plain)
    assert not any(isinstance(module, graft.Graft) for module in model.modules())
    assert torch.equal(model(x), expected)


def test_what_is_attached_afterwards_is_not_recomputed_with_the_half() -> None:
    model: Any = vp.set_recompute(attach(tiny("vit"), vp.LoRA()), "mlp")
    attach(model, vp.AdaptFormer())
    assert [kind.__name__ for kind in graft.kinds(model.blocks[0])] == ["RecomputedMLP", "AdaptFormerBlock"]
    vp.set_recompute(model, "attention")
    assert [kind.__name__ for kind in graft.kinds(model.blocks[0])] == ["RecomputedAttention", "AdaptFormerBlock"]
    vp.set_recompute(model, "none")
    assert [kind.__name__ for kind in graft.kinds(model.blocks[0])] == ["AdaptFormerBlock"]


@pytest.mark.parametrize("part", ["mlp", pytest.param("attention", marks=pytest.mark.matrix)])
def test_a_compiled_model_has_the_same_gradients(part: str) -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2))
    randomise_tuned(model)
    x = images(model)
    expected = compute_gradients(model, x)
    vp.set_recompute(model, part)
    torch._dynamo.reset()
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    for name, parameter in vp.tuned_parameters(model):
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_a_part_that_a_model_does_not_have_is_refused_with_the_way_out() -> None:
    convnext = attach(tiny("convnext"), vp.BitFit())
    with pytest.raises(ValueError, match=r"recompute=mlp is of transformer blocks, .* give recompute=block, which"):
        vp.set_recompute(convnext, "mlp")
    vp.set_recompute(convnext, "block")
    with pytest.raises(ValueError, match=re.escape("recompute must be one of 'none', 'mlp', 'attention', 'block'")):
        vp.set_recompute(convnext, "half")
    pit = timm.create_model("pit_ti_224", num_classes=0)
    vp.set_recompute(pit, "none")
    with pytest.raises(
        ValueError, match=r"PoolingVisionTransformer does not recompute its blocks: give recompute=none"
    ):
        vp.set_recompute(pit, "block")
    assert RECOMPUTES == MODES
