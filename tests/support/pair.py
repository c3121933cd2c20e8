"""Two processes of one group, as torchrun would have started them, that run a function of a test."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.forked import start_pair
from torch.multiprocessing.spawn import ProcessException

Action = Callable[[int, Path], Any]  # rank and folder to something that torch.save can write


def in_two_processes(action: Action, folder: Path) -> list[dict[str, Any]]:
    """What `action` gave in each of two processes that torchrun might have started, and what it printed there.

    An error in one of them is raised here, with a note of what both had printed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    try:
        start_pair(_process, (port, action, folder))
    except ProcessException as error:
        for path in (folder / f"{name}{rank}" for rank in range(2) for name in ("out", "err")):
            if path.exists() and path.stat().st_size:
                error.add_note(f"{path.name}:\n{path.read_text()}")
        raise
    found = []
    for rank in range(2):
        printed = {name: (folder / f"{name}{rank}").read_text() for name in ("out", "err")}
        found.append({"given": torch.load(folder / f"given{rank}.pt", weights_only=True), **printed})
    return found


def _process(rank: int, port: int, action: Action, folder: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "localhost", **{name: str(value) for name, value in place.items()}}
    torch.set_num_threads(1)
    with (folder / f"out{rank}").open("w", buffering=1) as out, (folder / f"err{rank}").open("w", buffering=1) as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            given = action(rank, folder)
    torch.save(given, folder / f"given{rank}.pt")
