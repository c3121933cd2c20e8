"""The value of a band that stands for none, also where it is as large as its type allows.

Files say it as text, often with six digits (`-3.40282e+38`), and a float64 may not fit into float32.
"""

import math

import numpy as np

_HUGE = 1e30  # beyond it nothing is measured, and what is nearly the value for none is it
_NEAR = 1e-5  # of the value
_LARGEST = float(np.finfo(np.float32).max)


def mark_missing(nodata: float | None) -> float | None:
    """Return what `nodata` is in float32, where it is finite; None: no number stands for none."""
    if nodata is None or not math.isfinite(nodata):
        return None
    return float(np.float32(min(max(nodata, -_LARGEST), _LARGEST)))


def put_float32(target: np.ndarray, values: np.ndarray, nodata: float | None) -> None:
    """Put values into a float32 array, `mark_missing(nodata)` where they are `nodata` as nearly as it can be said."""
    with np.errstate(over="ignore"):  # infinite values are refused later
        target[...] = values
    marked = mark_missing(nodata)
    if nodata is not None and marked is not None and abs(nodata) >= _HUGE and values.dtype.kind == "f":
        most = np.finfo(np.float64).max
        low, high = sorted((nodata * (1 - _NEAR), nodata * (1 + _NEAR)))
        target[(values >= np.float64(max(low, -most))) & (values <= np.float64(min(high, most)))] = marked
