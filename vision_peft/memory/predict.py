"""The peak memory of a training, from two small batches: what it will be at any size, before anything is trained."""

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_peft.config.schema import RECOMPUTES, Recipe
from vision_peft.distributed.device import Compute, peak_memory_mb
from vision_peft.memory.sizes import format_memory
from vision_peft.memory.timeline import extrapolate_peak, record_live_bytes
from vision_peft.tuning.recompute import set_recompute

MEASURED = (2, 3)  # items of the two batches that are run; of one item, some operations copy nothing
_MMAP_THRESHOLD, _LARGE = -3, 256 * 1024  # of mallopt; from so many bytes on a block gets pages of its own
_STATES = {"adamw": 2, "sgd": 1, "lars": 1, "lbfgs": 1}  # tensors that an optimiser keeps for each that it trains


@dataclass(frozen=True)
class Choice:
    """What a training may choose about its memory without another result but for rounding (precision: another one)."""

    accumulate: int  # parts of a batch
    recompute: str
    precision: str

    def __str__(self) -> str:
        return f"recipe.accumulate={self.accumulate}, recipe.recompute={self.recompute}, {self.precision}"


@dataclass(frozen=True)
class Prediction:
    """Bytes of one process at its peak, and what they are."""

    base: float  # the process and the model, or what the GPU holds
    states: float  # optimiser, copies and averages of what trains
    step: float  # the highest of a forward and backward pass, gradients and input with it, and of the optimiser's step
    evaluation: float  # the highest of a forward pass in evaluation
    data: float  # batches that are loaded ahead

    @property
    def total(self) -> float:
        """The peak: training and evaluation take turns."""
        return self.base + self.states + self.data + max(self.step, self.evaluation)

    def __str__(self) -> str:
        parts = {"process and model": self.base, "optimiser and copies": self.states, "batches ahead": self.data}
        parts |= {"a step": self.step} if self.step >= self.evaluation else {"evaluation": self.evaluation}
        return f"{format_memory(self.total)} ({', '.join(f'{n} {format_memory(s)}' for n, s in parts.items())})"


class MemoryOfTraining:
    """Predicts the peak of training `model`, which is run on two small batches and left as it was.

    The bytes of all tensors are recorded operation by operation (`timeline`), in a step and in an evaluation, and
    extrapolated; to them comes what the process or the GPU holds already, measured, and what the optimiser will keep.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, compute: Compute, shape: tuple[int, ...], eval_batch: int, ahead: int
    ) -> None:
        """Take the model as it will be trained.

        Args:
            model: with methods and head, on its device, in the modes of training.
            recipe: of the training; `accumulate` and `recompute` are those of a `Choice`.
            compute: precision is that of a `Choice`.
            shape: of one item: 3 H W, or 3 T H W.
            eval_batch: items that one process evaluates at a time.
            ahead: micro-batches that are loaded while one is computed.
        """
        self.model, self.recipe, self.compute = model, recipe, compute
        self.shape, self.eval_batch, self.ahead = shape, eval_batch, ahead
        self._found: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        self.draws = bool(recipe.mixup or recipe.cutmix)  # whether a step draws, or reads statistics of its batch
        trained = [p.numel() * p.element_size() for p in model.parameters() if p.requires_grad]
        self.trained, self.largest = sum(trained), max(trained, default=0)
        self._evaluation = self._measure_evaluation()
        if self.trained:
            self._step(recipe.recompute, compute.precision)
        self.base = _measure_base(compute.device)

    @property
    def modes(self) -> list[str]:
        """What can be recomputed in this model, from what the recipe recomputes on."""
        possible = []
        for mode in RECOMPUTES[RECOMPUTES.index(self.recipe.recompute) :]:
            with contextlib.suppress(ValueError):  # a model without blocks
                set_recompute(self.model, mode)
                possible.append(mode)
        set_recompute(self.model, self.recipe.recompute)
        return possible

    def predict(self, choice: Choice) -> Prediction:
        """Predict the peak under a choice."""
        one, other = self._step(choice.recompute, choice.precision) if self.trained else ([], [])
        items = self.recipe.batch_size // choice.accumulate // self.compute.world_size
        gradients = self.trained if choice.accumulate > 1 else 0  # of the parts before
        update = self.trained + 2 * self.largest  # gradients, and what a step of the optimiser makes of one tensor
        copies = _STATES[self.recipe.optimizer] + (self.recipe.ema is not None) + (self.compute.world_size > 1)
        on_cpu = self.compute.device.type == "cpu"
        pixels = items * 4 * torch.Size(self.shape).numel()
        return Prediction(
            base=self.base,
            states=self.trained * (copies + on_cpu),  # the tensors of the best epoch are kept on the CPU
            step=max(extrapolate_peak(one, other, MEASURED, items) + gradients, update),
            evaluation=extrapolate_peak(*self._evaluation, MEASURED, self.eval_batch),
            data=pixels * self.ahead if on_cpu else 0,
        )

    def survives(self, choice: Choice) -> bool:
        """Try a forward and backward pass of a choice; False where the device has no memory for it."""
        items = self.recipe.batch_size // choice.accumulate // self.compute.world_size
        compute = dataclasses.replace(self.compute, precision=choice.precision)
        set_recompute(self.model, choice.recompute)
        try:
            with torch.random.fork_rng([self.compute.device] if self.compute.device.type == "cuda" else []):
                self._keep_buffers(lambda: self._train(items, compute))
        except (torch.OutOfMemoryError, MemoryError):
            return False
        finally:
            set_recompute(self.model, self.recipe.recompute)
        return True

    def _step(self, recompute: str, precision: str) -> tuple[list[int], list[int]]:
        key = recompute, precision
        if key not in self._found:
            compute = dataclasses.replace(self.compute, precision=precision)
            set_recompute(self.model, recompute)
            try:
                self._found[key] = self._run_twice(lambda items: self._train(items, compute))
            finally:
                set_recompute(self.model, self.recipe.recompute)
        return self._found[key]

    def _measure_evaluation(self) -> tuple[list[int], list[int]]:
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                return self._run_twice(lambda items: self._forward(items, self.compute))
        finally:
            for module, training in modes.items():
                module.training = training

    def _run_twice(self, run: Callable[[int], Any]) -> tuple[list[int], list[int]]:
        """Record both batches; statistics of batches, gradients and random numbers are put back."""
        device, found = self.compute.device, []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            before = _random_state(device)
            for items in MEASURED:
                self._keep_buffers(lambda items=items: found.append(record_live_bytes(lambda: run(items))))
            norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            self.draws |= any(norm.training for norm in norms) or not torch.equal(before, _random_state(device))
        return found[0], found[1]

    def _keep_buffers(self, run: Callable[[], Any]) -> None:
        """Run something; statistics of batches are put back, and no gradients are left."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            run()
        finally:
            self.model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

    def _forward(self, items: int, compute: Compute) -> Tensor:
        images = torch.zeros(items, *self.shape, device=compute.device)
        with compute.autocast():
            return self.model(images)

    def _train(self, items: int, compute: Compute) -> None:
        outputs = self._forward(items, compute)
        if outputs.ndim == 4:  # a map, which a loss scales to its mask
            outputs = F.interpolate(outputs, size=self.shape[-2:], mode="bilinear")
        targets = torch.zeros(len(outputs), *outputs.shape[2:], dtype=torch.int64, device=compute.device)
        F.cross_entropy(outputs.float(), targets).backward()


def return_freed_memory() -> None:
    """Let the allocator of the C library give large tensors back at once when they are freed, for all of this process.

    Else it keeps them and reuses them in part: a process was seen to be up to twice as large as its tensors. It costs
    some time, as every large tensor gets fresh pages. Nothing to do where the library is another one.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _measure_base(device: torch.device) -> float:
    """Return the bytes that the GPU, or the process without what its allocator could give back, holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return (peak_memory_mb(device) or 0) * 1e6
