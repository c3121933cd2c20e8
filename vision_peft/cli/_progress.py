"""How far a verb is, on stderr: one line that changes on a terminal, else a line every half a minute."""

import sys
import time

from vision_peft.printable import show, show_over

_EVERY_S = {True: 0.2, False: 30.0}  # on a terminal or not


class Countdown:
    """Says how many of `total` things are done, how fast, and when the rest will be.

    Args:
        total: things.
        what: they are.
        silent: say nothing, as something else shows how far it is.
    """

    def __init__(self, total: int, what: str, silent: bool = False) -> None:
        self.total, self.what, self.silent = total, what, silent
        self.terminal = sys.stderr.isatty()
        self.started = self.last = time.monotonic()
        self.letters = 0  # of the line that stands there

    def show(self, done: int) -> None:
        """Say it, at most as often as is of use."""
        now = time.monotonic()
        if self.silent or now - self.last < _EVERY_S[self.terminal] or not done:
            return
        self.last, speed = now, done / (now - self.started)
        self.total = max(self.total, done)  # some totals are estimates
        left = format_left((self.total - done) / speed)
        pace = f"{speed:,.1f} a second" if speed >= 1 else f"{1 / speed:,.1f} s each"
        text = f"{done:,} of {self.total:,} {self.what}, {pace}, {left}"
        if self.terminal:
            self.letters = show_over(text, self.letters, sys.stderr)
        else:
            show(text, sys.stderr)

    def clear(self) -> None:
        """Take the line away, so that another can be printed there."""
        if self.letters:
            show_over("", self.letters, sys.stderr)
            self.letters = 0


def format_left(seconds: float) -> str:
    """Say how long something takes yet: 42 s, 5 min, 3 h 20 min left."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{minutes} min left" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min left"
