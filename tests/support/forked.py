"""Processes that need not import torch again: forks of one process of this test worker that has imported it.

Importing torch and timm takes 5 seconds of CPU, more than most programs that the tests start then need.
"""

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

REPOSITORY = Path(__file__).resolve().parents[2]
PRELOADED = [  # what the tools import, and what torch imports late
    "matplotlib.figure",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
    "vision_peft.benchmarks.cost_table",
    "vision_peft.benchmarks.measure_costs",
    "vision_peft.benchmarks.pipeline_and_updates",
    "vision_peft.training.evaluate_saved",
    "vision_peft.search.trials",
    "vision_peft.training.suite",
]
TIMEOUT_S = 300

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def run_tool(tool: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python tools/TOOL ...` in `folder` with one thread, `environment` beside that of this process.

    A script anywhere else is named by its whole path.
    """
    script = REPOSITORY / "tools" / tool
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    printed = [folder.parent / f"{folder.name}.{name}" for name in ("stdout", "stderr")]
    process = _context.Process(target=_run_script, args=(script, arguments, folder, settings, printed))
    process.start()
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    code = -1 if process.exitcode is None else process.exitcode
    out, err = (path.read_text("utf-8", errors="replace") for path in printed)
    assert code >= 0, f"it was killed by signal {-code}:\n{out}{err}"
    return subprocess.CompletedProcess([str(script), *arguments], code, out, err)


def _run_script(
    script: Path, arguments: tuple[str, ...], folder: Path, settings: Mapping[str, str], printed: list[Path]
) -> None:
    for path, descriptor in zip(printed, (1, 2), strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(settings)
    os.chdir(folder)
    torch.set_num_threads(int(settings["OMP_NUM_THREADS"]))
    if settings.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def start_pair(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call `function(rank, *arguments)` in two processes, as torch's `spawn` does, and wait for both."""
    with _importable_tests():
        start_processes(function, arguments, nprocs=2, start_method="forkserver")


@contextlib.contextmanager
def _importable_tests() -> Iterator[None]:
    """Let a process find the module of a test by its name, which begins at the root of the checkout."""
    sys.path.insert(0, str(REPOSITORY))
    try:
        yield
    finally:
        sys.path.remove(str(REPOSITORY))
