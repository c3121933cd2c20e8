"""Text that came out of a file, made fit to be shown: in a terminal, a log, a table, a picture.

Names of classes, files, tasks and methods are whatever their author wrote: escape sequences that recolour a terminal,
line ends that forge another line of a report, marks that turn the direction of what follows. One function shows them;
those for Markdown and CSV add what means something there.
"""

import unicodedata
from collections.abc import Iterable

LONGEST = 200  # characters of one name
_JOINERS = "\u200c\u200d"  # without which some scripts cannot be written


def printable(text: object, longest: int = LONGEST) -> str:
    """Return `text` as one line that shows what it holds, what controls a terminal or ends a line by its number.

    Of a text beyond `longest` characters the middle is left out; what is shown is at most six times as long.
    """
    whole = str(text)
    if len(whole) > longest:
        whole = f"{whole[: longest - longest // 4 - 3]}...{whole[len(whole) - longest // 4 :]}"
    return whole if whole.isprintable() else "".join(map(_escape, whole))


def printable_lines(text: str) -> str:
    """Return a text of our own, several lines perhaps, in which nothing but line ends controls where it is shown."""
    return "\n".join(line if line.isprintable() else "".join(map(_escape, line)) for line in text.split("\n"))


def name_some(names: Iterable[object], most: int = 10) -> str:
    """List the first `most` of `names`, printable, and say how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(printable(name) for name in listed[:most]) + more


def for_markdown(text: object) -> str:
    """Return `text` for a cell of a Markdown table: printable, and nothing in it is markup."""
    shown = printable(text)
    for mark, instead in (("\\", "\\\\"), ("|", r"\|"), ("`", r"\`"), ("<", "&lt;"), ("](", r"]\(")):
        shown = shown.replace(mark, instead)
    return shown


def for_csv(text: str) -> str:
    """Return `text` for a cell of a CSV file: printable, and behind an apostrophe where it is a formula."""
    shown = printable(text, longest=10_000)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") and not _is_number(shown) else shown


def _escape(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs":
        return letter
    if letter.isascii():
        return letter.encode("unicode_escape").decode()
    number = ord(letter)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
