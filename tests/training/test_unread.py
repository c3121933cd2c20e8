"""Updates whose outcome stays on the device for a while end where those end that are looked at one by one."""

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from support.killed import killed_at
from support.pair import in_two_processes
from support.tiny_run import EVERYTHING, left_behind, tiny_config
from support.waits import count_waits

from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.stopping import Interrupted, StopRequests
from vision_peft.runs.checkpoint import newest_state
from vision_peft.training import fit as fit_module
from vision_peft.training import step as step_module
from vision_peft.training import unread as unread_module
from vision_peft.training.progress import Diverged
from vision_peft.training.step import TrainStep
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
real_gradient, real_loss = fit_module._compute_gradient, TrainStep.compute_loss
QUICK = ["fused=true", "read_test=false", "trackers=[]"]
ALL = [*EVERYTHING, *QUICK, "save_every=4"]  # 9 updates, 3 an epoch
OPTIMIZERS = {
    "adamw": [],
    "sgd": ["recipe.optimizer=sgd", "recipe.lr=0.1"],
    "sgd without momentum": ["recipe.optimizer=sgd", "recipe.momentum=0", "recipe.lr=0.1"],
    "lars": ["recipe.optimizer=lars", "recipe.lr=0.1"],
}


def poison(*steps: int, rank: int = 0) -> Any:
    """NaN for the images of these updates, from 0, in the process of this rank."""

    def nan(batches: Iterator[Any]) -> Iterator[Any]:
        for images, labels, indices in batches:
            yield torch.full_like(images, float("nan")), labels, indices

    def compute(step: Any, batches: Any, micro_batches: int, key: Any) -> Any:
        bad = key[-1] in steps and step.compute.rank == rank
        return real_gradient(step, nan(batches) if bad else batches, micro_batches, key)

    return mock.patch.object(fit_module, "_compute_gradient", compute)


def at_once() -> Any:
    """Look at every update before the next, as where an optimiser cannot skip by itself."""
    return mock.patch.object(step_module, "acts_on_steps", return_value=True)


def unread(most: int = 5) -> Any:
    return mock.patch.multiple(unread_module, SECONDS_UNREAD=1e9, MOST_UNREAD=most)


def outcome(config: Config) -> dict[str, Any]:
    train(config)
    return left_behind(run_folder(config))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_read_late_is_what_is_read_at_once(tiny: Tiny, optimizer: str) -> None:
    settings = [*ALL, *OPTIMIZERS[optimizer]]
    with poison(0, 3, 4, 8):
        with at_once():
            expected = outcome(tiny(*settings, folder="at once"))
        with unread(2):
            assert outcome(tiny(*settings, folder="late")) == expected
    assert [line["step"] for line in expected["metrics"] if line["kind"] == "bad_step"] == [1, 4, 5, 9]


def endless_at(*calls: int) -> Any:
    """An infinite loss with a finite gradient at these calls, from 0."""
    numbers = iter(range(1000))

    def compute_loss(self: TrainStep, logits: Any, targets: Any) -> Any:
        return real_loss(self, logits, targets) + (torch.inf if next(numbers) in calls else 0)

    return mock.patch.object(TrainStep, "compute_loss", compute_loss)


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too(tiny: Tiny) -> None:
    with at_once(), endless_at(4, 5):
        expected = outcome(tiny("fused=true", folder="at once"))
    with unread(), endless_at(4, 5):
        assert outcome(tiny("fused=true", folder="late")) == expected
    assert [line["step"] for line in expected["metrics"] if line["kind"] == "bad_step"] == [5, 6]


def test_a_run_that_is_killed_between_two_reads_resumes_bit_for_bit(tiny: Tiny) -> None:
    with unread(), poison(4, 5):
        expected = outcome(tiny(*ALL, folder="whole"))
        killed = tiny(*ALL, folder="killed")
        killed_at((5, 1), killed)
        assert {path.name for path in (run_folder(killed) / "state").glob("step_*")} == {"step_4"}
        assert outcome(killed) == expected


def test_divergence_is_told_late_and_in_the_same_words(tiny: Tiny) -> None:
    said = []
    for mode, folder in ((at_once, "at once"), (unread, "late")):
        config = tiny("fused=true", "max_bad_steps=1", "save_every=100", folder=folder)
        with mode(), poison(1, 2, 3), pytest.raises(Diverged) as error:
            train(config)
        said.append(str(error.value))
        assert newest_state(run_folder(config) / "state") is None
        assert not (run_folder(config) / "adapter").exists()
    assert said[0] == said[1]
    assert "(step 3, " in said[0]


def test_a_request_to_stop_is_heard_at_the_next_read_and_the_run_resumes(tiny: Tiny) -> None:
    expected = outcome(tiny(*ALL, "recipe.batch_size=4", "save_every=100", folder="whole"))
    config = tiny(*ALL, "recipe.batch_size=4", "save_every=100", folder="stopped")
    asked = iter(range(1000))

    def votes(self: StopRequests) -> list[float]:
        if next(asked) == 1:
            self.note(signal.SIGTERM)
        return real_votes(self)

    real_votes = StopRequests.votes
    with unread(2), mock.patch.object(StopRequests, "votes", votes), pytest.raises(Interrupted, match="after update 3"):
        train(config)
    assert outcome(config) == expected


def count_in_training(config: Config) -> tuple[dict[str, int], int]:
    """Reads and exchanges in the updates of a training, without its evaluations, and how many updates there were."""
    found, real_read = [], unread_module.UnreadUpdates.read
    total = {"reads": 0, "exchanges": 0}

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with count_waits() as counts:
                result = real(*args, **kwargs)
            for name in total:
                total[name] += counts[name]
            return result

        return call

    def update(real: Any) -> Any:
        def call(*args: Any) -> Any:
            found.append(args)
            return counted(real)(*args)

        return call

    with (
        mock.patch.object(fit_module, "run_update", update(fit_module.run_update)),
        mock.patch.object(fit_module, "queue_update", update(fit_module.queue_update)),
        mock.patch.object(fit_module, "update_average", counted(fit_module.update_average)),
        mock.patch.object(unread_module.UnreadUpdates, "read", counted(real_read)),
    ):
        train(config)
    return total, len(found)


SMALL = [*QUICK, "recipe.batch_size=4", "recipe.ema=0.9", "recipe.clip_grad=1", "recipe.mixup=0.4"]


def test_the_device_is_asked_once_for_many_updates(tiny: Tiny) -> None:
    config = tiny(*SMALL, "recipe.head=batchnorm_linear", "save_every=1000", folder="late")
    with unread():
        late, updates = count_in_training(config)
    # read after 1 and 6 of 6 updates, then after 5 and 6; what the optimiser's first step waits for is one more
    assert (late, updates) == ({"reads": 4 + 1, "exchanges": 0}, 12)
    with at_once():
        now, updates = count_in_training(tiny(*SMALL, "save_every=1000", folder="at once"))
    assert now["reads"] >= updates


def in_both(rank: int, folder: Path) -> dict[str, Any]:
    found = {}
    make = functools.partial(tiny_config, folder / "photos")
    for name, mode in (("at once", at_once), ("late", unread)):
        with mode(), poison(2, 3, rank=1):
            found[name] = outcome(make(folder / name, *ALL))
    with unread():
        found["count"] = count_in_training(make(folder / "count", *SMALL, "save_every=1000"))
    return found


def test_two_processes_agree_without_an_exchange_for_each_update(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    first, second = (process["given"] for process in in_two_processes(in_both, tmp_path))
    assert first["late"] == first["at once"] == second["late"]
    bad = [line["step"] for line in first["late"]["metrics"] if line["kind"] == "bad_step"]
    assert bad == [3, 4]
    # read after 1 and 6 of 6 updates, then after 5 and 6: the device once, then what each process gave, on the CPU
    assert first["count"] == second["count"] == ({"reads": 4 * (1 + 2) + 1, "exchanges": 4}, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gpu_is_not_waited_for(tiny: Tiny, optimizer: str) -> None:
    done, real = [], fit_module.queue_update

    def update(*args: Any) -> Any:
        done.append(args)
        torch.cuda.set_sync_debug_mode("error" if len(done) > 1 else "default")  # the first one makes states
        try:
            return real(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    settings = [*SMALL, *OPTIMIZERS[optimizer], "fused=null", "device=cuda", "precision=fp32"]
    with mock.patch.object(fit_module, "queue_update", update), poison(4):
        late = outcome(tiny(*settings, folder="late"))
    with at_once(), poison(4):
        assert outcome(tiny(*settings, folder="at once")) == late
    assert len(done) == 12
