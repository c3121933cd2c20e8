"""Harm beyond signals: a disk that fills up, a state that is damaged, batches with NaN in them (run as a script)."""

import contextlib
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system in memory of so many MB (2^20 bytes) at `folder`; OSError where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        raise OSError("mounting a small tmpfs needs root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write `ballast` until its disk is full."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(4096))
    finally:
        os.close(descriptor)


def newest(state: Path) -> Path:
    """The folder of the newest state."""
    return max(state.glob("step_*[0-9]"), key=lambda path: int(path.name.removeprefix("step_")))


def truncate(state: Path) -> None:
    """The newest state loses the second half of its tensors."""
    file = newest(state) / "state.pt"
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(state: Path) -> None:
    """One bit of the newest state is another."""
    file = newest(state) / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_the_file(state: Path) -> None:
    """The newest state has no state.pt."""
    (newest(state) / "state.pt").unlink()


def lose_the_sums(state: Path) -> None:
    """The newest state has no list of checksums."""
    (newest(state) / "sha256").unlink()


def leave_rubbish(state: Path) -> None:
    """What saves that never ended leave: a state half written and a pointer half written, the old one naming nothing.

    The newest state stays whole.
    """
    half = state / "step_999.tmp"
    shutil.copytree(newest(state), half)
    os.truncate(half / "state.pt", 100)
    (state / "latest.tmp").write_text("step_9")
    (state / "latest").write_text("step_999")


def _poisoned(batches: Any, samples: set[int], everything: bool) -> Iterator[Any]:
    for images, labels, indices in batches:
        for place, index in enumerate(indices.tolist()):
            if everything or index in samples:
                images[place] = float("nan")
        yield images, labels, indices


def _train_with_nan() -> None:
    """Run tools/train.py with images that are NaN.

    Those of the samples NAN_SAMPLES (1,2,3), or, in the process of rank NAN_RANK, all from update NAN_FROM on. The exit
    code is left in the file EXIT_CODES.<rank>.
    """
    from vision_peft.training import fit

    rank, real = os.environ.get("RANK", "0"), fit.run_update
    samples = {int(text) for text in os.environ.get("NAN_SAMPLES", "").split(",") if text}

    def run_update(step: Any, batches: Any, micro_batches: int, key: Any, votes: Any) -> Any:
        here = os.environ.get("NAN_RANK") == rank and key[-1] >= int(os.environ["NAN_FROM"])
        return real(step, _poisoned(batches, samples, here), micro_batches, key, votes)

    fit.run_update = run_update
    train = Path(__file__).resolve().parents[2] / "tools" / "train.py"
    code: Any = 0
    try:
        runpy.run_path(str(train), run_name="__main__")
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if "EXIT_CODES" in os.environ:
            Path(f"{os.environ['EXIT_CODES']}.{rank}").write_text(str(code))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2] / "tools")
    _train_with_nan()
