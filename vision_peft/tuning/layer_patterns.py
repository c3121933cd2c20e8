"""Values for some layers by name, as HF peft's ``rank_pattern`` and ``alpha_pattern``, without regular expressions."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from vision_peft.suggest import did_you_mean


def check_ranks(field: str, pattern: Mapping[str, Any]) -> None:
    """Raise ValueError where a value is no whole number from 0."""
    for key, rank in pattern.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
            raise ValueError(f"{field} must give whole numbers from 0; got {key}: {rank!r}")


def check_positive(field: str, pattern: Mapping[str, Any]) -> None:
    """Raise ValueError where a value is no number above 0."""
    for key, value in pattern.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{field} must give numbers above 0; got {key}: {value!r}")


def value_at(pattern: Mapping[str, Any], site: str, default: Any) -> Any:
    """Return the value of the key that names ``site``: all of its name, or the end behind a dot; the longest counts.

    A key that names a fused layer (``attn.qkv``) counts for the slices (``blocks.0.attn.qkv.q``) that no key names.
    """
    for name in (site, *([site[:-2]] if site[-2:] in (".q", ".k", ".v") else [])):
        if keys := [key for key in pattern if f".{name}".endswith(f".{key}")]:
            return pattern[max(keys, key=len)]
    return default


def check_names(patterns: Mapping[str, Mapping[str, Any]], sites: Collection[str]) -> None:
    """Check that every key of every pattern, by the name of its field, names one of ``sites``.

    Raises:
        ValueError: a key that names none, with what there is.
    """
    for field, pattern in patterns.items():
        for key in pattern:
            if not any(value_at({key: True}, site, False) for site in sites):
                ends = sorted({site.rpartition(".")[2] for site in sites} | set(sites))
                raise ValueError(
                    f"{field} names {key!r}, which is none of the layers that are adapted{did_you_mean(key, ends)}: "
                    f"wanted the name of a layer or its end, such as {', '.join(list(sites)[:3])}"
                )
