"""Values that are text arrive as they were typed, whatever characters they hold; Hydra's grammar knows few of them."""

import functools
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import Quote, QuotedString

from vision_peft.config.registered import REGISTERED
from vision_peft.config.schema import BackboneConfig, Distributed, Recipe, Settings

# Fields whose values are text, of datasets and of methods; their classes need torch. Paths first.
DATA_FIELDS = ("root", "train", "val", "test", "classes", "cache", "train_file")
DATA_TEXT = (*DATA_FIELDS, "task", "decoder", "hub", "subset", "revision", "image_column", "label_column")
DATA_TEXT += ("image", "label", "json_field", "task_kind", "unit")
DATA_TEXT += ("images", "masks", "splits", "mask_suffix", "layout", "missing", "frame_names")
METHOD_TEXT = ("init_file", "init", "input", "form", "position", "columns", "gate", "mix", "norms", "encoder", "vote")
METHOD_TEXT += ("lstm_width", "last", "loss", "part")
BESIDE = ("split", "mask")  # of the verbs that read data without training, or files of official code
_PLAIN = re.compile(r"[./]*[A-Za-z_][\w./+-]*", re.ASCII)  # what Hydra reads as text without quotes
_NOT_TEXT = ("true", "false", "null", "nan", "inf")
_LOOKED_UP = re.compile(r"\$\{[^{}]*\}")
_FUNCTION = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\(.*\)", re.DOTALL)  # of Hydra, for sweeps


def quote_values(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Return `overrides` with the values that are text quoted for Hydra.

    null, a value in quotes, and one with an interpolation `${...}` are Hydra's as ever. In a sweep (`-m`) commas
    separate values, each of which is quoted by itself, so that one with a comma in it needs quotes there; `choice(...)`
    and the like are Hydra's.
    """
    return [_quote(text, sweep) for text in overrides]


def is_text(key: str) -> bool:
    """Whether the value of a dotted key is text and nothing else, or null."""
    group, _, field = key.lstrip("+").rpartition(".")
    if group.startswith("method"):
        return field in METHOD_TEXT or field in _registered_text("method")
    if group == "data":
        return field in DATA_TEXT or field in _registered_text("data")
    return key.lstrip("+") in (*_schema_text(), *BESIDE)


def quote(value: str) -> str:
    """Return a text as Hydra's grammar writes it: plain where it may be, else in quotes."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT
    return value if plain else QuotedString(value, Quote.single).with_quotes()


def unquote_value(text: str) -> str:
    """Return an override as a user would type it: without the quotes that `quote_values` adds to a text."""
    key, _, value = text.partition("=")
    if is_text(key) and value[:1] == "'" and "," not in value:
        typed = f"{key}={value[1:-1]}"
        return typed if quote_values([typed]) == [text] else text
    return text


def _quote(text: str, sweep: bool) -> str:
    key, equals, value = text.partition("=")
    if not equals or not is_text(key) or (sweep and _FUNCTION.fullmatch(value)):
        return text
    parts = _split(value) if sweep else [value]
    return f"{key}={','.join(part if _is_hydras(part) else quote(part) for part in parts)}"


def _is_hydras(value: str) -> bool:
    if value in ("", "null") or _LOOKED_UP.search(value):
        return True
    return value[0] in "'\"" and value[-1] == value[0] and len(value) > 1 and not Path(value).exists()


def _split(value: str) -> Iterator[str]:
    """Split at the commas that do not stand in quotes."""
    start, quoted = 0, ""
    for place, letter in enumerate(value):
        if quoted:
            quoted = "" if letter == quoted and value[place - 1] != "\\" else quoted
        elif letter in "'\"" and place == start:
            quoted = letter
        elif letter == ",":
            yield value[start:place]
            start = place + 1
    if quoted and "," in value[start:]:  # that quotation mark is a letter like others
        yield from value[start:].split(",")
    else:
        yield value[start:]


@functools.cache
def _schema_text() -> tuple[str, ...]:
    parts = {"": Settings, "backbone.": BackboneConfig, "recipe.": Recipe, "distributed.": Distributed}
    return tuple(f"{prefix}{name}" for prefix, part in parts.items() for name in list_text_fields(part))


def _registered_text(group: str) -> set[str]:
    return {name for kind in REGISTERED[group].values() for name in list_text_fields(kind)}


def list_text_fields(kind: Any) -> list[str]:
    """List the fields of a dataclass that are text, or text or None."""
    hints = get_type_hints(kind)
    return [item.name for item in fields(kind) if _is_text_hint(hints[item.name])]


def _is_text_hint(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return {*get_args(hint)} <= {str, type(None)}
    return hint is str
