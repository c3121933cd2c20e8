"""Prove from the packets of a video how many frames it has, when each is shown, and which decoder answers rightly.

decord and torchcodec jump to a key frame and count, or look for a time, from there. They take wrong frames in silence
where a packet is not one frame, where frames are stored in another order than they expect, where times are missing or
repeated, where a key frame is not a new start, where an edit list hides frames. So they get a file only after all of
that has been excluded, by one pass over its packets in each process; PyAV decodes everything else from the start.

decord takes the n-th frame stored behind a key frame for the n-th shown: right if every frame stored before a key frame
is shown before it, and every one behind it later. torchcodec looks behind a key frame for the time of a frame.
"""

import bisect
import functools
import itertools
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vision_peft.data.decoding.bitstreams import holds_whole_frames, shows_one_picture, starts_anew
from vision_peft.data.decoding.file_ends import find_cut
from vision_peft.data.decoding.frame_pictures import Turn, read_turn
from vision_peft.data.decoding.native_log import capture_pyav
from vision_peft.data.decoding.video_file import VideoDecodeError, describe_error, open_video

_TIMED = ("mov", "matroska")  # containers with an index and a time for each frame; AVI has no times
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
_SILENT = ("vp8", "vp9")  # their decoders do not notice damage, and make different pictures of it
_EIGHT_BIT = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray")  # all convert them alike
_COLOURS = (1, 2, 5, 6)  # matrices of ffmpeg: BT.709, unknown, two names of BT.601
_GENERATED_TIMES = 1  # flag of ffmpeg: times that a file does not hold are made up
_FILES = 65536  # that a process remembers


@dataclass
class VideoIndex:
    """What is known of the frames of a file.

    Attributes:
        frames: their number; None where only decoding tells and nothing has been decoded yet.
        guess: about how many there are.
        times: when they are shown, in units of `time_base` seconds, rising; empty where that is not known.
        rate: frames a second, on average.
        pixels: of its first frame; 0 where that cannot be decoded.
        turn: how the frames become upright; `rotation` is its angle in degrees, counter-clockwise.
        proven: whether the packets alone say `frames` and `times`.
        refusals: why a decoder does not get the file, by its name.
    """

    frames: int | None
    guess: int
    times: Sequence[int]
    time_base: Fraction
    rate: Fraction
    pixels: int
    turn: Turn
    rotation: int
    proven: bool
    refusals: Mapping[str, str]

    def learn(self, times: Sequence[int | None]) -> None:
        """Remember the times of all frames, as they were decoded from the first to the last."""
        if not self.proven:
            known = [time for time in times if time is not None]
            rising = len(known) == len(times) and all(one < next_one for one, next_one in itertools.pairwise(known))
            self.frames, self.times = len(times), compress(known) if rising else ()


def read_index(path: str | Path) -> VideoIndex:
    """Read the index of a video, once a process and file; raises `VideoDecodeError`."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise VideoDecodeError(path, "none", describe_error(error)) from None
    return _read_index(os.fspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=_FILES)
def _read_index(path: str, size: int, changed: int) -> VideoIndex:
    """Read it; `size` and `changed` (in ns) distinguish files that replace each other."""
    del size, changed
    with capture_pyav() as log, open_video(path) as (container, stream):
        packets = _Packets(container, stream)
        packets.read()
        reader = container.format.name.split(",")[0]
        if damage := next((text.strip() for _, name, text in log if name.split(",")[0] == reader), None):
            raise ValueError(f"its container is damaged: {damage}")
        counted = stream.frames  # 0: its header tells of no frames
        if (not counted or len(packets.times) < counted) and (cut := find_cut(path, reader)):
            there = f", {len(packets.times)} of {counted} frames are there" if counted else ""
            raise ValueError(f"its container is damaged: {cut}{there}")
        base, rate = Fraction(stream.time_base or 1), Fraction(stream.average_rate or stream.guessed_rate or 25)
        turn, rotation = (read_turn(packets.first), packets.first.rotation) if packets.first else (Turn(), 0)
        pixels = packets.first.width * packets.first.height if packets.first else 0
        count, doubt = len(packets.times), packets.find_doubt()
        if doubt:
            refusals = {"decord": doubt, "torchcodec": doubt}
            return VideoIndex(None, count, (), base, rate, pixels, turn, rotation, proven=False, refusals=refusals)
        times, refusals = compress(sorted(packets.times)), packets.find_refusals(turn)
        return VideoIndex(count, count, times, base, rate, pixels, turn, rotation, proven=True, refusals=refusals)


def compress(times: Sequence[int]) -> Sequence[int]:
    """Return rising times in little memory: as a range where the frame rate is constant."""
    step = times[1] - times[0] if len(times) > 1 else 1
    even = range(times[0], times[-1] + 1, step) if times and step > 0 else range(0)
    return even if list(even) == list(times) else array("q", times)


def measure_reordering(times: Sequence[int]) -> int:
    """Count how many frames, at most, are stored before one that is shown before them."""
    earlier: list[int] = []
    deepest = 0
    for time in times:
        place = bisect.bisect(earlier, time)
        deepest = max(deepest, len(earlier) - place)
        earlier.insert(place, time)
    return deepest


def are_groups_apart(times: Sequence[int], keys: Sequence[bool]) -> bool:
    """Whether all frames stored before a key frame are shown before it, and all stored behind it later."""
    before = itertools.accumulate(times, max, initial=min(times) - 1)
    behind = [*itertools.accumulate(reversed(times), min)][::-1]
    places = zip(keys, times, before, behind, strict=False)
    return all(latest < time <= earliest for key, time, latest, earliest in places if key)


class _Packets:
    """The packets of a video stream, of which a few numbers are kept, and its first frame."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.container, self.stream = container, stream
        self.codec: str = stream.codec_context.codec.canonical_name
        self.timed = container.format.name.split(",")[0] in _TIMED
        self.header: bytes = stream.codec_context.extradata or b""
        self.times: list[Any] = []
        self.keys: list[bool] = []
        self.oddity: str | None = None  # of a single packet
        self.starts_anew = True  # at every key frame
        self.first: Any = None

    def read(self) -> None:
        """Read them all, and decode until there is a frame."""
        import av

        self.container.flags &= ~_GENERATED_TIMES
        looked_at = self.timed and self.codec in _CODECS
        for packet in self.container.demux(self.stream):
            if not packet.size and packet.dts is None:
                continue  # the end of the file
            self.times.append(packet.pts)
            self.keys.append(packet.is_keyframe)
            if looked_at and not self.oddity:
                self.oddity = self._find_oddity(packet)
            if self.first is None:
                try:
                    self.first = next(iter(packet.decode()), None)
                except av.FFmpegError:
                    self.oddity = self.oddity or "its first frame cannot be decoded"

    def find_doubt(self) -> str | None:
        """Say why the packets do not tell how many frames there are and when they are shown; None if they do."""
        times, context = self.times, self.stream.codec_context
        if not self.timed:
            return "the container does not say when its frames are shown"
        if self.codec not in _CODECS:
            return f"a packet of {self.codec} need not be one frame"
        if self.oddity:
            return self.oddity
        if None in times:
            return "some frames have no time"
        if len({*times}) < len(times):
            return "several frames have the same time"
        if self.first is None or not self.keys[0] or times[0] > min(times):
            return "it does not begin with a key frame"
        if len(times) < self.stream.frames:
            return f"it is cut short, {len(times)} of {self.stream.frames} frames are there"
        if measure_reordering(times) > context.reorder_depth:
            return "its header does not say how far frames are reordered"
        if not holds_whole_frames(self.codec, self.header) or self.first.interlaced_frame:
            return "it is interlaced"
        return None

    def find_refusals(self, turn: Turn) -> dict[str, str]:
        """Say which decoders do not get a file whose packets leave no doubt, and why."""
        reason = self._find_unlike_pictures(turn)
        if not reason and not self.starts_anew:
            reason = "a key frame is not a new start"
        if reason:
            return {"decord": reason, "torchcodec": reason}
        if self.codec == "av1":
            return {"decord": "its ffmpeg has no decoder of AV1"}
        if not are_groups_apart(self.times, self.keys):
            return {"decord": "frames are stored in another order than shown around a key frame"}
        return {}

    def _find_oddity(self, packet: Any) -> str | None:
        content = memoryview(packet)
        if not content or packet.is_corrupt:
            return "it holds empty or damaged packets"
        if packet.is_discard:
            return "an edit list hides frames"
        if packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change"):
            return "its settings change on the way"
        if not shows_one_picture(self.codec, content, self.header):
            return "a packet is not one frame"
        if packet.is_keyframe and not starts_anew(self.codec, content, self.header):
            if len(self.times) == 1:
                return "it does not begin with a key frame"
            self.starts_anew = False
        return None

    def _find_unlike_pictures(self, turn: Turn) -> str | None:
        """Say why libraries may make other pictures of the same frame."""
        context, frame = self.stream.codec_context, self.first
        if self.codec in _SILENT:
            return f"damage in {self.codec} goes unnoticed"
        if frame.format.name not in _EIGHT_BIT or frame.colorspace not in _COLOURS:
            return f"libraries differ in colours of {frame.format.name}, matrix {frame.colorspace}"
        if len(self.container.streams.video) > 1:
            return "it holds several video streams"
        if turn.mirrors:
            return "it is to be shown mirrored"
        if (frame.width, frame.height) != (context.width, context.height):
            return "its header says another size"
        return None
