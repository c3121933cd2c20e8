"""What processes exchange in one update, from 1 to 512 GPUs, and what that leaves of their speed: docs/scaling.md.

    python docs/results/scaling.py            # writes docs/scaling.md; no GPU and no weights are needed
    python docs/results/scaling.py --measure  # counts in 2 and 4 processes first; results in scaling_measured.json

Bytes are those of ``vision_peft.distributed.traffic``, of models without storage. Times follow from them, from counted
operations and from the published figures below by the formulas on the page; nothing of that is measured.
"""

import argparse
import itertools
import json
import math
import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.spawn import start_processes

import vision_peft as vp
from vision_peft.benchmarks.counts import count_flops
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.parallel import Parallel
from vision_peft.distributed.processes import join
from vision_peft.distributed.traffic import Traffic, compute_traffic, measure_traffic

HERE = Path(__file__).resolve().parent
PAGE, MEASURED = HERE.parent / "scaling.md", HERE / "scaling_measured.json"
TEXT = HERE / "scaling_page.txt"  # with {names} of what is filled in
MODELS = {  # name on the page -> timm's name, and images of a batch on each GPU
    "ViT-B/16": ("vit_base_patch16_224", 64),
    "ViT-L/16": ("vit_large_patch16_224", 64),
    "ViT-g/14": ("vit_giant_patch14_dinov2", 32),
    "ViT-7B/16": ("vit_7b_patch16_dinov3", 8),
}
METHODS = {
    "AdaptFormer-64": vp.AdaptFormer(),
    "LoRA-8": vp.LoRA(),
    "VPT-10": vp.VPT(),
    "full": vp.FullFineTune(),
}
STRATEGIES = ("ddp", "fsdp2")
WITHOUT_STORAGE = FakeTensorMode(allow_non_fake_inputs=True)
GPUS = [2**power for power in range(10)]
SHOWN = (2, 8, 16, 64, 512)
CLASSES, SIDE = 1000, 224
BUSY, REACHED = 0.4, 0.8  # of the published operations a second; of the published bytes a second
BUCKET = 25 * 2**20  # bytes that DDP sends at once
LATENCY_S = 20e-6  # of one exchange and doubling of the number of GPUs


@dataclass(frozen=True)
class Machine:
    """Eight GPUs and their links, as published; bytes a second of one direction."""

    gpu: str
    operations: float  # a second, of half-precision matrix products without sparsity
    inside: float  # of one GPU to the others of its machine
    outside: float  # of all eight GPUs of a machine together to other machines
    links: str


MACHINES = (
    Machine("V100", 125e12, 150e9, 4 * 12.5e9, "NVLink 2: 300 GB/s both ways; 4 x InfiniBand EDR, 100 Gb/s each"),
    Machine("A100", 312e12, 300e9, 8 * 25e9, "NVLink 3: 600 GB/s both ways; 8 x InfiniBand HDR, 200 Gb/s each"),
    Machine("H100", 989e12, 450e9, 8 * 50e9, "NVLink 4: 900 GB/s both ways; 8 x InfiniBand NDR, 400 Gb/s each"),
)


def create(name: str, method: str) -> Any:
    """Create a tuned model of timm for ImageNet."""
    return vp.train_mode(vp.attach(timm.create_model(name, num_classes=CLASSES, img_size=SIDE), METHODS[method]))


@cache
def describe(model: str, method: str) -> tuple[Any, int]:
    """Return a tuned model, and the operations of an update on one image."""
    with torch.device("meta"):
        tuned = create(MODELS[model][0], method)
    with WITHOUT_STORAGE:
        tuned.to_empty(device="cpu")
        image = torch.zeros(1, 3, SIDE, SIDE)
        return tuned, count_flops(lambda: tuned(image).sum().backward())


@cache
def find_traffic(model: str, method: str, strategy: str, gpus: int) -> Traffic:
    """Return what an update exchanges."""
    tuned = describe(model, method)[0]
    with WITHOUT_STORAGE:
        return compute_traffic(tuned, torch.zeros(1, 3, SIDE, SIDE), strategy, gpus)


def exchange_seconds(traffic: Traffic, exchanges: int, gpus: int, machine: Machine) -> float:
    """Return the time of the exchanges of an update: bytes over the slowest link of the ring, and waits."""
    if gpus == 1:
        return 0.0
    speed = machine.inside if gpus <= 8 else min(machine.inside, machine.outside)
    return traffic.sent(gpus) / (REACHED * speed) + exchanges * LATENCY_S * math.log2(gpus)


def count_exchanges(model: str, traffic: Traffic) -> int:
    """Count the exchanges of an update: buckets of whole gradients, and per block the gathers and scatters."""
    groups = len(describe(model, "full")[0].blocks) + 1 if traffic.gathered else 0
    return math.ceil(traffic.averaged / BUCKET) + groups * (2 + bool(traffic.scattered))


def find_efficiency(model: str, method: str, strategy: str, gpus: int, machine: Machine) -> tuple[float, float]:
    """Share of the speed of as many single GPUs: if nothing overlaps, and if all that can does."""
    computing = describe(model, method)[1] * MODELS[model][1] / (BUSY * machine.operations)
    traffic = find_traffic(model, method, strategy, gpus)
    exchanging = exchange_seconds(traffic, count_exchanges(model, traffic), gpus, machine)
    return computing / (computing + exchanging), computing / max(computing, exchanging)


def write_megabytes(amount: float) -> str:
    """Write bytes as MB with about three digits."""
    value = amount / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share < 0.995 else f"{min(100 * share, 100):.1f}"


def _table(names: list[str], rows: list[list[str]], words: int = 2) -> list[str]:
    """Lay out a table whose first columns, so many, are of words."""
    lines = [f"| {' | '.join(names)} |", f"{'|---' * words}{'|--:' * (len(names) - words)}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def list_bytes(model: str) -> list[list[str]]:
    """Rows of the table of bytes: what each GPU sends in an update."""
    rows = []
    for method in METHODS:
        tuned = sum(parameter.numel() for _, parameter in vp.tuned_parameters(describe(model, method)[0]))
        sent = [find_traffic(model, method, strategy, n).sent(n) for strategy in STRATEGIES for n in SHOWN]
        rows.append([model, method, f"{tuned / 1e6:,.2f}", *map(write_megabytes, sent)])
    return rows


def list_efficiencies(model: str) -> list[list[str]]:
    """Rows of the table of efficiencies."""
    rows = []
    for method in METHODS:
        cells = [
            [find_efficiency(model, method, strategy, gpus, machine) for gpus in (8, 64, 512)]
            for strategy in STRATEGIES
            for machine in MACHINES
        ]
        rows.append([model, method, *(" / ".join(f"{_percent(least)}" for least, _ in cell) for cell in cells)])
    return rows


def list_overlapped(model: str) -> list[str]:
    """Say for which methods exchanges last longer than the computing, at 512 GPUs, even where all overlaps."""
    return [
        f"{model}, {method}, {strategy.upper()}, {machine.gpu}: {_percent(found)} %"
        for method in METHODS
        for strategy in STRATEGIES
        for machine in MACHINES
        if (found := find_efficiency(model, method, strategy, GPUS[-1], machine)[1]) < 1
    ]


def list_growth(model: str, method: str) -> list[list[str]]:
    """Rows of the table from 1 to 512 GPUs."""
    rows = []
    for gpus in GPUS:
        sent = [find_traffic(model, method, strategy, gpus).sent(gpus) for strategy in STRATEGIES]
        shares = [
            _percent(find_efficiency(model, method, strategy, gpus, machine)[0])
            for strategy in STRATEGIES
            for machine in MACHINES
        ]
        rows.append([str(gpus), *map(write_megabytes, sent), *shares])
    return rows


def list_measured() -> list[list[str]]:
    """Rows of the table of counted bytes."""
    rows = []
    for each in json.loads(MEASURED.read_text("utf-8")):
        formula, counted = (Traffic(**each[key]) for key in ("formula", "counted"))
        cells = [
            f"{getattr(counted, key):,}" + ("" if getattr(counted, key) == getattr(formula, key) else " (!)")
            for key in ("averaged", "gathered", "scattered")
        ]
        n = each["processes"]
        rows.append([each["method"], each["strategy"], str(n), *cells, f"{counted.sent(n):,}", f"{formula.sent(n):,}"])
    return rows


def write_page() -> str:
    """Write docs/scaling.md."""
    by_strategy = [f"{strategy.upper()} {gpus}" for strategy in STRATEGIES for gpus in SHOWN]
    by_machine = [f"{strategy.upper()} {machine.gpu}" for strategy in STRATEGIES for machine in MACHINES]
    counted = ["method", "strategy", "processes", "averaged", "gathered", "scattered", "sent, counted", "sent, formula"]
    grown = ["GPUs", *(f"{strategy.upper()} MB" for strategy in STRATEGIES), *by_machine]
    texts = {
        "bytes": _table(
            ["backbone", "method", "trained", *by_strategy], [row for m in MODELS for row in list_bytes(m)]
        ),
        "growth": _table(grown, list_growth("ViT-g/14", "AdaptFormer-64"), words=1),
        "efficiency": _table(
            ["backbone", "method", *by_machine], [row for m in MODELS for row in list_efficiencies(m)]
        ),
        "overlapped": [f"* {line}" for model in MODELS for line in list_overlapped(model)] or ["* nowhere"],
        "machines": [f"* {m.gpu}: {m.operations / 1e12:.0f} TFLOP/s in half precision, {m.links}." for m in MACHINES],
        "counted": _table(counted, list_measured()),
    }
    batches = ", ".join(f"{name} {size}" for name, (_, size) in MODELS.items())
    numbers = {"classes": f"{CLASSES:,}", "bucket": BUCKET // 2**20, "batches": batches, "side": SIDE}
    shares = {"reached": f"{100 * REACHED:.0f}", "busy": f"{100 * BUSY:.0f}", "wait": f"{1e6 * LATENCY_S:.0f}"}
    filled = {name: "\n".join(lines) for name, lines in texts.items()}
    return TEXT.read_text("utf-8").format(**filled, **numbers, **shares)


def count_in_process(rank: int, processes: int, port: int, folder: str) -> None:
    """Do updates in one of several processes and write what the last one of each setting exchanged."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    image, found = torch.randn(1, 3, SIDE, SIDE), []
    for strategy, method in itertools.product(STRATEGIES, METHODS):
        compute = choose_compute("cpu", "fp32", strategy)
        join(compute, 300)
        torch.manual_seed(0)
        tuned = create("vit_small_patch16_224", method)
        formula = compute_traffic(tuned, image, strategy, processes)
        parallel = Parallel(tuned, compute)
        parallel.forward(image).sum().backward()  # after which torch makes its buckets
        with measure_traffic() as counted, parallel.micro_batch(last=True):
            parallel.forward(image).sum().backward()
        row = {"method": method, "strategy": strategy, "processes": processes}
        found.append({**row, "formula": vars(formula), "counted": vars(counted)})
    Path(folder, f"{rank}.json").write_text(json.dumps(found), "utf-8")


def measure() -> list[dict[str, Any]]:
    """Count what 2 and 4 processes exchange; every process counts the same."""
    rows = []
    for processes in (2, 4):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder:
            start_processes(count_in_process, (processes, port, folder), processes)
            found = [json.loads(path.read_text("utf-8")) for path in sorted(Path(folder).glob("*.json"))]
        if any(each != found[0] for each in found):
            raise RuntimeError(f"processes counted differently: {found}")
        rows += found[0]
    return rows


def main() -> None:
    """Write the page, after counting if that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="count in 2 and 4 processes first")
    if parser.parse_args().measure:
        MEASURED.write_text("\n".join(["[", ",\n".join(json.dumps(row) for row in measure()), "]", ""]), "utf-8")
    PAGE.write_text(write_page(), "utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
