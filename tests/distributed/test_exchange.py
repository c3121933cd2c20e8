"""What processes hand to each other comes back as it was, and nothing of it is a pickle."""

import errno
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from support.pair import in_two_processes

from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.distributed.device import choose_compute
from vision_peft.distributed.exchange import describe_error, make_error
from vision_peft.distributed.processes import all_gather, all_gather_tensors, join, on_rank0, take_from_rank0
from vision_peft.runs.checkpoint import SaveError


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a pickle was made or read")


def exchange(rank: int, _: Path) -> dict[str, Any]:
    """Every way to exchange something, without a pickle."""
    join(choose_compute("cpu", "fp32"), timeout_s=60)
    hostile = (mock.patch.object(pickle, "Pickler", refuse), mock.patch.object(pickle, "loads", refuse))
    with hostile[0], hostile[1], mock.patch.object(dist.distributed_c10d, "_pickler", refuse):
        own = torch.arange(rank * 4.0).view(-1, 2)
        found = {
            "values": all_gather({"rank": rank, "text": "é\udcff\x1b", "list": [1.5, None, float("inf")] * rank}),
            "tensors": all_gather_tensors(own),
            "numbers": all_gather_tensors(torch.full((3 - rank,), 2**40 + rank)),
            "of rank 0": on_rank0(lambda: {"from": rank, "far": [0.1 + 0.2]}),
            "nothing": on_rank0(lambda: None),
        }
        take_from_rank0(taken := [torch.full((2,), rank + 0.5), torch.tensor([[rank]], dtype=torch.int32)])
        found["taken"] = [tensor.tolist() for tensor in taken]
        for kind, error in ERRORS.items():
            try:
                on_rank0(lambda error=error: throw(error))
            except Exception as caught:
                found[kind] = [type(caught).__name__, str(caught), getattr(caught, "errno", None)]
        return found


class Own(ValueError):
    """An error that other processes do not know."""


ERRORS = {
    "plain": ValueError("two\nlines"),
    "of a file": FileNotFoundError(errno.ENOENT, "No such file", "a/b"),
    "full": SaveError("could not write state: the disk is full"),
    "unknown": Own("of its own"),
    "no text": RuntimeError(),
    "with an object": KeyError(Path("x")),
}


def throw(error: Exception) -> None:
    raise error


def test_two_processes_exchange_json_and_tensors(tmp_path: Path) -> None:
    first, second = (each["given"] for each in in_two_processes(exchange, tmp_path))
    values = [{"rank": 0, "text": "é\udcff\x1b", "list": []}]
    values.append({"rank": 1, "text": "é\udcff\x1b", "list": [1.5, None, float("inf")]})
    for found in (first, second):
        assert found["values"] == values
        assert [part.tolist() for part in found["tensors"]] == [[], [[0, 1], [2, 3]]]
        assert [part.tolist() for part in found["numbers"]] == [[2**40] * 3, [2**40 + 1] * 2]
        assert found["of rank 0"] == {"from": 0, "far": [0.1 + 0.2]}
        assert found["nothing"] is None
        assert found["taken"] == [[0.5, 0.5], [[0]]]
        assert found["plain"] == ["ValueError", "two\nlines", None]
        assert found["of a file"] == ["FileNotFoundError", "[Errno 2] No such file: 'a/b'", errno.ENOENT]
        assert found["full"] == ["SaveError", "could not write state: the disk is full", None]
    assert first["unknown"] == ["Own", "of its own", None]
    assert second["unknown"] == ["ValueError", "of its own", None]
    assert second["no text"][0] == "RuntimeError"
    assert second["with an object"][0] == "KeyError"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ImageDecodeError("a.png", "no image"), ValueError("cannot decode a.png: no image")),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionResetError(errno.ECONNRESET, "reset")),
        (OSError("words alone"), OSError("words alone")),
        (ZeroDivisionError("x / 0"), ArithmeticError("x / 0")),
        (type("Strange", (Exception,), {})("x"), RuntimeError("Strange: x")),
    ],
    ids=str,
)
def test_an_error_of_a_class_that_does_not_travel_comes_as_its_base(error: Exception, wanted: Exception) -> None:
    made = make_error(describe_error(error))
    assert (type(made), str(made)) == (type(wanted), str(wanted))


def test_what_arrives_names_no_class_to_load() -> None:
    with pytest.raises(KeyError):
        make_error(["os.system", ["true"]])


def test_nothing_in_the_package_exchanges_objects(repository: Path) -> None:
    words = ("gather_object", "broadcast_object", "scatter_object", "send_object", "recv_object")
    texts = {path: path.read_text(encoding="utf-8") for path in (repository / "vision_peft").rglob("*.py")}
    assert [path for path, text in texts.items() if any(word in text for word in words)] == []
