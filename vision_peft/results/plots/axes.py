"""What a plot may have on its x axis: parameters, time, memory, FLOPs or bytes of a setting."""

from dataclasses import dataclass

from vision_peft.results.settings import Setting
from vision_peft.results.table import format_bytes, format_count
from vision_peft.suggest import did_you_mean

SPAN_OF_LOGARITHM = 3.0  # an axis whose largest value is more than so many times the smallest is logarithmic


@dataclass(frozen=True)
class XAxis:
    """One number of rows that accuracy is drawn against."""

    field: str  # of a row
    words: str  # on the axis
    unit: str = ""  # of the words: "ms", or "FLOPs" and "B" with k, M, G
    scale: float = 1.0  # of the field, to that unit
    of_machine: bool = False  # compared on one device only
    of_update: bool = False  # of runs on kept features it is no update of the whole model

    @property
    def is_count(self) -> bool:
        """Whether 0 means that nothing trains or is stored: it has no place on a logarithmic axis."""
        return self.field.startswith("params_")

    def get(self, setting: Setting) -> float | None:
        """Return the mean over the seeds that have the number; None if none has."""
        if self.of_update and any(row.reused_features for row in setting.rows):
            return None
        mean = setting.mean(self.field)
        return None if mean is None else mean * self.scale

    def spread(self, setting: Setting) -> float | None:
        """Return the standard deviation (n - 1) over seeds; None with fewer than two, or where all are the same."""
        return (setting.std(self.field) or 0.0) * self.scale or None if self.get(setting) is not None else None

    def show(self, value: float) -> str:
        """Format a value as ticks have it: "300 k", "1.4 GB", "250"."""
        if self.unit == "B":
            return format_bytes(value).replace(".0 ", " ")
        return f"{value:g}" if self.unit else format_count(value, digits=1).replace(".0 ", " ")


X_AXES = {
    "trained": XAxis("params_trained", "trained parameters, head excluded"),
    "stored": XAxis("params_stored", "stored parameters, head excluded"),
    "step_time": XAxis("step_ms", "time of a training step (ms)", "ms", of_machine=True, of_update=True),
    "memory": XAxis("peak_memory_mb", "peak memory of training", "B", 1e6, of_machine=True),
    "inference": XAxis("flops_forward", "GFLOPs of a forward pass", "GFLOPs", 1e-9),
    "adapter": XAxis("adapter_bytes", "adapter on disk, head included", "B"),
}


def choose_axis(name: str) -> XAxis:
    """Return the axis of a name.

    Raises:
        ValueError: there is no such axis.
    """
    if name not in X_AXES:
        raise ValueError(f"x must be one of {', '.join(X_AXES)}, got {name}{did_you_mean(name, [*X_AXES])}")
    return X_AXES[name]
