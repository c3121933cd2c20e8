"""The figures of a split, whatever the task: what all kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metrics(ABC):
    """How good the answers for a split are; a kind of task adds its own figures."""

    loss: float  # mean over the items, without what only training adds to it
    images: int  # or videos, the undecodable ones among them
    bad: int = 0  # of `images`, undecodable
    non_finite: int = 0  # of `images`, answered with NaN or infinity
    views: float | None = None  # of each video, on average; None: images

    @property
    @abstractmethod
    def figures(self) -> Mapping[str, float | None]:
        """The figures by name, as rows have them; None is what the split cannot tell."""

    def __getattr__(self, name: str) -> Any:
        """Give a figure by its name: `metrics.top1`."""
        if name.startswith("_") or name == "figures" or name not in self.figures:
            raise AttributeError(f"{type(self).__name__} has no figure {name}")
        return self.figures[name]

    @abstractmethod
    def describe(self) -> str:
        """Write the figures in a line."""

    def to_row(self) -> dict[str, Any]:
        """Return the fields of a row that these figures fill."""
        return {"figures": dict(self.figures), "n_bad": self.bad, "n_non_finite": self.non_finite}

    def files(self) -> Mapping[str, Callable[[Path], Any]]:
        """Return what is too large for a row (a confusion matrix): name in the folder of a run -> what writes it."""
        return {}

    def pictures(self, dataset: Any) -> Mapping[str, Callable[[Path], Any]]:
        """Return pictures of some items of the dataset that these figures are of, as `files` does."""
        return {}

    def list_hardest(self) -> list[tuple[int, str, str, float]]:
        """List wrong answers, the surest first: number of the image or video, truth, answer, confidence (0 to 1)."""
        return []

    def describe_items(self) -> str:
        """Say of what the figures are: "200 images", "20 videos, 4 views each"."""
        items = "images" if self.views is None else "videos"
        views = "" if self.views in (None, 1) else f", {_count_views(self.views or 0)}"
        bad = f", {self.bad} of them undecodable and counted as wrong" if self.bad else ""
        if self.non_finite:
            bad += f", {self.non_finite} answered with NaN or infinity and counted as wrong"
        return f"{self.images} {items}{views}{bad}"


def _count_views(views: float) -> str:
    return f"{views:g} views each" if views % 1 == 0 else f"{views:.2f} views on average"
