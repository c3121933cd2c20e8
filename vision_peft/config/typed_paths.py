"""Values that are paths arrive as they were typed, whatever characters they hold; Hydra's grammar knows few of them."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

# Keys of every config whose values are files and folders; a data set calls its own so.
PATH_KEYS = ("output_dir", "requeue_file", "backbone.checkpoint")
DATA_FIELDS = ("root", "train", "val", "test", "classes", "cache", "train_file")
_PLAIN = re.compile(r"[./]*[A-Za-z_][\w./+-]*", re.ASCII)  # what Hydra reads as text without quotes
_NOT_TEXT = ("true", "false", "null", "nan", "inf")


def quote_paths(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Return `overrides` with the values of paths quoted for Hydra.

    null, a value in quotes, and one with an interpolation `${...}` are Hydra's as ever. In a sweep (`-m`) commas
    separate values, so that a path with a comma needs quotes there.
    """
    return [_quote(text, sweep) for text in overrides]


def is_path(key: str) -> bool:
    """Whether the value of a dotted key is a file or a folder."""
    group, _, field = key.lstrip("+").partition(".")
    return key.lstrip("+") in PATH_KEYS or (group == "data" and field in DATA_FIELDS)


def quote(value: str) -> str:
    """Return a text as Hydra's grammar writes it: plain where it may be, else in quotes."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT
    return value if plain else QuotedString(value, Quote.single).with_quotes()


def unquote_path(text: str) -> str:
    """Return an override as a user would type it: without the quotes that `quote_paths` adds to a path."""
    key, _, value = text.partition("=")
    if is_path(key) and value[:1] == "'" and "," not in value:
        typed = f"{key}={value[1:-1]}"
        return typed if quote_paths([typed]) == [text] else text
    return text


def _quote(text: str, sweep: bool) -> str:
    key, equals, value = text.partition("=")
    if not equals or not is_path(key) or value in ("", "null") or "${" in value:
        return text
    if value[0] in "'\"" and value[-1] == value[0] and len(value) > 1 and not Path(value).exists():
        return text
    if sweep and "," in value:
        return text
    return f"{key}={quote(value)}"
