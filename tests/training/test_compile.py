"""What torch.compile gets: the whole model, or each block, of which equal ones share one graph."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from support.families import attach, images, tiny
from support.tiny_run import left_behind
from torch import nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.device import Compute
from vision_peft.distributed.parallel import Parallel
from vision_peft.training.progress import Timing
from vision_peft.training.trained import train
from vision_peft.tuning.blocks import blocks

Tiny = Callable[..., Config]
CPU = Compute(torch.device("cpu"), "fp32")


class Graphs:
    """A backend of torch.compile that counts what it gets and computes it as it is."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        torch.compiler.reset()

    def __call__(self, graph: Any, inputs: Any, **_: Any) -> Any:
        self.sizes.append(len(graph.graph.nodes))
        return graph.forward

    def installed(self) -> Any:
        return mock.patch.object(torch, "compile", functools.partial(torch.compile, backend=self))


def gradients(model: Any, compiled: bool | str) -> tuple[list[int], list[torch.Tensor]]:
    graphs = Graphs()
    with graphs.installed():
        parallel = Parallel(model, CPU, compiled)
        for _ in range(2):
            model.zero_grad()
            with parallel.micro_batch(last=True):
                parallel.forward(images(model)).square().sum().backward()
    return graphs.sizes, [parameter.grad for _, parameter in vp.tuned_parameters(model) if parameter.grad is not None]


@pytest.mark.parametrize(
    "method", [vp.LoRA(rank=2), vp.AdaptFormer(bottleneck=4, dropout=0.0), vp.VPT(tokens=3)], ids=lambda m: m.name
)
def test_equal_blocks_are_compiled_once(method: vp.Method) -> None:
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, **sizes)
    vp.train_mode(vp.attach(model, method))
    _, expected = gradients(model, False)
    small, found = gradients(model, "blocks")
    assert len(small) == 3  # of the first one, whose input needs no gradient, of three others, of the short last one
    assert [torch.equal(*pair) for pair in zip(found, expected, strict=True)] == [True] * len(expected)
    (large,), found = gradients(model, True)
    assert large > 3 * max(small)
    assert [torch.equal(*pair) for pair in zip(found, expected, strict=True)] == [True] * len(expected)


def test_blocks_are_compiled_while_they_train_and_plain_after_it() -> None:
    model = vp.train_mode(attach(tiny("vit"), vp.LoRA(rank=2)))
    x, graphs = images(model), Graphs()
    with graphs.installed():
        parallel = Parallel(model, CPU, "blocks")
    with contextlib.suppress(StopAsyncIteration), parallel.micro_batch(last=True):
        inside = [*map(vars, blocks(model))]
        assert all("forward" in each for each in inside)
        raise StopAsyncIteration
    model.eval()(x)
    assert graphs.sizes == []
    assert not any("forward" in vars(block) for block in blocks(model))


def test_a_model_without_blocks_is_compiled_whole() -> None:
    model = vp.train_mode(attach(tiny("resnet"), vp.LinearProbe()))
    assert len(gradients(model, "blocks")[0]) == 1


def test_a_training_by_block_is_the_same_and_says_what_the_start_took(tiny: Tiny) -> None:
    settings = ["recipe.epochs=1", "recipe.recompute=mlp"]
    plain, compiled = tiny(*settings, folder="plain"), tiny(*settings, "compile=blocks", folder="blocks")
    train(plain)
    with Graphs().installed():
        train(compiled)
    assert left_behind(run_folder(compiled)) == {**left_behind(run_folder(plain)), "adapter": mock.ANY}
    logs = [(run_folder(config) / "log.txt").read_text() for config in (plain, compiled)]
    assert [log.count("the first update took") for log in logs] == [0, 1]


def test_compilation_is_what_the_first_update_took_longer() -> None:
    assert Timing([41.25, 3.0, 9.0]).describe_first() == "the first update took 41.2 s, 38.2 of them compilation"
    assert Timing([1.0, 3.0]).describe_first() == "the first update took 1.0 s, 0.0 of them compilation"


@pytest.mark.parametrize("compiled", [True, "blocks"])
def test_the_mode_is_handed_to_torch(compiled: bool | str) -> None:
    model = attach(tiny("vit"), vp.LoRA(rank=2))
    with mock.patch.object(torch, "compile") as compile_:
        Parallel(model, CPU, compiled, "reduce-overhead")
    assert {call.kwargs["mode"] for call in compile_.call_args_list} == {"reduce-overhead"}
    assert isinstance(model, nn.Module)
    torch.compile(nn.Linear(2, 2), mode="reduce-overhead")  # a name that torch knows


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["compile=whole"], r"compile must be true, false or blocks, got 'whole'"),
        (["compile=true", "compile_mode=fast"], r"compile_mode.*fast"),
        (["compile_mode=max-autotune"], r"compile_mode=max-autotune is for compile=true or compile=blocks"),
    ],
)
def test_what_torch_does_not_know_is_refused(tiny: Tiny, setting: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(*setting)


def test_the_old_values_of_compile_are_those_of_today(tiny: Tiny) -> None:
    assert [tiny(f"compile={value}").compile for value in ("true", "false", "blocks")] == [True, False, "blocks"]
    assert run_folder(tiny("compile_mode=default")) == run_folder(tiny())
