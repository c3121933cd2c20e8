"""What an adapter says of its input, checked before anything is made of it: sizes become memory."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vision_peft.printable import printable

MAX_SIDE = 4096  # pixels
MAX_FRAMES = 4096
MAX_CHANNELS = 4096


def _whole(lowest: int, highest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and lowest <= value <= highest


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _above_zero(value: Any) -> bool:
    return _number(value) and value > 0


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _each(accepted: Callable[[Any], bool], lengths: Sequence[int]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) in lengths and all(map(accepted, value))


def _or_none(accepted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepted(value)


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 40


_ACCEPTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "size": (_each(_whole(1, MAX_SIDE), (2,)), f"[height, width] of 1 to {MAX_SIDE} pixels"),
    "mean": (_each(_number, range(1, MAX_CHANNELS + 1)), "a finite number for each channel"),
    "std": (_each(_above_zero, range(1, MAX_CHANNELS + 1)), "a number above 0 for each channel"),
    "channels": (_whole(1, MAX_CHANNELS), f"a whole number from 1 to {MAX_CHANNELS}"),
    "dtype": (_or_none(_word), "a type of numpy, or null"),
    "bands": (_each(_text, range(MAX_CHANNELS + 1)), "a name for each channel"),
    "stack": (_each(_text, range(MAX_CHANNELS + 1)), "an ending of file names for each channel"),
    "show_bands": (_each(_whole(0, MAX_CHANNELS - 1), (1, 3)), "one or three numbers of bands, from 0"),
    "layout": (lambda value: value in ("auto", "hwc", "chw"), "auto, hwc or chw"),
    "nodata": (_or_none(_number), "a finite number, or null"),
    "missing": (lambda value: value in ("error", "mean"), "error or mean"),
    "interpolation": (_word, "a name"),
    "resize": (_word, "a name"),
    "sampling": (_word, "a name"),
    "crop_pct": (lambda value: _number(value) and 0 < value <= 1, "a share above 0, at most 1"),
    "num_frames": (_or_none(_whole(1, MAX_FRAMES)), f"1 to {MAX_FRAMES} frames, or null"),
    "tubelet_size": (_or_none(_whole(1, MAX_FRAMES)), f"1 to {MAX_FRAMES} frames, or null"),
    "frame_stride": (_whole(1, MAX_FRAMES), f"1 to {MAX_FRAMES} frames"),
    "clip_seconds": (_or_none(lambda value: _number(value) and 0.001 <= value <= 86400), "0.001 to 86400 seconds"),
    "views": (lambda value: value == "uniform" or _whole(1, 1000)(value), "a whole number from 1 to 1000, or uniform"),
    "crops": (_whole(1, 100), "a whole number from 1 to 100"),
    "value_range": (
        lambda value: value in ("full", "image") or (_each(_number, (2,))(value) and value[0] < value[1]),
        "full, image, or the values that become 0 and 255",
    ),
    "window": (lambda value: isinstance(value, bool), "true or false"),
    "view_average": (lambda value: value in ("logits", "probabilities"), "logits or probabilities"),
}

KNOWN = tuple(_ACCEPTED)
_UNRECORDED = {"resize": "squash", "sampling": "segments", "frame_stride": 1, "views": 1, "crops": 1}
_RENAMED = {"resize": {"short_side": "shortest"}}  # words of earlier versions


def with_todays_words(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked record of the input, words of earlier versions replaced by those of today."""
    return {key: _RENAMED[key].get(value, value) if key in _RENAMED else value for key, value in recorded.items()}


def input_problems(recorded: Mapping[str, Any]) -> list[str]:
    """Describe what is wrong with the entries that are known; a user's own entries are not checked."""
    problems = [
        f"input.{key} is {printable(recorded[key], 60)}, wanted {words}"
        for key, (accepted, words) in _ACCEPTED.items()
        if key in recorded and not accepted(recorded[key])
    ]
    lengths = {key: len(recorded[key]) for key in ("mean", "std", "bands", "stack") if key in recorded and not problems}
    wanted = (recorded["channels"],) if "channels" in recorded else (1, 3)
    problems += [
        f"input.{key} has {length} entries, wanted {' or '.join(map(str, wanted))}"
        for key, length in lengths.items()
        if length not in wanted
    ]
    if "show_bands" in recorded and not problems and max(recorded["show_bands"]) >= recorded.get("channels", 3):
        problems.append(f"input.show_bands is {recorded['show_bands']}, wanted numbers of the channels, from 0")
    return problems


def complete_input(recorded: Mapping[str, Any] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the input that a dataset's `set_evaluation` takes.

    Args:
        recorded: what an adapter says, which may be nothing or a part.
        found: what the model itself says, see `backbones.input_config`.
    """
    return {**found, **_UNRECORDED, **(recorded or {})}
