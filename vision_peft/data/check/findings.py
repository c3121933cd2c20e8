"""What a check of a dataset may find: one thing that is wrong or unusual, and where."""

from dataclasses import dataclass, field
from typing import NamedTuple

PROBLEM, WARNING = "problem", "warning"


class Item(NamedTuple):
    """One place of an image."""

    split: str
    path: str
    label: int


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ("problem") or unusual ("warning")."""

    severity: str
    kind: str
    text: str
    splits: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
