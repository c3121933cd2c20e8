"""``blocks``: every method that acts on blocks tunes those it is told to, and nothing below them costs a gradient."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from support.families import attach, images, randomise_tuned, tiny
from support.matrix import METHODS, fits
from torch import nn

import vision_peft as vp
from vision_peft.methods.lst import LST
from vision_peft.tuning.block_method import BlockMethod, check_blocks, choose_blocks
from vision_peft.tuning.blocks import blocks

ACTING = [
    vp.STAdapter(width=4, keep_dead=True) if isinstance(method, vp.STAdapter) else method
    for method in METHODS
    if isinstance(method, BlockMethod) and method == type(method)()
]
CASES = [
    pytest.param(method, family, id=f"{method.name}-{family}")
    for method in ACTING
    for family in ("vit", "swin", "frames")
    if fits(method, family) and (family == "frames") == ("frames" in str(method.needs))
]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("first 2", [0, 1]),
        ("first 5", [0, 1, 2, 3, 4]),
        ("last 1", [4]),
        ("last 3", [2, 3, 4]),
        ("1-3", [1, 2, 3]),
        ("4-4", [4]),
        ((3, 0), [0, 3]),
    ],
)
def test_a_choice_of_blocks_is_a_rising_list(chosen, expected):
    check_blocks(chosen)
    assert choose_blocks(chosen, list(range(5))) == expected


@pytest.mark.parametrize("chosen", ["last 6", "first 6", "3-5", (0, 5)])
def test_blocks_that_do_not_exist_are_refused(chosen):
    shown = chosen if isinstance(chosen, str) else list(chosen)
    with pytest.raises(ValueError, match=re.escape(f"fed={shown!r}, but this backbone has 5 blocks (0 to 4)")):
        choose_blocks(chosen, list(range(5)), "fed")


WRONG = {
    "every": 'must be "all", "first 4"',
    "last": 'must be "all", "first 4"',
    "last -1": 'must be "all", "first 4"',
    "last 0": "must hold at least one",
    "3-2": "must hold at least one and run upwards",
    (): "must be distinct numbers from 0, at least one",
    (1, 1): "must be distinct numbers from 0",
    (-1,): "must be distinct numbers from 0",
}


@pytest.mark.parametrize("method", [vp.PartialFineTune, *(type(method) for method in ACTING)], ids=lambda m: m.name)
def test_every_method_refuses_what_names_no_blocks(method):
    for chosen, reason in WRONG.items():
        with pytest.raises(ValueError, match=f"blocks {re.escape(reason)}"):
            method(blocks=chosen)


def owners(model: nn.Module) -> dict[str, int]:
    """The number of the block that holds each parameter; -1 in front of the first, -2 behind the last."""
    inside = {id(p): number for number, block in enumerate(blocks(model)) for p in block.parameters()}
    first = next(i for i, p in enumerate(model.parameters()) if id(p) in inside)
    return {name: inside.get(id(p), -1 if i < first else -2) for i, (name, p) in enumerate(model.named_parameters())}


@pytest.mark.parametrize(("method", "family"), CASES)
def test_only_chosen_blocks_and_what_is_behind_them_train(method, family):
    last = len(blocks(tiny(family))) - 1
    for chosen, expected in ((f"last {last}", range(1, last + 1)), ("first 1", [0]), ((last,), [last])):
        model = attach(tiny(family), dataclasses.replace(method, blocks=chosen))
        trained = {name for name, p in vp.tuned_parameters(model) if not name.startswith("head")}
        places = {number for name, number in owners(model).items() if name in trained} - {-2}
        if method.name == "lst":  # its ladder stands behind the last block
            ladder: Any = next(module for module in model.modules() if hasattr(module, "lst"))
            assert len(ladder.lst.blocks) == len(expected)
            continue
        assert places - {-1} <= set(expected)
        assert places & set(expected) or method.name == "fact"
        assert -1 not in places or 0 in expected, trained


@pytest.mark.parametrize(("method", "family"), [case for case in CASES if case.values[1] == "vit"])
def test_no_graph_below_the_first_tuned_block(method, family):
    model = tiny(family)
    x = images(model)
    attach(model, dataclasses.replace(method, blocks="last 1"))
    inputs: list[torch.Tensor] = []
    blocks(model)[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    output = model(x)
    assert output.requires_grad
    assert not inputs[0].requires_grad


@pytest.mark.parametrize(("method", "family"), CASES)
def test_the_rest_of_the_promises_hold_for_a_subset(method, family, tmp_path):
    model = tiny(family)
    x, expected = images(model), model(images(model))
    keys = list(model.state_dict())
    attach(model, dataclasses.replace(method, blocks="last 1"))
    randomise_tuned(model)
    model.eval()
    tuned = model(x)
    vp.save_adapter(model, tmp_path)
    loaded = vp.load_adapter(tiny(family), tmp_path).eval()
    assert torch.equal(loaded(x), tuned)
    in_place = method.name in ("bitfit", "norm_tuning", "aim", "houlsby", "gps", "zero_i2v")
    vp.detach(model)
    assert list(model.state_dict()) == keys
    if not in_place:
        model.head.load_state_dict(tiny(family).head.state_dict())
        assert torch.equal(model(x), expected)


def test_a_subset_is_recorded_where_it_is_not_the_default():
    assert repr(vp.VPT(tokens=3)) == "VPT(tokens=3, deep=True, dropout=0.0, project=None)"
    assert repr(vp.VPT(tokens=3, blocks="last 4")).endswith("project=None, blocks='last 4')")
    assert "blocks" not in vp.LoRA().recorded_fields()
    assert vp.LoRA(blocks=[0, 3]).recorded_fields()["blocks"] == (0, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        vp.VPT(3, True, 0.0, None, "last 4")  # type: ignore[call-arg]


def test_counts_follow_the_choice():
    def trained(method: vp.Method) -> Any:
        return vp.count_parameters(vp.attach(tiny("vit"), method)).trained

    assert 2 * trained(vp.LoRA(rank=2, blocks="last 1")) == trained(vp.LoRA(rank=2))
    assert 2 * trained(vp.VPT(tokens=3, blocks=0)) == trained(vp.VPT(tokens=3))  # type: ignore[arg-type]
    assert trained(vp.PartialFineTune(blocks="last 2")) == trained(vp.PartialFineTune(blocks=2))
    assert trained(vp.PartialFineTune(blocks=[0])) == trained(vp.PartialFineTune(blocks=1))  # type: ignore[arg-type]


def test_methods_whose_part_is_in_no_block_take_no_subset():
    with pytest.raises(ValueError, match="belong to no block"):
        vp.VPT(deep=False, blocks="last 4")
    with pytest.raises(ValueError, match="trains no norm of a block"):
        vp.NormTuning(norms="final", blocks="last 4")


def test_fields_of_earlier_versions_are_read():
    assert LST(**LST.read_fields({"reduction": 4, "layers": [1, 2]})) == vp.LST(reduction=4, blocks=(1, 2))
    assert LST(**LST.read_fields({"layers": None})) == vp.LST()
    assert vp.STAdapter(**vp.STAdapter.read_fields({"layers": 4})) == vp.STAdapter(blocks="last 4")
    assert vp.STAdapter(**vp.STAdapter.read_fields({"layers": None})) == vp.STAdapter()
