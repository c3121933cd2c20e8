"""Keys and values that had another name in earlier versions: refused where they are typed, read in old run folders."""

from collections.abc import Iterator, Mapping
from typing import Any

KEYS = {  # old dotted key -> the key of today
    "recipe.repeats": "recipe.repeated_augmentation",
    "recipe.frozen": "recipe.frozen_mode",
    "recipe.grad_checkpointing": "recipe.recompute",
}
VALUES_OF_OLD_KEYS: dict[str, dict[Any, Any]] = {  # where the key of today takes other values than the old one
    "recipe.grad_checkpointing": {False: "none", True: "block"},
}
VALUES = {"recipe.resize": {"short_side": "shortest"}}  # key of today -> old value -> the value of today


def describe_renamed_key(key: str, value: Any = "<value>") -> str | None:
    """Return the error for a key of an earlier version, None for any other key."""
    return f"{key} is now called {KEYS[key]}: give {KEYS[key]}={_value_of_today(key, value)}" if key in KEYS else None


def describe_renamed_value(key: str, value: Any) -> str | None:
    """Return the error for a value of an earlier version, None for any other value."""
    new = VALUES.get(key, {}).get(value) if isinstance(value, str) else None
    return f"{key}={value} is now called {new}: give {key}={new}" if new else None


def with_todays_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested config of a run, old spellings replaced by those of today; a key already there stays."""
    renamed = {group: dict(values) if isinstance(values, Mapping) else values for group, values in raw.items()}
    for old, new in KEYS.items():
        group, _, field = old.partition(".")
        section = renamed.get(group)
        if isinstance(section, dict) and field in section:
            section.setdefault(new.partition(".")[2], _value_of_today(old, section[field]))
            del section[field]
    for section, field, key in _sections_with_values(renamed):
        section[field] = VALUES[key].get(section[field], section[field])
    return renamed


def _value_of_today(old: str, value: Any) -> Any:
    return VALUES_OF_OLD_KEYS[old].get(value, value) if old in VALUES_OF_OLD_KEYS and isinstance(value, bool) else value


def _sections_with_values(raw: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for key in VALUES:
        group, _, field = key.partition(".")
        section = raw.get(group)
        if isinstance(section, dict) and isinstance(section.get(field), str):
            yield section, field, key
