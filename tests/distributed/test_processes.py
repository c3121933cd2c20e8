"""How processes meet, also where torchrun started them again, and which errors mean that one is lost."""

import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.processes import LostProcess, fresh_store, is_communication_error, join
from vision_peft.runs import checkpoint
from vision_peft.runs.checkpoint import save_state

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
    assert errors == ["process 0 waited 0.2 s for process 2: never heard of"]
    _, errors = meet(dist.HashStore(), {0: NEVER}, timeout_s=0.2)
    assert sorted(errors)[1] == "process 2 waited 0.2 s for process 0, which never answered"


EXCHANGES = [
    RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:129] Timed out waiting 10000ms for send operation to complete"),
    RuntimeError("Application timeout caused pair closure"),
    RuntimeError("Connection closed by peer [127.0.0.1]:9622"),
    dist.DistBackendError("NCCL error in: ..."),
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
    with pytest.raises(type(error)) as caught:
        save_state(tmp_path, 3, {})
    assert caught.value is error
    assert len(asked) == 1  # nothing more is asked of processes that do not answer


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(110, "Connection timed out"),  # of a network file system
        RuntimeError("DataLoader timed out after 5 seconds"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        ValueError("gloo"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_a_lost_process(error: Exception) -> None:
    assert not is_communication_error(error)


def test_a_store_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**place, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LostProcess, match=r"^process 1 of 2 could not meet the others \(.*localhost"):
        join(choose_compute("cpu", "fp32"), timeout_s=1)
