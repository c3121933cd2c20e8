"""Two processes compute what one does, with whole models and with shards, and resume bit for bit."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from support.jobs import Job, done_by_two, losses, run_job, updated
from support.tiny_run import EVERYTHING

import vision_peft as vp
from vision_peft.tuning.frame_attention import FRAMES

Left = dict[str, dict[str, Any]]
PACKED = "backbone_dtype=int8"
FSDP2 = "distributed.strategy=fsdp2"
DECODING = [*EVERYTHING, "cache_mb=0"]  # in every epoch, by the workers where there are any
KILLS = {
    "mid-epoch": ((4, 0), ["save_every=2"]),
    "mid-accumulation": ((5, 1), ["save_every=2"]),
    "epoch end": ((6, 0), ["save_every=null"]),
    "validation": ("evaluation", ["save_every=3"]),
}
# What draws no number of its own, so that it does not depend on who computes which image.
SAME = ["recipe.epochs=7", "recipe.lr=1e-3", "recipe.clip_grad=1", "recipe.augment=crop_flip"]
# k-NN makes no update that two processes could share
# Each process computes its share of what the frozen block gives, and reads that of both, in memory or from one file.
KEPT = ["method.dropout=0", "method.blocks=last 1", "recipe.augment=none", "save_every=2"]
KEPT_IN = {"memory": [], "file": ["cache_mb=0", "reuse_file_mb=1"]}
METHODS = [name for name, method in vp.METHODS.items() if FRAMES not in method().needs and not method().brings_head]


STRATEGIES = {"ddp": [], "fsdp2": [FSDP2]}


def quick_jobs() -> list[Job]:
    made = []
    for strategy, more in STRATEGIES.items():
        made.append(Job(f"same {strategy}", [*SAME, "method.dropout=0", *more]))
        made.append(Job(f"whole adapters {strategy}", [*DECODING, *more]))
        if strategy == "ddp":
            for where, settings in KEPT_IN.items():
                made.append(Job(f"kept in {where}", [*SAME, *KEPT, *settings]))
            made.append(Job("kept and killed", [*SAME, *KEPT, *KEPT_IN["file"]], (5, 0)))
        kill, saves = KILLS["mid-accumulation"]
        if strategy == "ddp" and importlib.util.find_spec("torchao"):
            made.append(Job("packed ddp", [*SAME, "method.dropout=0", PACKED]))
        made.append(Job(f"mid-accumulation adapters {strategy}", [*DECODING, *more, *saves], kill))
    return made


def slow_jobs() -> list[Job]:
    made = []
    of_backbone = [each for each in DECODING if not each.startswith("method.")]
    for strategy, more in STRATEGIES.items():
        made.append(Job(f"backbone {strategy}", [*SAME, "method=full", *more]))
        made.append(Job(f"batchnorm {strategy}", [*SAME, "method.dropout=0", "recipe.head=batchnorm_linear", *more]))
        for kind, base in (
            ("adapters", [*DECODING, *more]),
            ("full", [*of_backbone, "method=full", "recipe.lr=1e-4", *more]),
        ):
            made.append(Job(f"whole {kind} {strategy}", base))
            for where, (kill, saves) in KILLS.items():
                if kind == "adapters" or where == "mid-accumulation":
                    made.append(Job(f"{where} {kind} {strategy}", [*base, *saves], kill))
        made.append(Job(f"workers {strategy}", [*DECODING, "save_every=2", "workers=2", *more], (4, 0)))
    made.append(Job("to ddp", [*SAME, "method=full", "save_every=4", FSDP2], (9, 0), ["distributed.strategy=ddp"]))
    made.append(Job("to fsdp2", [*SAME, "method=full", "save_every=4"], (9, 0), [FSDP2]))
    return made


@pytest.fixture(scope="module")
def two(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What the quick jobs and all methods leave behind in two processes."""
    return done_by_two(quick_jobs(), METHODS, photos, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def further(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What the slow jobs leave behind in two processes."""
    return done_by_two(slow_jobs(), [], photos, tmp_path_factory.mktemp("further"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


def check_losses(found: Left, name: str, overrides: list[str], photos: Path, folder: Path) -> None:
    one = run_job(Job(name, [*SAME, *overrides]), photos, folder)
    for strategy in STRATEGIES:
        left = found[f"{name} {strategy}"]
        assert len(losses(left)) == 21
        assert losses(left) == pytest.approx(losses(one), abs=1e-5)
        assert (left["confusion"], left["correct"]) == (one["confusion"], one["correct"])
    assert losses(found[f"{name} ddp"]) == pytest.approx(losses(found[f"{name} fsdp2"]), abs=1e-5)


def test_two_processes_have_the_losses_of_one_over_twenty_updates(two: Left, photos: Path, folder: Path) -> None:
    check_losses(two, "same", ["method.dropout=0"], photos, folder)


def test_so_they_have_over_packed_weights(two: Left, photos: Path, folder: Path) -> None:
    pytest.importorskip("torchao", reason="torchao, of the extra quant, is not installed")
    one = run_job(Job("packed", [*SAME, "method.dropout=0", PACKED]), photos, folder)
    assert losses(two["packed ddp"]) == pytest.approx(losses(one), abs=1e-5)


def test_so_they_have_on_what_frozen_blocks_give(two: Left, photos: Path, folder: Path) -> None:
    one = run_job(Job("kept", [*SAME, *KEPT]), photos, folder)
    assert losses(two["kept in memory"]) == pytest.approx(losses(one), abs=1e-5)
    assert two["kept in file"] == two["kept in memory"] == two["kept and killed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides"),
    [("backbone", ["method=full"]), ("batchnorm", ["method.dropout=0", "recipe.head=batchnorm_linear"])],
)
def test_so_they_have_where_the_backbone_trains_and_where_statistics_are_of_the_batch(
    further: Left, photos: Path, folder: Path, name: str, overrides: list[str]
) -> None:
    check_losses(further, name, overrides, photos, folder)


@functools.cache
def updated_alone(name: str) -> dict[str, Any]:
    return updated(name, "ddp")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_on_two_processes_what_it_learns_on_one(two: Left, name: str, strategy: str) -> None:
    expected, found = updated_alone(name), two[f"method {name} {strategy}"]
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["tuned"].keys() == expected["tuned"].keys()
    for tensor, wanted in zip(found["tuned"].values(), expected["tuned"].values(), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_killed_processes_resume_bit_for_bit(two: Left, strategy: str) -> None:
    assert two[f"mid-accumulation adapters {strategy}"] == two[f"whole adapters {strategy}"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", [*KILLS, "workers"])
def test_they_resume_bit_for_bit_wherever_they_were_killed(further: Left, where: str, strategy: str) -> None:
    killed = f"{where} {strategy}" if where == "workers" else f"{where} adapters {strategy}"
    assert further[killed] == further[f"whole adapters {strategy}"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_backbone_that_trains_resumes_bit_for_bit(further: Left, strategy: str) -> None:
    assert further[f"mid-accumulation full {strategy}"] == further[f"whole full {strategy}"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_goes_on_with_the_other_strategy(further: Left, strategy: str) -> None:
    assert losses(further[f"to {strategy}"]) == pytest.approx(losses(further[f"backbone {strategy}"]), abs=1e-5)
