"""The measured costs: their records, the JSON file that they are kept in, and the ratios that are read off them."""

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FLOOR, PLAIN = "floor", "timm, all weights"
WHATS = ("step", "forward", "merged")


@dataclass
class Cost:
    """What one setting costs. Counts are None where they were not measured, and `note` says why."""

    setting: str  # its name in the table
    kind: str  # reference | method | peer
    overrides: list[str]
    note: str = ""
    trained: int | None = None  # parameters, the head left out
    flops_forward: int | None = None
    flops_step: int | None = None
    saved_bytes: int | None = None  # for the backward pass
    peak_bytes: int | None = None  # of an update, the model and its optimiser included
    adapter_bytes: int | None = None
    attention: list[str] = field(default_factory=list)  # kernels
    times: dict[str, list[float]] = field(default_factory=dict)  # seconds by what is measured, one a round


@dataclass
class CostGroup:
    """Settings that were measured in turn, and what they share."""

    backbone: str
    batch_size: int
    image_size: list[int]
    precision: str
    compiled: bool | str  # as config.compile
    overrides: list[str]
    block_elements: int | None = None  # that enter the blocks: B N D times depth
    rounds: int = 0
    rows: list[Cost] = field(default_factory=list)

    def find(self, setting: str) -> Cost | None:
        """Find the row of a setting."""
        return next((row for row in self.rows if row.setting == setting), None)

    @property
    def unit_bytes(self) -> int | None:
        """Bytes of one tensor of the size of the tokens in every block."""
        width = 4 if self.precision == "fp32" else 2
        return None if self.block_elements is None else width * self.block_elements


@dataclass
class Costs:
    """All groups of a table and what they were measured on."""

    command: str
    device: str
    clock: str
    commit: str | None
    code: str  # digest of the package's files
    versions: dict[str, str]
    groups: list[CostGroup] = field(default_factory=list)
    threads: int = 1  # of a CPU

    def is_same_machine(self, other: "Costs") -> bool:
        """Tell whether figures of `other` can stand beside those of these costs."""
        keys = ("device", "clock", "code", "versions")
        return all(getattr(self, key) == getattr(other, key) for key in keys)


def read_costs(path: Path) -> Costs | None:
    """Read the costs that `to_json` wrote; None where there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        groups = [CostGroup(**{**group, "rows": [Cost(**row) for row in group["rows"]]}) for group in raw.pop("groups")]
        return Costs(**raw, groups=groups)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} exists and is not a cost table: give another --out") from error


def to_json(costs: Costs) -> str:
    """Write costs as JSON."""
    return json.dumps(asdict(costs), indent=1) + "\n"


def digest_code() -> str:
    """Return a digest of the package's own files, which changes with what is measured."""
    root = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def median(times: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return statistics.median(times) if times else None


def find_ratio(times: Sequence[float], reference: Sequence[float]) -> float | None:
    """Return the median over the rounds of the ratio of two times of the same round."""
    return median([one / other for one, other in zip(times, reference, strict=False)])


def find_figures(group: CostGroup, row: Cost) -> dict[str, Any]:
    """Work out what a table shows of a row: medians, minima and ratios beside the counts."""
    floor, plain = group.find(FLOOR), group.find(PLAIN)
    times = {name: row.times.get(name, []) for name in WHATS}
    of_floor, of_plain = (each.times if each else {} for each in (floor, plain))
    step = median(times["step"])
    figures: dict[str, Any] = {"trained": row.trained}
    for name in WHATS:
        figures[f"{name}_ms"] = _times_1000(median(times[name]))
        figures[f"{name}_min_ms"] = _times_1000(min(times[name], default=None))
    figures |= {
        "images_per_s": None if step is None else group.batch_size / step,
        "step_over_floor": find_ratio(times["step"], of_floor.get("step", [])),
        "step_over_full": find_ratio(times["step"], of_plain.get("step", [])),
        "forward_over_timm": find_ratio(times["forward"], of_plain.get("forward", [])),
        "merged_over_timm": find_ratio(times["merged"], of_plain.get("forward", [])),
        "gflops_forward": _divide(row.flops_forward, 1e9),
        "gflops_step": _divide(row.flops_step, 1e9),
        "gflops_step_over_floor": _divide(row.flops_step, floor and floor.flops_step),
        "saved_mb": _divide(row.saved_bytes, 1e6),
        "saved_over_floor_mb": None,
        "saved_units": _divide(row.saved_bytes, group.unit_bytes),
        "peak_mb": _divide(row.peak_bytes, 1e6),
        "adapter_mb": _divide(row.adapter_bytes, 1e6),
        "attention": " and ".join(row.attention),
        "rounds": len(times["step"]),
        "note": row.note,
    }
    if row.saved_bytes is not None and floor is not None and floor.saved_bytes is not None:
        figures["saved_over_floor_mb"] = (row.saved_bytes - floor.saved_bytes) / 1e6
    return figures


def _times_1000(value: float | None) -> float | None:
    return None if value is None else 1000 * value


def _divide(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by
