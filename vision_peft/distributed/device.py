"""Where a run computes and in which precision, and how its random numbers are tied to its seed."""

import contextlib
import ctypes
import gc
import hashlib
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision_peft.distributed.kernels import has_kernels

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """What this process computes on."""

    device: torch.device
    precision: str  # fp32 | bf16 | fp16
    rank: int = 0  # of world_size processes
    world_size: int = 1
    processes_here: int = 1  # of them, on this machine
    strategy: str = "ddp"  # ddp | fsdp2

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def holds(self) -> torch.device:
        """Where a model is made: the device, or the CPU where only shards of it go to the device."""
        return torch.device("cpu") if self.sharded else self.device

    @property
    def sharded(self) -> bool:
        """Whether every process holds a part of the backbone only."""
        return self.strategy == "fsdp2" and self.world_size > 1

    @property
    def share(self) -> dict[str, Any]:
        """Its place among the processes, as loaders take it."""
        return {"rank": self.rank, "world_size": self.world_size}

    def autocast(self) -> torch.autocast:
        """Make the context that a forward pass runs in."""
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=self.precision != "fp32")


def choose_compute(device: str, precision: str, strategy: str = "ddp") -> Compute:
    """Device, precision and place among the processes, as the config and torchrun's environment say.

    Raises:
        ValueError: a device or precision that cannot be had, one device for several processes, or shards with fp16.
    """
    rank, size, here, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    chosen = choose_device(device)
    if here > 1 and chosen.index is not None:
        raise ValueError(
            f"device={device} is one device for {here} processes: give device={chosen.type}, and each takes its own"
        )
    if here > 1 and chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
    compute = Compute(chosen, choose_precision(precision, chosen), rank, size, here, strategy)
    if compute.sharded and compute.precision == "fp16":
        raise ValueError(
            "distributed.strategy=fsdp2 cannot scale the loss of fp16: give precision=bf16 or fp32, or ddp"
        )
    if size > 1 and chosen.type == "mps":
        raise ValueError("several processes need device=cpu or CUDA: torch cannot communicate between processes on mps")
    return compute


def choose_device(name: str) -> torch.device:
    """Choose the device called ``name``; ``auto`` is the first GPU that the installed torch supports, else the CPU.

    Raises:
        ValueError: a name torch does not know, a device that is not there, or a GPU without kernels in this torch.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name} is not a device: wanted auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={name}: this torch ({torch.__version__}) finds no GPU; use device=cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device={name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
        _check_kernels(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list(), name)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps: this torch finds no Apple GPU; use device=cpu")
    return device


def _check_kernels(capability: tuple[int, int], built_for: list[str], name: str) -> None:
    if has_kernels(capability, built_for):
        return
    major, minor = capability
    raise ValueError(
        f"device={name}: the GPU is sm_{major}{minor}, the installed torch {torch.__version__} has kernels for "
        f"{', '.join(built_for)}; install a build for it, for a V100 "
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu126, or use device=cpu"
    )


def choose_precision(name: str, device: torch.device) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` takes bf16 where the GPU has it, else fp16, and fp32 without a GPU.

    Raises:
        ValueError: fp16 on a CPU, whose gradient scaling has no use there.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if name == "fp16" and device.type != "cuda":
        raise ValueError(f"precision=fp16 needs a GPU, the device is {device}: use precision=bf16 or fp32")
    return name


def check_backbone_dtype(dtype: str, compute: Compute) -> None:
    """Raise ValueError where frozen matrices stored in `dtype` would not be what the forward pass computes in."""
    if dtype in ("int8", "nf4"):
        if compute.sharded:
            raise ValueError(
                f"backbone_dtype={dtype} keeps the whole backbone in every process: give distributed.strategy=ddp"
            )
        return
    if dtype not in ("fp32", compute.precision):
        raise ValueError(
            f"backbone_dtype={dtype} needs precision={dtype}, here it is {compute.precision}: give both, or "
            "backbone_dtype=fp32"
        )


def set_matmul_precision(device: torch.device, tf32: bool) -> None:
    """Let GPUs that can multiply fp32 matrices in TF32, or not."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32


def describe_device(device: torch.device) -> str:
    """Describe the device for a table: ``cuda (NVIDIA H100)`` or ``cpu``."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float | None:
    """Highest memory so far in 10^6 bytes: what torch allocated on a GPU, else the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:  # Linux; its ru_maxrss also counts the process that started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def reset_peak_memory(device: torch.device) -> bool:
    """Let `peak_memory_mb` count from now on; False where the system cannot (it does on GPUs and on Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def seed_everything(*key: int | str) -> None:
    """Seed torch (all devices), numpy and Python from ``key``, so that no state of generators need be kept."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1  # torch takes 63 bits
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed would note every seed, with its stack, for a GPU yet to come
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
