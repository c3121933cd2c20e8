"""What ``memory=8GB`` comes to: how the batches of a run are computed, decided at its first start and kept."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vision_peft.config.memory_size import read_memory_size
from vision_peft.config.parse import Config, method_entry
from vision_peft.config.schema import RECOMPUTES
from vision_peft.distributed.device import Compute, describe_device, peak_memory_mb
from vision_peft.distributed.processes import on_rank0
from vision_peft.distributed.stopping import starts_over
from vision_peft.memory.choose import DoesNotFit, choose, list_choices
from vision_peft.memory.predict import Choice, MemoryOfTraining, return_freed_memory
from vision_peft.memory.remembered import memory_key, recall, remember
from vision_peft.memory.sizes import format_memory, total_memory
from vision_peft.safe_files import read_file
from vision_peft.strict_json import parse_json
from vision_peft.tuning.backbone import input_channels
from vision_peft.tuning.recompute import set_recompute

MEMORY = "memory.json"


@dataclass(frozen=True)
class Plan:
    """How a run uses memory.

    Attributes:
        config: of the loop, with what was chosen.
        setting: that names the experiment: as it was typed but for what the choice changes beyond rounding.
        compute: of the loop; its precision may have been chosen.
        chosen: what memory.json holds; empty without a limit.
        words: for the user, before the training.
    """

    config: Config
    setting: Config
    compute: Compute
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    words: str = ""

    def begin(self, save: Callable[[str, Callable[[Path], int]], Any], say: Callable[[str], None]) -> None:
        """Say what was chosen, and let `save` write it to the run folder, for later starts of the run to keep."""
        if self.words:
            say(self.words)
        if self.chosen:
            save(MEMORY, lambda path: path.write_text(json.dumps(self.chosen, indent=2) + "\n", encoding="utf-8"))

    @property
    def start(self) -> dict[str, Any]:
        """What a row says of the start that may have been chosen."""
        return {"precision": self.compute.precision}

    @contextlib.contextmanager
    def measure(self, say: Callable[[str], None]) -> Iterator[None]:
        """At the end say what the peak was, beside what was predicted; one above the limit is remembered."""
        yield
        measured = peak_memory_mb(self.compute.device)
        if not self.chosen or measured is None:
            return
        predicted, limit = self.chosen["predicted_bytes"], self.chosen["limit_bytes"]
        words = f"peak memory: {format_memory(measured * 1e6)} measured, {format_memory(predicted)} predicted"
        if measured * 1e6 > limit >= self.chosen["before_bytes"]:
            remember(self.chosen["key"], self.chosen["items"])
            words += "; that is above the limit: the next run on this machine uses smaller parts of a batch"
        say(words)


def plan_memory(
    config: Config, model: nn.Module, compute: Compute, settings: Mapping[str, Any], eval_batch: int, folder: Path
) -> Plan:
    """Decide how the batches of a run are computed, or read from its folder what its first start decided.

    Args:
        config: of the run as it was typed.
        model: as it will be trained, on its device; it is run on small batches and left as it was.
        compute: device, precision and processes.
        settings: how an image becomes the model's input (`size`, and of clips `num_frames`).
        eval_batch: items that a process evaluates at a time.
        folder: of the run.

    Raises:
        ValueError: the limit is too small for any choice, or the model's weights are cut into shards.
    """
    kept = {} if starts_over(config.overwrite) else on_rank0(lambda: _read(folder / MEMORY))
    if config.memory is None and not kept:
        return Plan(config, config, compute)
    if compute.sharded:
        raise ValueError(
            f"memory={config.memory}: what a model in shards takes is not predicted: give distributed.strategy=ddp, or "
            "recipe.accumulate and recipe.recompute yourself"
        )
    chosen = kept or on_rank0(lambda: _decide(config, model, compute, settings, eval_batch))
    choice = Choice(chosen["accumulate"], chosen["recompute"], chosen["precision"])
    set_recompute(model, choice.recompute)
    recipe = dataclasses.replace(config.recipe, accumulate=choice.accumulate, recompute=choice.recompute)
    precision = choice.precision if choice.precision != compute.precision else config.precision
    named = dataclasses.replace(
        config.recipe, accumulate=choice.accumulate if chosen["draws"] else config.recipe.accumulate
    )
    again = " (as at the first start of this run)" if kept else ""
    return Plan(
        dataclasses.replace(config, recipe=recipe, precision=precision),
        dataclasses.replace(config, recipe=named, precision=precision),
        dataclasses.replace(compute, precision=choice.precision),
        chosen,
        f"memory={config.memory or 'null'}: {choice}{again}; {chosen['words']}",
    )


def _decide(
    config: Config, model: nn.Module, compute: Compute, settings: Mapping[str, Any], eval_batch: int
) -> dict[str, Any]:
    recipe, limit = config.recipe, read_memory_size(str(config.memory), total_memory(compute.device))
    if compute.device.type == "cpu":
        return_freed_memory()
        limit //= compute.processes_here
    frames = () if settings.get("num_frames") is None else (settings["num_frames"],)
    shape = (input_channels(model), *frames, *settings["size"])
    ahead = 2 * config.workers + 1 if isinstance(config.workers, int) else 3
    memory = MemoryOfTraining(model, recipe, compute, shape, eval_batch, ahead)
    what = config.backbone.name, [method_entry(method) for method in config.methods], shape, eval_batch
    where = describe_device(compute.device), torch.__version__, limit

    def key(choice: Choice) -> str:
        return memory_key(what, where, choice.recompute, choice.precision)

    def items(choice: Choice) -> int:
        return recipe.batch_size // choice.accumulate // compute.world_size

    def works(choice: Choice) -> bool:
        if items(choice) >= (recall(key(choice)) or items(choice) + 1):
            return False
        if compute.device.type != "cuda" or not memory.trained or memory.survives(choice):
            return True
        remember(key(choice), items(choice))
        return False

    auto = config.precision == "auto" and compute.precision == "fp32"
    precisions = [compute.precision, *(["bf16"] if auto else [])]
    choices = list(list_choices(recipe, memory.modes, precisions, compute.world_size, memory.draws))
    if not memory.trained:  # nothing is trained in batches, so that there is nothing to choose
        choices = choices[:1]
    try:
        choice, prediction = choose(limit, choices, memory.predict, works)
    except DoesNotFit as error:
        more = "" if config.precision in ("auto", "bf16", "fp16") else "precision=auto, "
        raise DoesNotFit(
            f"memory={config.memory}: {error}; give as much, {more}a smaller backbone.img_size or another backbone"
        ) from None
    before = (peak_memory_mb(compute.device) or 0) * 1e6
    used_before = f"; {format_memory(before)} were used before" if before > prediction.total else ""
    return asdict(choice) | {
        "draws": memory.draws,
        "limit_bytes": limit,
        "predicted_bytes": max(prediction.total, before),
        "before_bytes": before,
        "items": items(choice),
        "key": key(choice),
        "words": f"predicted peak {prediction} of {format_memory(limit)}{used_before}",
    }


def read_predicted(folder: Path) -> float | None:
    """Return the bytes that a run was predicted to take at its peak; None where it was started without a limit."""
    return _read(folder / MEMORY).get("predicted_bytes")


def read_limit(folder: Path) -> float | None:
    """Return the bytes that a run was to stay within; None where it was started without a limit."""
    return _read(folder / MEMORY).get("limit_bytes")


def _read(path: Path) -> dict[str, Any]:
    """Read what an earlier start chose; nothing where there was none.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        found = parse_json(read_file(path, 10_000))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; overwrite=true starts the run over") from error
    kinds = {"accumulate": int, "precision": str, "recompute": str, "draws": bool, "limit_bytes": int, "items": int}
    kinds |= {"key": str, "words": str}
    sound = isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in kinds.items())
    numbers = sound and all(isinstance(found.get(name), int | float) for name in ("predicted_bytes", "before_bytes"))
    if not numbers or found["recompute"] not in RECOMPUTES or found["precision"] not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"{path} is not what a run writes there; overwrite=true starts the run over")
    return found
