"""How a verb ends: what a user can fix is one message and exit code 2, a stop on request has a code of its own."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator

from vision_peft.config.errors import ConfigError
from vision_peft.distributed.stopping import Interrupted
from vision_peft.printable import show

USER_ERROR = 2  # exit code where there is something for the user to fix
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
REQUEUE = 85  # exit code after SIGTERM, SIGUSR1 or max_time: the state is saved, start the same command again


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can fix into one message on stderr and exit code 2; HYDRA_FULL_ERROR=1 shows the traceback.

    A run that was stopped with its state saved ends with 130 after Ctrl-C and with 85 after SIGTERM, SIGUSR1 and at the
    end of max_time. A lost process, of the training or of a loader, is exit code 1. Of several processes all but the
    first say which one they are.
    """
    try:
        yield
    except BrokenPipeError:  # whoever reads the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _raise_if_asked(error)
        text = str(error) or type(error).__name__
        if isinstance(error, ConfigError) and len(error.problems) > 1:
            text = "\n  ".join([f"{len(error.problems)} problems in the config:", *error.problems])
        _end(text, USER_ERROR)
    except RuntimeError as error:  # only code that has imported torch raises those that are known here
        from torch import OutOfMemoryError

        from vision_peft.data.loading.lost_workers import LostWorker
        from vision_peft.distributed.processes import LostProcess

        if isinstance(error, OutOfMemoryError):
            _raise_if_asked(error)
            ways = "Ways out: --memory 90%, recipe.accumulate=2, recipe.recompute=mlp"
            _end(f"{str(error).splitlines()[0]} {ways}", USER_ERROR)
        if not isinstance(error, LostProcess | LostWorker):
            raise
        _raise_if_asked(error)
        _end(f"{error}; the same command again resumes from the last saved state", 1)
    except Interrupted as stop:
        raise SystemExit(130 if stop.signal == signal.SIGINT else REQUEUE) from None
    except KeyboardInterrupt:
        show(_say_without_overwrite("stopped; the same command again resumes from the last saved state"), sys.stderr)
        raise SystemExit(130) from None


def _say_without_overwrite(text: str) -> str:
    """Where the command says to start over, have a message name the one that goes on."""
    overwrites = any(word.lower().lstrip("+") == "overwrite=true" for word in sys.argv)
    return re.sub("the same command( again)?", "the same command without overwrite=true", text) if overwrites else text


def _raise_if_asked(error: Exception) -> None:
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error


def _end(text: str, code: int) -> None:
    rank = os.environ.get("RANK", "0")
    first, *others = _say_without_overwrite(text).split("\n")
    # what follows is moved in: a name with a line end in it cannot make a line that starts as ours do
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    show(f"{'' if rank == '0' else f'process {rank}: '}error: " + "\n".join(lines), sys.stderr, "red")
    raise SystemExit(code) from None
