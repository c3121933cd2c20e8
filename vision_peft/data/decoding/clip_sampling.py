"""Which frames of a video make a clip: index arithmetic, nothing else.

* dense: `num_frames` frames, every `stride`-th, from a start. In training the start is random; views spread their
  starts evenly from the first to the last possible one, a single view is the middle one. A video shorter than
  `(num_frames - 1) * stride + 1` frames repeats its last frame.
* segments (TSN, https://arxiv.org/abs/1608.00859): the video is divided into `num_frames` equal parts, each gives one
  frame: a random one in training, the middle one for a single view. View v of V takes the frame at v/V of each part,
  as VideoMAE's test on Something-Something does with V = 2. `stride` plays no role; parts shorter than a frame share
  frames.
* seconds (`clip_times.py`): `num_frames` frames spread evenly over `seconds` seconds, by when each frame is shown.

AdaptFormer's own dense clips (datasets/kinetics.py) stretch 8 frames over 32 by `linspace`, which is a stride of 4.57;
here the stride is what it says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from vision_peft.data.choices import SAMPLINGS, UNIFORM
from vision_peft.data.decoding.clip_times import Timeline, draw_start, find_start, list_starts
from vision_peft.data.problems import unknown

ReadTimeline = Callable[[int], Timeline]  # of a video of so many frames; asked by clips of seconds only


@dataclass(frozen=True)
class ClipSampling:
    """How clips are taken from videos; `views` in time times `crops` in space are evaluated of every video.

    `seconds` is how long a clip lasts; its `views` may be "uniform": as many as there is room for in a video.
    """

    num_frames: int
    stride: int = 1
    mode: str = "dense"
    views: int | str = 1
    crops: int = 1
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in ("num_frames", "stride", "views", "crops"):
            value = getattr(self, field)
            is_uniform = field == "views" and value == UNIFORM and self.mode == "seconds"
            if not is_uniform and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{field} must be a whole number from 1, got {value!r}")
        if self.mode not in SAMPLINGS:
            raise unknown("clip sampling", self.mode, SAMPLINGS)
        if self.mode == "seconds" and not (self.seconds and self.seconds > 0):
            raise ValueError(f"sampling by seconds needs clip_seconds, got {self.seconds!r}")

    @property
    def length(self) -> Fraction:
        """Seconds of a clip, exactly as they are written: 0.1 is a tenth."""
        return Fraction(str(self.seconds))

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> "ClipSampling":
        """Return the sampling that the input settings of a model describe."""
        views, crops = settings["views"], int(settings["crops"])
        views = views if views == UNIFORM else int(views)
        seconds = settings.get("clip_seconds")
        return cls(settings["num_frames"], settings["frame_stride"], settings["sampling"], views, crops, seconds)

    def draw(self) -> list[float]:
        """Draw the random numbers of one training clip from torch's default generator; always equally many."""
        return torch.rand(self.num_frames, dtype=torch.float64).tolist()

    def train(self, frames: int, drawn: Sequence[float], read: ReadTimeline | None = None) -> list[int]:
        """Pick the frames of a training clip of a video of `frames` frames by `num_frames` numbers in [0, 1)."""
        if self.mode == "seconds":
            timeline = _read(read, frames)
            return timeline.pick(draw_start(self.length, timeline.duration, drawn[0]), self.length, self.num_frames)
        if self.mode == "segments":
            return pick_random_segments(frames, self.num_frames, drawn)
        starts = find_last_start(frames, self.num_frames, self.stride) + 1
        return pick_dense(frames, self.num_frames, self.stride, int(drawn[0] * starts))

    def test(self, frames: int, view: int = 0, read: ReadTimeline | None = None) -> list[int]:
        """Pick the frames of view `view` in time, of 0 to `views` - 1."""
        if self.mode == "seconds":
            timeline = _read(read, frames)
            start = self._find_start(timeline.duration, view)
            return timeline.pick(start, self.length, self.num_frames)
        if not isinstance(self.views, int) or not 0 <= view < self.views:
            raise IndexError(f"view {view} of {self.views}")
        if self.mode == "segments":
            return pick_segments(frames, self.num_frames, view, self.views)
        last = find_last_start(frames, self.num_frames, self.stride)
        return pick_dense(frames, self.num_frames, self.stride, spread_starts(last, self.views)[view])

    def _find_start(self, duration: Fraction, view: int) -> Fraction:
        if isinstance(self.views, int) and 0 <= view < self.views:
            return find_start(self.length, duration, view, self.views)
        starts = list_starts(self.length, duration) if self.views == UNIFORM else []
        if not 0 <= view < len(starts):
            raise IndexError(f"view {view} of {len(starts) or self.views}")
        return starts[view]


def _read(read: ReadTimeline | None, frames: int) -> Timeline:
    if read is None:
        raise ValueError("sampling by seconds needs the times of the frames")
    return read(frames)


def pick_dense(frames: int, length: int, stride: int, start: int) -> list[int]:
    """Pick `length` frames, every `stride`-th from `start`; behind the end the last frame is repeated."""
    return [min(start + stride * number, frames - 1) for number in range(length)]


def find_last_start(frames: int, length: int, stride: int) -> int:
    """Compute the last start of a dense clip that fits; 0 if none does."""
    return max(0, frames - 1 - stride * (length - 1))


def spread_starts(last: int, views: int) -> list[int]:
    """Spread the starts of `views` clips evenly over 0 to `last`; the middle for one."""
    return [last // 2] if views == 1 else [last * view // (views - 1) for view in range(views)]


def pick_segments(frames: int, length: int, view: int = 0, views: int = 1) -> list[int]:
    """Pick one frame of each of `length` equal parts: the middle one, or for several `views` that at `view / views`."""
    part, parts = (1, 2) if views == 1 else (view, views)
    return [frames * (parts * number + part) // (parts * length) for number in range(length)]


def pick_random_segments(frames: int, length: int, drawn: Sequence[float]) -> list[int]:
    """Pick one frame of each of `length` equal parts, at the share `drawn` (in [0, 1)) of it."""
    chosen = []
    for number in range(length):
        first, behind = frames * number // length, frames * (number + 1) // length
        chosen.append(first + int(drawn[number] * max(1, behind - first)))
    return chosen
