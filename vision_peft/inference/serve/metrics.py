"""Counters, gauges and histograms in the text form of Prometheus (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PREFIX = "vision_peft_"


class Counter:
    """Counts by the values of its labels, of which there must be few."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name, self.text, self.labels = _PREFIX + name, text, labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        self._lock = threading.Lock()

    def add(self, *values: str, count: float = 1) -> None:
        """Count ``count`` more under these values of the labels."""
        with self._lock:
            self.values[values] = self.values.get(values, 0) + count

    def forget(self, value: str) -> None:
        """Drop what was counted under a value of the first label."""
        with self._lock:
            self.values = {key: count for key, count in self.values.items() if key[0] != value}

    def lines(self) -> Iterator[str]:
        """Describe it and its counts."""
        yield from _head(self.name, self.text, "counter")
        for values, count in sorted(dict(self.values).items()):
            yield f"{self.name}{_labels(dict(zip(self.labels, values, strict=True)))} {_format(count)}"


class Gauge:
    """A number that is asked for when it is shown."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self.read = _PREFIX + name, text, read

    def lines(self) -> Iterator[str]:
        """Describe it and its value now."""
        yield from _head(self.name, self.text, "gauge")
        yield f"{self.name} {_format(self.read())}"


class Histogram:
    """How many observations lie at or below each bound."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = _PREFIX + name, text, tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one observation."""
        with self._lock:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.sum += value

    def lines(self) -> Iterator[str]:
        """Describe it, its counts up to each bound, their number and sum."""
        yield from _head(self.name, self.text, "histogram")
        with self._lock:
            counts, total = list(self.counts), self.sum
        below = 0
        for bound, count in zip([*(f"{bound:g}" for bound in self.bounds), "+Inf"], counts, strict=True):
            below += count
            yield f'{self.name}_bucket{{le="{bound}"}} {below}'
        yield f"{self.name}_sum {_format(total)}"
        yield f"{self.name}_count {below}"


def _format(value: float) -> str:
    """Return all digits of a number, a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(values: Mapping[str, str]) -> str:
    if not values:
        return ""
    quoted = (value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in values.values())
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(values, quoted, strict=True)) + "}"


def format_metrics(*metrics: Counter | Gauge | Histogram) -> str:
    """Return all of them as Prometheus reads it."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())
