"""A result row made of nothing but the types of its fields, to damage."""

from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from vision_peft.results.row import Row


def sample_row(**changed: Any) -> dict[str, Any]:
    """A row as result.json holds it, every field of it there."""
    hints = get_type_hints(Row)
    row = {item.name: _sample(hints[item.name]) for item in fields(Row) if item.name not in ("extra", "file")}
    methods = [{"name": "lora", "fields": {"rank": 8, "targets": ["q", "v"]}}]
    return row | {"methods": methods, "protocol": "val_select", "top1": 90.0, "metric": "top1"} | changed


def _sample(hint: Any) -> Any:
    origin = get_origin(hint) or hint
    if origin in (Union, type(int | None)):
        return None if type(None) in get_args(hint) else _sample(get_args(hint)[0])
    return "x" if origin is str else origin(1) if origin in (int, float, bool) else origin()
