"""What a run was started with, and what another start of it would change."""

import torch

from vision_peft.distributed.device import Compute
from vision_peft.runs.provenance import describe_changes, describe_start, find_changes, merge_starts

START = {"commit": "a", "versions": {"torch": "2.14", "timm": "1.0"}, "precision": "fp32", "device": "cpu"}


def test_a_start_names_code_libraries_machine_and_precision() -> None:
    start = describe_start(Compute(torch.device("cpu"), "bf16", world_size=2), weights="1234")
    assert {"python", "vision_peft", "torch", "torchvision", "timm"} == start["versions"].keys()
    assert start["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert (start["precision"], start["device"], start["world_size"], start["weights"]) == ("bf16", "cpu", 2, "1234")


def test_the_same_start_has_no_changes() -> None:
    assert find_changes(START, START) == {}
    assert describe_changes(START, {}) == ""


def test_changes_are_what_differs_and_of_versions_those_that_do() -> None:
    now = {**START, "precision": "bf16", "versions": {"torch": "2.15", "timm": "1.0"}}
    changes = find_changes(START, now)
    assert changes == {"precision": "bf16", "versions": {"torch": "2.15"}}
    assert describe_changes(START, changes) == "precision bf16 (was fp32), torch 2.15 (was 2.14)"


def test_what_a_state_does_not_know_has_not_changed() -> None:
    assert find_changes({"precision": "fp32"}, {"precision": "fp32", "world_size": 2}) == {}


def test_a_run_that_went_there_and_back_again_has_changed_twice() -> None:
    there = {"update": 3, **find_changes(START, {**START, "precision": "bf16", "versions": {"torch": "2.15"}})}
    last = merge_starts(START, [there])
    assert (last["precision"], last["versions"]) == ("bf16", {"torch": "2.15", "timm": "1.0"})
    assert find_changes(last, START) == {"precision": "fp32", "versions": {"torch": "2.14"}}
