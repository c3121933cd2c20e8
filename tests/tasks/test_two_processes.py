"""Every kind of task trains in two processes as in one, with whole models and with shards, and resumes bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.jobs import Job, done_by_two, losses, run_job
from support.lights import KINDS, words_of, write_lights
from support.mask_files import write_depths, write_set

from vision_peft.tasks import TASKS

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp2")
# What draws no number of its own, so that it does not depend on who computes which image.
SAME = ["method=lora", "method.dropout=0", "recipe.epochs=3", "recipe.lr=1e-3", "recipe.optimizer=adamw"]
MASKS = {"train": 24, "val": 11, "test": 11}


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """What is typed for each kind of task that a row does not count classes of."""
    lights = write_lights(tmp_path_factory.mktemp("lights"))
    masks = write_set(tmp_path_factory.mktemp("masks"), MASKS)
    depths = write_depths(tmp_path_factory.mktemp("depths"), MASKS)
    return {
        **{kind: words_of(kind, lights) for kind in KINDS},
        "segmentation": ["data=segmentation", f"data.root={masks}", "recipe.head=seg_linear"],
        "depth": ["data=depth", f"data.root={depths}", "recipe.head=seg_linear"],
        "embedding": ["data.task_kind=embedding"],
    }


@pytest.fixture(scope="module")
def two(photos: Path, typed: Mapping[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every kind leaves behind in two processes, by each strategy, and after it was killed."""
    jobs = []
    for kind, words in typed.items():
        for strategy in STRATEGIES:
            own = [*SAME, *words, f"distributed.strategy={strategy}", "save_every=2"]
            jobs += [Job(f"{kind} {strategy}", own), Job(f"{kind} {strategy} killed", own, (5, 0))]
    return done_by_two(jobs, [], photos, tmp_path_factory.mktemp("two"))


def test_no_kind_is_left_out(typed: Mapping[str, list[str]]) -> None:
    assert {*typed, "classes"} == {*TASKS}


# pairs are those within a process, so that embedding learns from fewer
@pytest.mark.parametrize("kind", sorted({*TASKS} - {"classes", "embedding"}))
def test_two_processes_learn_what_one_does(
    kind: str, two: dict[str, Any], typed: Mapping[str, list[str]], photos: Path, tmp_path: Path
) -> None:
    one = run_job(Job(kind, [*SAME, *typed[kind]]), photos, tmp_path)
    assert len(losses(one)) == 9
    for strategy in STRATEGIES:
        left = two[f"{kind} {strategy}"]
        assert losses(left) == pytest.approx(losses(one), abs=2e-5)
        assert left["confusion"] == one["confusion"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", sorted({*TASKS} - {"classes"}))
def test_a_killed_training_of_two_processes_ends_as_if_nothing_had_been(
    kind: str, strategy: str, two: dict[str, Any]
) -> None:
    assert two[f"{kind} {strategy} killed"] == two[f"{kind} {strategy}"]
