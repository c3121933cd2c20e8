"""Text that a stranger may put wherever there is text: it recolours, forges lines, is markup, formula, mathematics."""

import re
from collections.abc import Callable, Iterator
from typing import Any

NASTY = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "name\n0 problems",
    "name\r\nerror: none\r",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "\u202egpj.exe",
    "\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
    "\x08\x08\x08ok",
    "\x7f\ufeff\U000e0041",
    "a|b|c",
    "`code`",
    "```\n# rm -rf",
    "<script>alert(1)</script>",
    "<!-- ",
    "![x](http://evil/x.png)",
    "[a][b]",
    "[a]: http://evil",
    "https://evil www.evil",
    "# heading",
    "- item",
    "--- ",
    "> quote",
    "\\| \\` \\\\",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "$\\frac{1}{0}$",
    "$\\undefined",
    "'; touch x; '",
    "$(touch x)",
    "%s %d {0} {x!r}",
    "é ß 山 🚀",
]
HOSTILE = "".join(NASTY)


def is_clean(text: str) -> bool:
    """Whether every line holds nothing but printable letters."""
    return all(letter.isprintable() or letter in "\u200c\u200d" for line in text.split("\n") for letter in line)


def is_clean_line(text: str) -> bool:
    """Whether it is one such line."""
    return "\n" not in text and is_clean(text)


def list_leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the way to every leaf of nested dicts and lists."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from list_leaves(inner, (*path, key))
    else:
        yield path


def with_leaf(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    """Copy nested dicts and lists with another leaf."""
    if not path:
        return leaf
    if isinstance(value, dict):
        return value | {path[0]: with_leaf(value[path[0]], path[1:], leaf)}
    return [with_leaf(item, path[1:], leaf) if place == path[0] else item for place, item in enumerate(value)]


def find_unescaped(text: str, mark: str) -> list[int]:
    """Find where `mark` stands in Markdown without a backslash in front of it that counts."""
    return [found.start(2) for found in re.finditer(rf"(?<!\\)((?:\\\\)*)({re.escape(mark)})", text)]


def message_of(action: Callable[[], Any]) -> str | None:
    """Return the message of the error that a user gets of `action`; None where it works."""
    try:
        action()
    except (ValueError, OSError) as error:
        return str(error)
    return None
