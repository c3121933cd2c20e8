"""Measure the cost table: group by group, all settings of a group in turn, so that their ratios are of one run.

What is measured is kept after every count and every round; the same command again, with the same code on the same
machine, goes on where it was. A round that was broken off is measured again as a whole.
"""

import contextlib
import gc
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from vision_peft.benchmarks import counts
from vision_peft.benchmarks.candidates import Bench, Candidate, check_recipe_has_updates
from vision_peft.benchmarks.costs import FLOOR, PLAIN, Cost, CostGroup, Costs, digest_code
from vision_peft.benchmarks.peers import apply_peer
from vision_peft.benchmarks.plain_loop import make_floor, train_all
from vision_peft.benchmarks.plan import PEERS, Group
from vision_peft.benchmarks.times import Run, describe_clock, measure_times
from vision_peft.config.parse import Config
from vision_peft.distributed.device import check_backbone_dtype, choose_compute, describe_device
from vision_peft.runs.provenance import describe_start

OUT_OF_MEMORY = "out of memory"


@dataclass
class Keeper:
    """What is told of the measuring while it goes on."""

    save: Callable[[], object] = lambda: None  # after every count and every round
    done: Callable[[], object] = lambda: None  # after every count and every reading
    deadline: float = float("inf")  # of time.monotonic, behind which no round starts

    def is_over(self) -> bool:
        """Tell whether the time is over."""
        return time.monotonic() > self.deadline


def start_costs(config: Config, command: str, threads: int = 1) -> Costs:
    """Start a table without rows, of what this code measures on the device of `config` with `threads` of a CPU."""
    compute = choose_compute(config.device, config.precision)
    start = describe_start(compute)
    return Costs(
        command=command,
        device=describe_processor() if compute.device.type == "cpu" else describe_device(compute.device),
        clock=describe_clock(compute.device, threads),
        threads=threads,
        commit=start["commit"],
        code=digest_code(),
        versions=start["versions"],
    )


def describe_processor() -> str:
    """Describe the processor as the system names it, which Linux does."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"cpu ({line.partition(':')[2].strip()})"
    return f"cpu ({platform.processor() or platform.machine()})"


def check_configs(configs: Iterable[Config], preset: str | None = None, threads: int | None = None) -> None:
    """Check what settings are to be measured on.

    Raises:
        ValueError: a device or precision that cannot be had, several processes, a preset or threads for another device,
            a recipe without updates.
    """
    for config in configs:
        check_recipe_has_updates(config.recipe)
        compute = choose_compute(config.device, config.precision)
        if compute.world_size > 1:
            raise ValueError("the cost table is measured by one process: start it without torchrun")
        if threads is not None and compute.device.type != "cpu":
            raise ValueError(f"--threads is for a CPU, and device={config.device} is none: leave it out")
        if preset == "gpu" and compute.device.type != "cuda":
            raise ValueError(f"--preset gpu needs a GPU, and device={config.device} is not one: give --preset cpu")
        check_backbone_dtype(config.backbone_dtype, compute)


def measure_costs(
    groups: Sequence[tuple[Group, Mapping[str, Config]]], rounds: int, costs: Costs, keeper: Keeper
) -> bool:
    """Measure all `groups` and put them into `costs`, where some may stand already; False if time was over before.

    Each comes with the configs of its settings.

    Raises:
        ValueError: a backbone that cannot be created.
    """
    torch.set_num_threads(costs.threads)
    for group, configs in groups:
        known = next((each for each in costs.groups if each.overrides == list(group.shared)), None)
        names = [FLOOR, PLAIN, *configs, *(PEERS[peer][0] for peer in group.peers)]
        if known and [row.setting for row in known.rows] == names and known.rounds >= rounds:
            continue
        if keeper.is_over() or not _measure_group(group, configs, rounds, costs, keeper, known):
            return False
        _free()
    return True


def _measure_group(
    group: Group, configs: Mapping[str, Config], rounds: int, costs: Costs, keeper: Keeper, known: CostGroup | None
) -> bool:
    bench = Bench(next(iter(configs.values())))
    creators: dict[str, tuple[str, list[str], Callable[[], Candidate]]] = {
        FLOOR: ("reference", [], partial(bench.create_plain, make_floor)),
        PLAIN: ("reference", [], partial(bench.create_plain, train_all)),
    }
    for name, config in configs.items():
        creators[name] = "method", list(group.settings[name]), partial(bench.create_method, config)
    for peer in group.peers:
        creators[PEERS[peer][0]] = "peer", [f"peers={peer}"], partial(bench.create_plain, partial(apply_peer, peer))
    measured = CostGroup(
        backbone=bench.name,
        batch_size=bench.batch_size,
        image_size=bench.size,
        precision=bench.compute.precision,
        compiled=bench.compiled,
        overrides=list(group.shared),
        block_elements=bench.count_block_elements(),
    )
    if known is not None:
        costs.groups[costs.groups.index(known)] = measured
        if [row.setting for row in known.rows] == list(creators):  # else the rounds are of other settings
            measured.rounds = known.rounds
    else:
        costs.groups.append(measured)
    candidates: dict[str, Candidate] = {}
    for name, (kind, overrides, create) in creators.items():
        row = (known.find(name) if known else None) or Cost(name, kind, overrides)
        if row.overrides != overrides:
            row = Cost(name, kind, overrides)
        if not measured.rounds:
            row.times = {}
        measured.rows.append(row)
        if not row.note:
            _create(row, create, bench, candidates)
        keeper.save()
        keeper.done()
    return _measure_rounds(measured, candidates, rounds, bench, keeper, costs.threads)


def _create(row: Cost, create: Callable[[], Candidate], bench: Bench, candidates: dict[str, Candidate]) -> None:
    """Create the candidate of a row and count what has not been counted; a note says why there is none."""
    try:
        candidate = create()
        if row.flops_step is None:
            count(row, candidate, bench)
        else:
            candidate.train_mode()
            candidate.update()  # warms up, as counting does
        candidates[row.setting] = candidate
    except torch.OutOfMemoryError:
        row.note = OUT_OF_MEMORY
    except (ValueError, NotImplementedError) as error:
        row.note = str(error).splitlines()[0]
    _free()


def count(row: Cost, candidate: Candidate, bench: Bench) -> None:
    """Count operations and bytes of a candidate; its update and forward pass are warm afterwards."""
    row.trained, row.adapter_bytes = candidate.trained, candidate.adapter_bytes
    candidate.model.eval()
    kernels: set[str] = set()
    row.flops_forward = counts.count_flops(lambda: kernels.update(bench.find_kernels(candidate.model)))
    row.attention = sorted(kernels)
    candidate.train_mode()
    found: list[int] = []
    row.flops_step = counts.count_flops(lambda: found.extend(counts.measure_backward(candidate.compute_loss)))
    row.saved_bytes, peak = found
    candidate.optimizer.step()
    candidate.optimizer.zero_grad(set_to_none=True)
    if bench.compiled or bench.device.type == "cuda":
        candidate.update()  # compiles, or warms up
    if bench.device.type == "cuda":
        peak = _measure_peak_on_gpu(candidate.update, bench.device)
    row.peak_bytes = counts.count_resident_bytes(candidate.model, candidate.optimizer) + peak


def _measure_peak_on_gpu(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _measure_rounds(
    group: CostGroup, candidates: dict[str, Candidate], rounds: int, bench: Bench, keeper: Keeper, threads: int
) -> bool:
    runs: dict[tuple[str, str], Run] = {}
    for name, candidate in candidates.items():
        runs[name, "step"] = Run(candidate.update, candidate.train_mode)
        if not bench.compiled:  # what is compiled is the forward pass of training
            runs[name, "forward"] = Run(partial(bench.infer, candidate.forward), candidate.model.eval)
        if candidate.merged is not None:
            runs[name, "merged"] = Run(partial(bench.infer, candidate.merged))
    if keeper.is_over():
        return False
    for taken in measure_times(runs, range(group.rounds, rounds), bench.device, keeper.done, threads):
        for row in group.rows:
            of_row = {what: seconds for (name, what), seconds in taken.items() if name == row.setting}
            for what, seconds in of_row.items():
                if seconds is None:
                    row.note = f"{OUT_OF_MEMORY} ({what})"
                else:
                    row.times.setdefault(what, []).append(seconds)
        group.rounds += 1
        keeper.save()
        if keeper.is_over() and group.rounds < rounds:
            return False
    return True


def _free() -> None:
    """Free what nothing refers to any more; models refer to themselves."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
