"""What a hostile file would do if anything in it ran: leave a mark."""

import subprocess
from pathlib import Path
from typing import Any


class Mark:
    """An object whose unpickling makes the file `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.place)],)


def is_one_line(error: BaseException) -> bool:
    """Whether a message is short enough for a terminal and on one line."""
    return "\n" not in str(error) and len(str(error)) < 1000
