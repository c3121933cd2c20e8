"""Clips by time: pytorchvideo's clip samplers choose the seconds, the times of its frames say what is shown then.

* In training `RandomClipSampler`: `seconds` from a random start.
* In evaluation with V views `ConstantClipsPerVideoSampler`: view v starts at v / V of the way to the last start. A
  single view is the second of two, the middle of the video (pytorchvideo's only one would be its beginning).
* In evaluation with uniform views `UniformClipSampler`: one after another, the last moved back to end with the video.

A clip of N frames shows what is on screen at the middle of each of N equal parts of its time, so that a variable frame
rate distorts nothing. (pytorchvideo spreads N over the numbers of the frames that were decoded, which does where the
rate varies.) Behind the end of a video its last frame stands still.
"""

import bisect
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vision_peft.data.decoding.video_file import VideoDecodeError
from vision_peft.data.decoding.video_index import VideoIndex, read_index
from vision_peft.data.decoding.video_readers import read_all

MOST_VIEWS = 1000  # of one video
_THREADS = 8


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Attributes:
        times: of each frame, rising, in units of `base` seconds; the first is the beginning of the video.
        base: seconds.
        duration: seconds from the beginning until the last frame has been shown as long as frames are on average.
    """

    times: Sequence[int]
    base: Fraction
    duration: Fraction

    def find_frame(self, second: Fraction) -> int:
        """Return the number of the frame that is on screen `second` seconds behind the beginning."""
        return max(0, bisect.bisect_right(self.times, self.times[0] + second // self.base) - 1)

    def pick(self, start: Fraction, seconds: Fraction, length: int) -> list[int]:
        """Pick the frames on screen at the middles of `length` equal parts of `seconds` from `start` on."""
        return [self.find_frame(start + seconds * (2 * number + 1) / (2 * length)) for number in range(length)]


def read_timeline(path: str | Path, count: int | None = None) -> Timeline:
    """Read when the `count` frames of a video file are shown; None: as many as there are, which may decode them all.

    The times are those of its packets, or of its frames where they had to be decoded to be counted. Where it holds none
    its frame rate is taken to be constant.

    Raises:
        VideoDecodeError: the file cannot be decoded.
    """
    index = read_index(path)
    if count is None and index.frames is None:
        for _ in read_all(path, index):
            pass
    return make_timeline(index, (index.frames or 0) if count is None else count)


def make_timeline(index: VideoIndex, count: int) -> Timeline:
    """Return when the `count` frames of an index are shown."""
    if count > 0 and len(index.times) == count:
        times, base = index.times, index.time_base
    else:
        times, base = range(max(count, 1)), 1 / index.rate
    shown = (times[-1] - times[0]) * base
    last = shown / (len(times) - 1) if len(times) > 1 else 1 / index.rate
    return Timeline(times, base, shown + last)


def draw_start(seconds: Fraction, duration: Fraction, drawn: float) -> Fraction:
    """Return where pytorchvideo's random clip starts; `drawn`, in [0, 1), seeds the one number that it draws."""
    from pytorchvideo.data.clip_sampling import RandomClipSampler

    before = random.getstate()
    random.seed(int(drawn * 2**53))
    try:
        clip = RandomClipSampler(seconds)(0, duration, {})  # pyright: ignore[reportArgumentType]
        return Fraction(clip.clip_start_sec)
    finally:
        random.setstate(before)


def find_start(seconds: Fraction, duration: Fraction, view: int, views: int) -> Fraction:
    """Return where view `view` of `views` starts, of pytorchvideo's constant clips per video."""
    from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler

    place, places = (1, 2) if views == 1 else (view, views)
    sampler = ConstantClipsPerVideoSampler(seconds, places)  # pyright: ignore[reportArgumentType]
    clip = None
    for _ in range(place + 1):
        clip = sampler(0, duration, {})  # pyright: ignore[reportArgumentType]
    return Fraction(clip.clip_start_sec if clip else 0)


def list_starts(seconds: Fraction, duration: Fraction) -> list[Fraction]:
    """List where pytorchvideo's uniform clips start.

    Raises:
        ValueError: there would be more than `MOST_VIEWS`.
    """
    from pytorchvideo.data.clip_sampling import UniformClipSampler

    if duration > MOST_VIEWS * seconds:
        raise ValueError(
            f"clips of {float(seconds):g} s, one after another, would be more than {MOST_VIEWS} of the "
            f"{float(duration):g} s of this video: take longer ones, or a number of views"
        )
    sampler, starts, end = UniformClipSampler(seconds, backpad_last=True), list[Fraction](), Fraction(0)
    while True:
        clip = sampler(end, duration, {})  # pyright: ignore[reportArgumentType]
        starts.append(Fraction(clip.clip_start_sec))
        end = Fraction(clip.clip_end_sec)
        if clip.is_last_clip:
            return starts


def count_views(path: str | Path, seconds: Fraction) -> int:
    """Count the uniform clips of a video; 1 where that cannot be said, so that reading this one tells why."""
    try:
        return len(list_starts(seconds, read_timeline(path).duration))
    except (VideoDecodeError, ValueError):
        return 1


def spread_over(paths: Sequence[str], most: int) -> list[str]:
    """Return at most `most` of `paths`, evenly spread."""
    return [*paths[:: max(1, -(-len(paths) // most))]]


def describe_short_videos(paths: Sequence[str], seconds: Fraction) -> str:
    """Say which of these videos are shorter than a clip of `seconds`, by their headers; "" if none is."""
    durations: dict[str, Fraction] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, duration in zip(paths, pool.map(_guess_duration, paths), strict=True):
            if duration is not None and duration < seconds:
                durations[path] = duration
    if not durations:
        return ""
    shortest = min(durations, key=lambda path: durations[path])
    return (
        f"{len(durations)} of {len(paths)} videos looked at are shorter than a clip of {float(seconds):g} s (the "
        f"shortest: {shortest}, {float(durations[shortest]):.2f} s): their last frame stands still for the rest of it"
    )


def _guess_duration(path: str) -> Fraction | None:
    """Return how long a video is, about where only decoding would tell; None where it cannot be read."""
    try:
        index = read_index(path)
        return make_timeline(index, index.frames or index.guess).duration
    except VideoDecodeError:
        return None
