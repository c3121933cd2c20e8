"""Encode a video anew for `prepare_video.py`: smaller, with more key frames, of the same colours at the same times."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

LOWEST_RATE, HIGHEST_RATE = 1, 240  # frames a second; what lies outside is a broken header
_SMPTE170M, _LIMITED = 6, 1  # ffmpeg's numbers of BT.601's matrix and of the range of 16 to 235


def encode(source: Path, target: Path, short_side: int, gop: int, crf: int) -> int:
    """Write all frames of `source` to `target`; returns their number. Raises what PyAV raises, or ValueError.

    Whatever matrix and range the colours of the source have, they become those of BT.601 from 16 to 235, which every
    decoder takes for granted and the file says. The frames are shown when they were.
    """
    import av

    from vision_peft.data.decoding.frame_pictures import PictureMaker, Turn
    from vision_peft.data.decoding.video_index import read_index
    from vision_peft.data.decoding.video_readers import read_all

    times, base = list_times(source)
    written, stream, index = 0, None, read_index(source)
    maker = PictureMaker(index.turn)
    with av.open(str(target), "w", format="mp4") as made:
        for frame in read_all(source, index):
            upright: Any = frame
            if index.turn != Turn():
                upright = av.VideoFrame.from_ndarray(np.ascontiguousarray(maker.make(frame)), format="rgb24")
            if stream is None:
                width, height = scaled(upright.width, upright.height, short_side)
                stream = _add_stream(made, width, height, _bound_rate(index.rate), base, gop, crf)
            small = _shrink(upright, stream.width, stream.height)
            small.pts, small.time_base = times[written] - times[0], base
            small.pict_type = 0  # else the key frames of the source stay key frames
            made.mux(stream.encode(small))
            written += 1
        assert stream is not None  # there is a frame, or an error was raised
        made.mux(stream.encode(None))
    return written


def _shrink(frame: Any, width: int, height: int) -> Any:
    from av.video.reformatter import ColorRange, Colorspace

    try:
        return frame.reformat(
            width,
            height,
            "yuv420p",
            dst_colorspace=Colorspace.ITU601,
            interpolation="AREA",
            dst_color_range=ColorRange.MPEG,
        )
    except OSError:
        kind = f"{frame.format.name}, matrix {frame.colorspace}"
        raise ValueError(f"there is no conversion of its colours to those of BT.601 ({kind})") from None


def list_times(source: Path) -> tuple[Sequence[int], Fraction]:
    """List when the frames of a video are shown, in units of so many seconds; where it does not say, at a steady rate.

    Where only decoding tells, it is decoded. Raises `VideoDecodeError`.
    """
    from vision_peft.data.decoding.clip_times import read_timeline
    from vision_peft.data.decoding.video_index import read_index

    timeline, index = read_timeline(source), read_index(source)
    times, number = timeline.times, len(timeline.times)
    if len(index.times) < 2:
        return range(number), 1 / _bound_rate(index.rate)
    if isinstance(times, range):
        return range(number), times.step * timeline.base
    return times, timeline.base


def scaled(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Compute the even width and height of frames whose short side is at most `short_side`, in the same shape."""
    factor = min(1.0, short_side / min(width, height))
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)


def _bound_rate(rate: Fraction) -> Fraction:
    near = rate.limit_denominator(1001)
    return near if LOWEST_RATE <= near <= HIGHEST_RATE else Fraction(25)


def _add_stream(made: Any, width: int, height: int, rate: Fraction, base: Fraction, gop: int, crf: int) -> Any:
    stream = made.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "fast"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base, context.colorspace, context.color_range = base, _SMPTE170M, _LIMITED
    # without frames that refer to later ones, every decoder finds every frame
    context.gop_size, context.max_b_frames = gop, 0
    context.thread_count = 1
    return stream
