"""What a video is, for people: its container, codec, size, number of frames, frame rate and length."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from vision_peft.data.decoding.clip_times import read_timeline
from vision_peft.data.decoding.video_file import find_container, open_video

CONTAINER_NAMES = {
    "mov": "MP4/MOV",
    "matroska": "Matroska/WebM",
    "avi": "AVI",
    "asf": "ASF/WMV",
    "flv": "FLV",
    "mpeg": "MPEG-PS",
    "mpegvideo": "MPEG video",
    "mpegts": "MPEG-TS",
    "ogg": "Ogg",
    "gif": "GIF",
}


class VideoForm(NamedTuple):
    """A video in figures; of a folder of frames only their number and format are known."""

    container: str
    codec: str  # as ffmpeg calls it
    frames: int
    seconds: float | None
    rate: float | None  # frames a second, on average


def read_form(path: str | Path) -> VideoForm:
    """Read what a video file is; raises `VideoDecodeError`.

    Where only decoding tells how many frames it has, they are decoded, once a process.
    """
    timeline = read_timeline(path)
    with open_video(path) as (_, stream):
        codec = stream.codec_context.codec.canonical_name
    frames, seconds = len(timeline.times), timeline.duration
    return VideoForm(CONTAINER_NAMES[find_container(path)], codec, frames, float(seconds), _rate(frames, seconds))


def _rate(frames: int, seconds: Fraction) -> float | None:
    return float(frames / seconds) if seconds else None
