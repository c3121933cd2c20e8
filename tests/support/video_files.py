"""Writers of small videos, for tests; no two frames are the same."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

# Container and encoder, with options under which any decoder finds any frame.
ORDERLY = {
    "h264.mp4": ("libx264", {"g": "12"}),
    "one_group.mp4": ("libx264", {"g": "250"}),
    "b_frames.mkv": ("libx264", {"g": "12", "bf": "3"}),
}
# The others, and why decord does not get them: it would take wrong frames of some.
DISORDERLY = {
    "mpeg4.avi": ("mpeg4", {}, "does not say when its frames are shown"),
    "h264.avi": ("libx264", {"g": "12"}, "does not say when its frames are shown"),
    "xvid.avi": ("mpeg4", {"bf": "2"}, "does not say when its frames are shown"),
    "xvid.mp4": ("mpeg4", {"bf": "2"}, "a packet of mpeg4 need not be one frame"),
    "open_groups.mp4": ("libx264", {"g": "12", "x264-params": "open-gop=1"}, "a key frame is not a new start"),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime"}, "damage in vp9 goes unnoticed"),
    "vp8.webm": (
        "libvpx",
        {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"},
        "damage in vp8 goes unnoticed",
    ),
    "hevc.mp4": ("libx265", {"g": "12", "x265-params": "log-level=none:pools=1"}, "stored in another order than shown"),
}
_FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p"}  # of pixels, which the encoder wants
_MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def write_video(
    path: Path,
    frames: int = 60,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    index_first: bool = False,
    **options: str,
) -> Path:
    """A video of coloured blocks that wander, `size` is width, height in pixels; an mp4 may have its index in front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    across, down = size
    blocks = np.random.default_rng(0).integers(0, 256, (down // 8, across // 8, 3), dtype=np.uint8)
    picture = np.zeros((down, across, 3), np.uint8)
    picture[: down // 8 * 8, : across // 8 * 8] = blocks.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(12), options=options)
        stream.width, stream.height, stream.pix_fmt = across, down, _FORMATS.get(codec, "yuv420p")
        stream.thread_count = 1
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_timed(path: Path, times: Sequence[int], codec: str = "libx264", size: tuple[int, int] = (64, 48)) -> Path:
    """A video whose frames are shown at `times`, in milliseconds, each with a grey of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(1000))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.thread_count = 1
        for number, time in enumerate(times):
            pixels = np.full((size[1], size[0], 3), 4 * number % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A tenth of a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        for number in range(2):
            silence.pts = 1024 * number
            container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path


def write_sizes(path: Path, *sizes: tuple[int, int], frames: int = 6) -> Path:
    """A transport stream in which the pictures have one size after the other, for so many frames each."""
    parts = [write_video(path.with_suffix(f".{size[0]}.ts"), frames, size=size, bf="0") for size in sizes]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


def turned(source: Path, path: Path, degrees: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A copy of an mp4 whose header says that it is to be shown turned clockwise by 90, 180 or 270 degrees."""
    content = bytearray(source.read_bytes())
    across, down = size
    a, b, c, d = (65536 * value for value in _MATRICES[degrees])
    x, y = {90: (down, 0), 180: (across, down), 270: (0, across)}[degrees]
    at = content.find(b"tkhd") + 4 + 4 + 20 + 16  # version 0 of the box: its times, then layer and volume
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 65536 * x, 65536 * y, 1 << 30)
    path.write_bytes(content)
    return path


def reference(path: Path) -> np.ndarray:
    """All frames as stored, `T H W 3`, decoded one after another."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
