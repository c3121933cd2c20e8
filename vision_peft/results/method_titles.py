"""Call methods what papers call them, wherever a table or a plot names one."""

from collections.abc import Mapping, Sequence
from typing import Any

ATTENTIVE = "attentive"  # kind of a head


def find_titles(methods: Sequence[Mapping[str, Any]], head: str | None) -> list[str]:
    """Return the title of each method; what trains an attentive head alone is an attentive probe.

    Args:
        methods: entries of a row.
        head: kind of its head, with options: "linear", "attentive depth=2".
    """
    titles = [find_title(method) for method in methods]
    attends = (head or "").partition(" ")[0] == ATTENTIVE
    return ["attentive probe"] if attends and titles == ["linear probe"] else titles


def find_title(method: Mapping[str, Any]) -> str:
    """Return the title that the method's class gives; the recorded name of a method that this version does not have.

    Args:
        method: an entry of a row: {"name": "vpt", "fields": {"tokens": 10, "deep": True}}.
    """
    from vision_peft.methods import METHODS  # torch, which reading a row does without

    kind = METHODS.get(method["name"])
    return method["name"] if kind is None else kind.choose_title(method["fields"])


def add_size(title: str, size: Any) -> str:
    """Append the size of a method to its title: "AdaptFormer-64", "P-Tuning v2 (10)", "Adapter+ (8)"."""
    if size is None:
        return title
    return f"{title}-{size}" if title[-1:].isalnum() and " " not in title else f"{title} ({size})"
