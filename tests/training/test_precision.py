"""Less memory and time per update, the same training: bf16 storage, memory layout, fused optimiser, compilation."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from support.killed import killed_at
from support.pair import in_two_processes
from support.tiny_run import left_behind, tiny_config
from torch import nn

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.device import Compute, check_backbone_dtype
from vision_peft.results.row import Row
from vision_peft.tasks.classes import CrossEntropy
from vision_peft.training.build import attach_methods, create_model, load_splits
from vision_peft.training.evaluate_saved import evaluate_saved
from vision_peft.training.step import TrainStep
from vision_peft.training.trained import train
from vision_peft.tuning.packed_linear import quantized_as

Tiny = Callable[..., Config]
BF16 = ("precision=bf16", "backbone_dtype=bf16")
SAME = ("recipe.epochs=3", "method.dropout=0", "read_test=false")
METHODS = {
    "adaptformer": ["method=adaptformer"],
    "lora": ["method=lora", "method.targets=[q,k,v,fc1]"],
    "dora": ["method=lora", "method.dora=true"],
    "vpt": ["method=vpt"],
    "ssf": ["method=ssf"],
    "bitfit": ["method=bitfit"],
    "full": ["method=full"],
}
CPU = Compute(torch.device("cpu"), "fp32")


def tuned_model(config: Config) -> Any:
    train_set = load_splits(config)["train"]
    return attach_methods(
        create_model(config.backbone, config.seed), config, train_set, len(train_set.classes), torch.device("cpu")
    )


def losses(row: Row) -> list[float]:
    return [entry["train_loss"] for entry in row.curve]


@pytest.mark.parametrize("method", METHODS)
def test_frozen_matrices_are_stored_in_bf16_and_what_trains_stays_fp32(tiny: Tiny, method: str) -> None:
    model = tuned_model(tiny(*BF16, *METHODS[method]))
    expected = {
        f"{name}.{kind}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        for kind, parameter in layer.named_parameters(recurse=False)
        if not parameter.requires_grad
    }
    assert {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16} == expected
    assert ("blocks.0.attn.qkv.weight" in expected) == (method != "full")
    assert all(parameter.dtype == torch.float32 for _, parameter in vp.tuned_parameters(model))


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_trained_on_a_bf16_backbone_belongs_to_the_fp32_one(tiny: Tiny, method: str) -> None:
    config = tiny(*BF16, *METHODS[method], "recipe.epochs=1")
    row = train(config).row
    assert row.precision == "bf16"
    plain = create_model(config.backbone, config.seed)
    vp.load_adapter(plain, run_folder(config) / "adapter")  # which refuses another fingerprint
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}
    before = tuned_model(config)
    vp.load_adapter(again := create_model(config.backbone, config.seed), run_folder(config) / "adapter")
    start, learned = vp.tuned_state_dict(vp.bake(before)), vp.tuned_state_dict(again)
    assert start.keys() == learned.keys()
    assert any(not torch.equal(start[name], learned[name]) for name in start)
    assert evaluate_saved(run_folder(config), []).metrics.top1 == row.top1


@pytest.mark.parametrize("method", [name for name in METHODS if name != "dora"])  # whose norms read stored weights
def test_stored_in_bf16_a_frozen_weight_is_what_autocast_makes_of_it(tiny: Tiny, method: str) -> None:
    found = []
    for dtype in ("fp32", "bf16"):
        model = vp.train_mode(tuned_model(tiny("precision=bf16", f"backbone_dtype={dtype}", *METHODS[method])))
        torch.manual_seed(0)
        with Compute(CPU.device, "bf16").autocast():
            logits = model(torch.randn(4, 3, 32, 32))
        logits.float().square().sum().backward()
        found.append([logits, *(parameter.grad for _, parameter in vp.tuned_parameters(model))])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_storage_in_another_type_than_the_products_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"backbone_dtype=bf16 needs precision=bf16, here it is fp32: give both"):
        train(tiny("precision=fp32", "backbone_dtype=bf16"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_a_packed_backbone_trains_resumes_and_is_evaluated_packed(tiny: Tiny, dtype: str) -> None:
    pytest.importorskip("torchao", reason="torchao, of the extra quant, is not installed")
    packed = ("precision=fp32", f"backbone_dtype={dtype}", "recipe.epochs=2", "save_every=2")
    whole, killed, plain = tiny(*packed, folder="whole"), tiny(*packed, folder="killed"), tiny(*packed[::2], folder="p")
    row = train(whole).row
    killed_at((3, 0), killed)
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))
    assert losses(row) != losses(train(plain).row)
    metrics = evaluate_saved(run_folder(whole), []).metrics
    assert (metrics.top1, metrics.mean_per_class) == (row.top1, row.mean_per_class)
    assert quantized_as(vp.load(run_folder(whole), device="cpu")) == dtype


def test_a_packed_backbone_is_not_cut_into_shards() -> None:
    sharded = Compute(torch.device("cpu"), "fp32", strategy="fsdp2", world_size=2)
    with pytest.raises(ValueError, match=r"backbone_dtype=nf4 keeps the whole backbone .* distributed.strategy=ddp"):
        check_backbone_dtype("nf4", sharded)


def test_channels_last_changes_the_layout_and_not_the_training(tiny: Tiny) -> None:
    config = tiny(*SAME, "channels_last=true", folder="last")
    weight = tuned_model(config).patch_embed.proj.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert losses(train(config).row) == pytest.approx(losses(train(tiny(*SAME, folder="first")).row), abs=1e-5)


def test_a_fused_optimiser_takes_the_same_steps(tiny: Tiny) -> None:
    config = tiny(*SAME, "fused=true", folder="fused")
    model = tuned_model(config)
    train_step = TrainStep(config, model, CrossEntropy(), 3, CPU)
    assert all(group["fused"] for group in train_step.optimizer.param_groups)
    assert losses(train(config).row) == pytest.approx(losses(train(tiny(*SAME, folder="plain")).row), abs=1e-5)


def compiled_in_both(rank: int, folder: Path) -> list[list[float]]:
    """Losses of a training that is compiled, by torch's compiler without its code generator, and of one that is not."""
    found = []
    compile_, compile_block = torch.compile, nn.Module.compile
    with (
        mock.patch.object(torch, "compile", functools.partial(compile_, backend="eager")),
        mock.patch.object(nn.Module, "compile", lambda module, **_: compile_block(module, backend="eager")),
    ):
        for name, compiled in (("plain", "false"), ("ddp", "true"), ("blocks", "blocks"), ("fsdp2", "true")):
            strategy = "fsdp2" if name == "fsdp2" else "ddp"
            settings = [*SAME, f"compile={compiled}", f"distributed.strategy={strategy}"]
            found.append(losses(train(tiny_config(folder / "photos", folder / name, *settings)).row))
    return found


@pytest.mark.slow
def test_compiled_models_train_alike_in_two_processes(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    first, second = (process["given"] for process in in_two_processes(compiled_in_both, tmp_path))
    assert first == second
    plain, ddp, by_block, fsdp2 = first
    assert by_block == pytest.approx(plain, abs=1e-5)
    assert ddp == pytest.approx(plain, abs=1e-5)
    assert fsdp2 == pytest.approx(plain, abs=1e-5)
