"""The bytes of an update by formula are those that two processes exchange."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.families import images
from support.pair import in_two_processes

import vision_peft as vp
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.parallel import Parallel
from vision_peft.distributed.processes import join
from vision_peft.distributed.traffic import Traffic, compute_traffic, measure_traffic

METHODS = {
    "linear": vp.LinearProbe(),
    "lora": vp.LoRA(rank=2),
    "lora of the last block": vp.LoRA(rank=2, blocks="last 1"),
    "lora of the second block": vp.LoRA(rank=2, blocks=(1,)),
    "vpt": vp.VPT(tokens=3, deep=False),
    "bitfit": vp.BitFit(),
    "full": vp.FullFineTune(),
}
MEASURED = [(name, strategy, 1) for name in METHODS for strategy in ("ddp", "fsdp2")] + [
    ("lora", "ddp", 3),
    ("lora", "fsdp2", 3),
    ("bitfit", "fsdp2", 2),
]


def tuned_vit(name: str) -> Any:
    """A ViT of four blocks, with rows that two processes cannot share evenly."""
    sizes: dict[str, Any] = {"embed_dim": 30, "depth": 4, "num_heads": 2, "num_classes": 5, "mlp_ratio": 0.5}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, **sizes)
    return vp.train_mode(vp.attach(model, METHODS[name]))


def exchange(rank: int, folder: Path) -> list[list[Traffic]]:
    """Formula and count of every case; of one update after another that makes torch's buckets."""
    found = []
    for name, strategy, parts in MEASURED:
        compute = choose_compute("cpu", "fp32", strategy)
        join(compute, 60)
        model = tuned_vit(name)
        x = images(model)
        formula = compute_traffic(model, x[:1], strategy, 2, parts)
        parallel = Parallel(model, compute)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = None
            with measure_traffic() as counted:
                for part in range(parts):
                    with parallel.micro_batch(last=part == parts - 1):
                        parallel.forward(x).square().mean().backward()
        found.append([vars(formula), vars(counted)])
    return found


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    first, second = in_two_processes(exchange, tmp_path_factory.mktemp("traffic"))
    assert first["given"] == second["given"]
    return dict(zip(MEASURED, first["given"], strict=True))


@pytest.mark.parametrize("case", MEASURED, ids=str)
def test_the_formula_is_what_two_processes_exchange(exchanged: dict[Any, Any], case: Any) -> None:
    formula, counted = exchanged[case]
    assert formula == counted
    trained = sum(parameter.numel() for _, parameter in vp.tuned_parameters(tuned_vit(case[0])))
    of_backbone = case[1] == "fsdp2" and case[0] in ("bitfit", "full")
    assert (counted["averaged"] == 4 * trained) != of_backbone
    assert (counted["scattered"] > 0) == of_backbone
    assert (counted["gathered"] > 0) == (case[1] == "fsdp2")


def test_blocks_that_nothing_goes_back_through_are_gathered_once(exchanged: dict[Any, Any]) -> None:
    gathered = {name: exchanged[name, "fsdp2", 1][1]["gathered"] for name in METHODS}
    block = (gathered["lora"] - gathered["lora of the last block"]) / 2
    assert gathered["lora"] - gathered["linear"] == 3 * block
    assert gathered["lora of the second block"] == gathered["lora"] == gathered["full"]


def test_a_ring_sends_a_sum_twice_and_the_rest_once() -> None:
    assert Traffic(averaged=800).sent(4) == 1200
    assert Traffic(gathered=800, scattered=80).sent(4) == 660
    assert compute_traffic(tuned_vit("lora"), torch.zeros(1, 3, 32, 32), "fsdp2", 1) == Traffic()
