"""Activations kept in a file: a run that is killed leaves none, and a disk that is too small is not written to."""

import os
import signal
from pathlib import Path

import pytest
from faults.conftest import GoesOn, Undisturbed
from support.program import finish, run_folder, started

pytestmark = pytest.mark.faults
KEPT = [
    *("recipe.augment=none", "recipe.mixup=0", "recipe.cutmix=0", "recipe.random_erasing=0"),
    *("recipe.frozen_mode=eval", "recipe.drop_path=0", "method.blocks=last 1", "cache_mb=0", "reuse_file_mb=10"),
]


def test_a_killed_run_leaves_no_file_and_goes_on_bit_for_bit(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, goes_on: GoesOn
) -> None:
    words, scratch = [*everything, *KEPT, "save_every=2"], tmp_path / "scratch"
    whole, folder = undisturbed("kept", *words), tmp_path / "runs"
    scratch.mkdir()
    words += [f"reuse_folder={scratch}"]
    with started(folder, *words) as run:
        run.until_step(20)
        assert ", in a file of" in run.text()
        os.kill(run.process.pid, signal.SIGKILL)
        run.end()
    assert list(scratch.iterdir()) == []
    goes_on("SIGKILL, activations in a file", folder, whole, *words, at_most=2)


def test_a_disk_that_is_too_small_is_not_written_to(everything: list[str], tmp_path: Path, disk: Path) -> None:
    printed = finish(tmp_path / "runs", *everything, *KEPT, f"reuse_folder={disk}", "recipe.epochs=1")
    assert f"every epoch: 0 MB would leave too little of the 2 MB that {disk} has free; give reuse_folder" in printed
    assert list(disk.iterdir()) == []
    assert (run_folder(tmp_path / "runs") / "result.json").exists()
