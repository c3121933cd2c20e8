"""How processes meet, also where torchrun started them again, and which errors mean that one is lost."""

import functools
import threading
import time
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from support.pair import in_two_processes
from support.tiny_run import tiny_config

from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import LostProcess, fresh_store, is_communication_error, join
from vision_peft.runs import checkpoint
from vision_peft.runs.checkpoint import save_state
from vision_peft.training.trained import train

NEVER = 1000.0


def meet(store: dist.Store, late: dict[int, float], timeout_s: float = 20) -> tuple[dict[int, dist.Store], list[str]]:
    """What three processes, of which some come seconds late or NEVER, have after meeting, and what went wrong."""
    parts: dict[int, dist.Store] = {}
    errors: list[str] = []

    def process(rank: int) -> None:
        time.sleep(late.get(rank, 0))
        try:
            parts[rank] = fresh_store(store, rank, 3, timeout_s)
        except LostProcess as error:
            errors.append(str(error))

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(3) if late.get(rank) != NEVER]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return parts, errors


@pytest.mark.parametrize("late", [0, 1, 2])
def test_processes_find_nothing_of_those_that_met_in_the_same_store_before(late: int) -> None:
    store = dist.HashStore()
    for start in range(3):
        parts, _ = meet(store, {late: 0.1})
        for rank, part in parts.items():
            assert not part.check([f"address/{rank}"])
            part.set(f"address/{rank}", f"{start} {rank}")
        expected = [f"{start} {rank}" for rank in range(3)]
        for part in parts.values():
            assert [part.get(f"address/{rank}").decode() for rank in range(3)] == expected


def test_processes_meet_after_a_start_in_which_not_all_came() -> None:
    store = dist.HashStore()
    meet(store, {0: NEVER}, timeout_s=0.1)
    meet(store, {2: NEVER}, timeout_s=0.1)
    parts, errors = meet(store, {0: 0.1})
    assert errors == []
    parts[1].set("word", "there")
    assert parts[0].get("word") == parts[2].get("word") == b"there"


def test_a_process_that_never_comes_is_named() -> None:
    _, errors = meet(dist.HashStore(), {2: NEVER}, timeout_s=0.2)
    assert errors == ["process 0 waited 0.2 s for process 2: never reported"]
    _, errors = meet(dist.HashStore(), {0: NEVER}, timeout_s=0.2)
    assert sorted(errors)[1] == "process 2 waited 0.2 s for process 0, which did not answer"


def raised_in(module: str, error: Exception) -> Exception:
    """`error` as code of `module` raises it."""
    place = {"__name__": module, "error": error}
    exec("def fail():\n    raise error", place)
    try:
        place["fail"]()
    except type(error) as caught:
        return caught
    raise AssertionError


EXCHANGES = [
    raised_in("torch.distributed.distributed_c10d", RuntimeError("Timed out waiting 10000ms for send operation")),
    raised_in("torch.distributed.distributed_c10d", RuntimeError("in other words")),
    dist.DistBackendError("NCCL error in: ..."),
    dist.DistNetworkError("The client socket has failed to connect"),
]


@pytest.mark.parametrize("error", EXCHANGES, ids=str)
def test_an_exchange_that_fails_is_no_failure_to_save(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def fail_once(action: object) -> None:
        asked.append(action)
        if len(asked) == 1:
            raise error

    monkeypatch.setattr(checkpoint, "on_rank0", fail_once)
    monkeypatch.setattr(checkpoint, "is_communication_error", lambda found: found is error)
    assert is_communication_error(error)
    with pytest.raises(type(error)) as caught:
        save_state(tmp_path, 3, {})
    assert caught.value is error
    assert len(asked) == 1  # nothing more is asked of processes that do not answer


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(110, "Connection timed out"),  # of a network file system
        ConnectionResetError(104, "Connection reset by peer"),
        RuntimeError("sample 3 (a.png): ConnectionResetError: [Errno 104] Connection reset by peer"),
        RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer"),
        RuntimeError("DataLoader timed out after 5 seconds"),
        raised_in("torch.serialization", RuntimeError("PytorchStreamWriter failed writing file data/3: timeout")),
        raised_in("torch.utils.data.dataloader", RuntimeError("DataLoader worker (pid 3) is killed: socket")),
        ValueError("gloo"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_a_lost_process(error: Exception) -> None:
    assert not is_communication_error(error)


def train_on_a_broken_share(_: int, folder: Path, split: str) -> list[str]:
    """The error of a training whose images come over a network that fails, in both processes."""
    real = ImageFiles.image

    def image(self: ImageFiles, index: int) -> Any:
        if f"/{split}/" in self.path(index):
            raise ConnectionResetError(104, "Connection reset by peer")
        return real(self, index)

    config = tiny_config(folder / "photos", folder / "runs", "recipe.epochs=1", "cache_mb=0")
    with mock.patch.object(ImageFiles, "image", image):
        try:
            train(config)
        except Exception as error:
            return [type(error).__name__, str(error), "".join(traceback.format_exception(error))]
    return []


@pytest.mark.parametrize(("split", "readers"), [("train", 2), ("val", 1)])  # the 24 images of val are rank 0's share
def test_a_dataset_that_loses_its_connection_is_not_taken_for_a_lost_process(
    photos: Path, tmp_path: Path, split: str, readers: int
) -> None:
    (tmp_path / "photos").symlink_to(photos)
    for process in in_two_processes(functools.partial(train_on_a_broken_share, split=split), tmp_path)[:readers]:
        kind, text, trace = process["given"]
        # val is looked at before training, and all of its files are named at once
        assert kind == {"train": "RuntimeError", "val": "DataProblems"}[split]
        assert "ConnectionResetError: [Errno 104] Connection reset by peer" in text
        assert f"/{split}/" in text
        assert "in image" in trace or split == "val"


def test_a_store_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**place, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LostProcess, match=r"^process 1 of 2 could not reach the others \(.*localhost"):
        join(choose_compute("cpu", "fp32"), timeout_s=1)
