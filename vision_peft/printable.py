"""Text that came out of a file, made fit to be shown: in a terminal, a log, a table, a picture, a command to paste.

Names of classes, files, tasks and methods are whatever their author wrote: escape sequences that recolour a terminal,
line ends that forge another line of a report, marks that turn the direction of what follows. `printable` makes one line
of them; those for Markdown, CSV, pictures and shells add what means something there. `show` and `warn` are the ways to
the terminal, past which nothing of the package prints.
"""

import io
import os
import re
import shlex
import sys
import unicodedata
import warnings
from collections.abc import Iterable
from typing import TextIO

LONGEST = 200  # characters of one name
LONGEST_LINE = 10_000  # of one message, which may list many names
_JOINERS = "\u200c\u200d"  # without which some scripts cannot be written
STYLES = {"bold": 1, "red": 31, "green": 32, "yellow": 33}  # the numbers that terminals know them by
_BLOCKS = ("#", ">", "+ ", "- ", "* ", "=", "~~~", "---", "***", "___")  # what starts another block of Markdown


def printable(text: object, longest: int = LONGEST) -> str:
    """Return `text` as one line that shows what it holds, what controls a terminal or ends a line by its number.

    Of a text beyond `longest` characters the middle is left out; what is shown is at most six times as long.
    """
    whole = str(text)
    if len(whole) > longest:
        whole = f"{whole[: longest - longest // 4 - 3]}...{whole[len(whole) - longest // 4 :]}"
    return whole if whole.isprintable() else "".join(map(_escape, whole))


def printable_lines(text: str, kept: str = "") -> str:
    """Return a text of our own, several lines perhaps, in which nothing but line ends controls where it is shown.

    Args:
        text: its lines.
        kept: what else stays as it is.
    """
    return "\n".join(
        line if line.isprintable() else "".join(letter if letter in kept else _escape(letter) for letter in line)
        for line in text.split("\n")
    )


def show(text: str, to: TextIO | None = None, style: str | None = None) -> None:
    """Print a text of our own, by default on stdout; names in it that came out of files are `printable` already.

    Args:
        text: its lines.
        to: the stream.
        style: one of `STYLES`, where the stream is a terminal that has them.
    """
    stream, lines = to or sys.stdout, printable_lines(text)
    if style and has_colours(stream):
        plain = stream.write_unguarded if isinstance(stream, GuardedStream) else stream.write
        plain(f"\x1b[{STYLES[style]}m{lines}\x1b[0m\n")
        stream.flush()
    else:
        print(lines, file=stream, flush=True)


def has_colours(stream: TextIO) -> bool:
    """Whether a stream leads to a terminal with colours, and the user did not ask for none by NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def show_over(text: str, before: int, to: TextIO) -> int:
    """Show one line in place of the one before, which had `before` letters; returns how many this one has."""
    line = printable(text)
    print("\r" + line.ljust(before), end="" if line else "\r", file=to, flush=True)
    return len(line)


def warn(text: str, stacklevel: int = 1) -> None:
    """Warn the user in one line; `stacklevel` counts from the function that calls this."""
    warnings.warn(printable(text, LONGEST_LINE), stacklevel=stacklevel + 1)


class GuardedStream(io.TextIOWrapper):
    """A stream to a terminal through which other libraries' words, warnings and tracebacks control nothing either.

    What stays is what they need: line ends, tabs, and at the start of a text the return to the start of the line.
    """

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> "GuardedStream":
        """Return a guarded stream to where `stream` leads, which must outlive it."""
        stream.flush()
        return cls(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",  # names of files, ± in a table
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str, /) -> int:
        """Write `text`; returns its length."""
        start = "\r" if text.startswith("\r") else ""
        super().write(start + printable_lines(text[len(start) :], kept="\t"))
        return len(text)

    def write_unguarded(self, text: str) -> None:
        """Write a text that controls the terminal and should: what is ours in it is `printable` already."""
        super().write(text)


def name_some(names: Iterable[object], most: int = 10) -> str:
    """List the first `most` of `names`, printable, and say how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(printable(name) for name in listed[:most]) + more


def capitalise(text: str) -> str:
    """Start a sentence; a name such as k-NN or vpt_deep stays as it is."""
    word = text.partition(" ")[0]
    return text[0].upper() + text[1:] if word.isalpha() and word.islower() else text


def for_markdown(text: object, starts: bool = False) -> str:
    """Return `text` for Markdown: printable, and no cell, code, HTML or link begins or ends in it.

    Args:
        text: one line.
        starts: whether it is what a paragraph or an item starts with, which could be a heading, a list, a rule.
    """
    shown = printable(text, LONGEST_LINE)
    for mark, instead in (("\\", "\\\\"), ("|", r"\|"), ("`", r"\`"), ("<", "&lt;"), ("](", r"]\("), ("][", r"]\[")):
        shown = shown.replace(mark, instead)
    for mark, instead in (("]:", r"]\:"), ("://", r":\//"), ("www.", r"www\.")):
        shown = shown.replace(mark, instead)
    return f"\\{shown}" if starts and shown.lstrip().startswith(_BLOCKS) else shown


def for_csv(value: object) -> object:
    """Return a value for a cell of a CSV file: numbers as they are, text printable.

    A text that a spreadsheet would take for a formula, as it starts with = + - @ and is no number, gets an apostrophe
    in front of it, which spreadsheets do not show.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    shown = printable(value, LONGEST_LINE)
    return f"'{shown}" if shown.lstrip()[:1] in ("=", "+", "-", "@") and not _is_number(shown) else shown


def for_plot(text: object) -> str:
    """Return a text of our own, several lines perhaps, for matplotlib, which reads mathematics between two $."""
    shown = printable_lines(str(text)).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # a legend leaves out what starts with _


def for_shell(words: Iterable[str]) -> str:
    r"""Return a command to paste into a shell, each word as it is; what controls a terminal as $'\x1b'."""
    return " ".join(shlex.quote(word) if printable(word, len(word)) == word else _quote_bytes(word) for word in words)


def _quote_bytes(word: str) -> str:
    """Quote for bash, zsh and ksh, which know what stands for a byte."""
    letters = []
    for letter in word:
        if letter in "\\'":
            letters.append(f"\\{letter}")
        elif letter.isprintable():
            letters.append(letter)
        else:
            letters += [f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape")]
    return f"$'{''.join(letters)}'"


def _escape(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs":
        return letter
    if letter.isascii():
        return letter.encode("unicode_escape").decode()
    number = ord(letter)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan", text) is not None
