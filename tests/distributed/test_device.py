"""Devices and precisions: what auto means, and one clear line where something cannot be had."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vision_peft.distributed import device
from vision_peft.distributed.device import (
    choose_compute,
    choose_device,
    choose_precision,
    peak_memory_mb,
    seed_everything,
)

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def test_a_gpu_without_kernels_is_named_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"the GPU is sm_70, .* sm_75, .*whl/cu126") as caught:
        device._check_kernels((7, 0), CUDA_13, "cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_gpu_of_the_same_major_version_from_the_kernels_minor_on_is_accepted(capability: tuple[int, int]) -> None:
    device._check_kernels(capability, CUDA_13, "cuda")


def test_portable_kernels_run_on_newer_gpus_only() -> None:
    device._check_kernels((13, 0), [*CUDA_13, "compute_120"], "cuda")
    with pytest.raises(ValueError, match="sm_70"):
        device._check_kernels((7, 0), [*CUDA_13, "compute_120"], "cuda")


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_follows_the_gpu(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_auto_precision_on_a_cpu_is_fp32_and_fp16_is_refused() -> None:
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        choose_precision("fp16", torch.device("cpu"))


def test_an_unknown_or_missing_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device=gpu is not a device"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="finds no GPU"):
        choose_device("cuda:1")


def test_each_process_of_a_machine_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 3), ("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    compute = choose_compute("cpu", "auto", "fsdp2")
    assert (compute.share, compute.processes_here, compute.is_main) == ({"rank": 3, "world_size": 4}, 2, False)
    assert compute.sharded
    assert not choose_compute("cpu", "auto", "ddp").sharded


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    def draw(*key: int | str) -> tuple[float, float, float]:
        seed_everything(*key)
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    assert draw(0, "train", 7) == draw(0, "train", 7)
    assert len({draw(0, "train", 7), draw(0, "train", 8), draw(1, "train", 7), draw(0, "retrain", 7)}) == 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_peak_memory_is_that_of_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    peak = peak_memory_mb(torch.device("cpu"))
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=10**9))  # of a parent
    assert peak is not None
    assert 0 < peak <= (peak_memory_mb(torch.device("cpu")) or 0) < 10**5
