"""Read JSON from someone else: numbers that fit into 64 bits, and one kind of error."""

import json
import math
from collections.abc import Callable
from typing import Any

LARGEST = 2**64  # seeds have up to 64 bits


def parse_json(text: bytes | str, pairs: Callable[[Any], Any] | None = None) -> Any:
    """Return what JSON text (bytes: UTF-8) holds; `pairs` makes something else of objects than dicts.

    Raises:
        ValueError: not JSON, nested too deep, NaN or an infinity, or a number that no field holds.
    """
    try:
        return json.loads(
            text.decode() if isinstance(text, bytes) else text,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
            object_pairs_hook=pairs,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON: write null")


def _parse_int(text: str) -> int:
    if len(text) > 21 or abs(number := int(text)) >= LARGEST:
        raise ValueError(f"the number {text[:20]}... has {len(text)} digits, wanted less than 2^64")
    return number


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number
