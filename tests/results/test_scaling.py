"""The script behind docs/scaling.md: its formulas by hand, and that the page is what it writes."""

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest

from vision_peft.distributed.traffic import Traffic

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "results" / "scaling.py"
VIT_B = 86_567_656  # parameters with a head of 1,000 classes
HEAD = 769 * 1000


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="scaling")


def test_the_page_has_the_bytes_that_the_script_computes(script: dict[str, Any]) -> None:
    page = script["PAGE"].read_text("utf-8")
    for row in [*script["list_bytes"]("ViT-B/16"), *script["list_measured"]()]:
        assert f"| {' | '.join(row)} |" in page


@pytest.mark.slow
def test_the_page_is_what_the_script_writes(script: dict[str, Any]) -> None:
    assert script["write_page"]() == script["PAGE"].read_text("utf-8")


@pytest.mark.parametrize(("method", "trained"), [("LoRA-8", 294_912 + HEAD), ("full", VIT_B)])
def test_ddp_sends_gradients_twice_around_the_ring(script: dict[str, Any], method: str, trained: int) -> None:
    for gpus in (1, 2, 64):
        sent = script["find_traffic"]("ViT-B/16", method, "ddp", gpus).sent(gpus)
        assert sent == round(2 * (gpus - 1) / gpus * 4 * trained)


def test_fsdp2_gathers_frozen_weights_twice_and_scatters_gradients_of_trained_ones(script: dict[str, Any]) -> None:
    tuned, full = (script["find_traffic"]("ViT-B/16", method, "fsdp2", 2) for method in ("LoRA-8", "full"))
    padding = 4 * (197 * 768 + 768)  # position embedding and class token, whose one row is padded to two
    assert tuned.gathered == full.gathered == 2 * (4 * (VIT_B - HEAD) + padding)
    assert (tuned.scattered, full.scattered) == (0, 4 * (VIT_B - HEAD) + padding)
    assert (tuned.averaged, full.averaged) == (4 * (294_912 + HEAD), 4 * HEAD)


def test_exchanges_take_bytes_over_the_slowest_link_and_waits(script: dict[str, Any]) -> None:
    machine = script["Machine"]("x", 1e12, inside=100e9, outside=50e9, links="")
    seconds, wait = script["exchange_seconds"], script["LATENCY_S"]
    traffic = Traffic(averaged=8 * 10**9)
    assert seconds(traffic, 3, 1, machine) == 0
    assert seconds(traffic, 3, 8, machine) == pytest.approx(14e9 / 80e9 + 3 * wait * 3)
    assert seconds(traffic, 3, 16, machine) == pytest.approx(15e9 / 40e9 + 3 * wait * 4)


def test_efficiency_is_the_share_of_computing(script: dict[str, Any]) -> None:
    machine = script["MACHINES"][0]
    computing = script["describe"]("ViT-B/16", "full")[1] * 64 / (0.4 * 125e12)
    traffic = script["find_traffic"]("ViT-B/16", "full", "ddp", 16)
    buckets = math.ceil(4 * VIT_B / 2**20 / 25)
    assert script["count_exchanges"]("ViT-B/16", traffic) == buckets
    exchanging = script["exchange_seconds"](traffic, buckets, 16, machine)
    least, most = script["find_efficiency"]("ViT-B/16", "full", "ddp", 16, machine)
    assert least == pytest.approx(computing / (computing + exchanging))
    assert most == 1
    sharded = script["find_traffic"]("ViT-B/16", "full", "fsdp2", 16)
    assert script["count_exchanges"]("ViT-B/16", sharded) == 1 + 13 * 3
    assert script["find_efficiency"]("ViT-B/16", "full", "fsdp2", 1, machine) == (1, 1)


def test_what_processes_exchanged_is_what_the_formula_says(script: dict[str, Any]) -> None:
    rows = json.loads(script["MEASURED"].read_text("utf-8"))
    assert {(row["method"], row["strategy"], row["processes"]) for row in rows} == {
        (method, strategy, n) for method in script["METHODS"] for strategy in ("ddp", "fsdp2") for n in (2, 4)
    }
    assert [row["counted"] for row in rows] == [row["formula"] for row in rows]
    assert not any("(!)" in cell for row in script["list_measured"]() for cell in row)
