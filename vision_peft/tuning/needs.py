"""What a method may ask of a backbone beyond blocks that can be split; ``Method.needs`` lists it, ``attach`` checks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Need:
    """Something that some backbones lack.

    Args:
        name: what it is, as the page of methods names it ("a sequence that input prompts can join").
        check: raises ValueError on a backbone without it, with what is missing and what to do; changes nothing.
    """

    name: str
    check: Callable[[Any], object]

    def __str__(self) -> str:
        return self.name

    def missing(self, model: Any) -> str | None:
        """Say why ``model`` does not have it; None where it does."""
        try:
            self.check(model)
        except ValueError as error:
            return str(error)
        return None
