"""Recipes of small videos: what containers, codecs and edits can do to frames. ffmpeg makes them.

Where a recipe does not say otherwise they show the same 30 frames, no two alike, of 128 x 96 pixels at 10 a second.
"""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

SOURCE = "source.mkv"
_X265 = "libx265 -x265-params log-level=none:pools=1:keyint=10"
_FIELDS = "-flags +ildct+ilme"
_ENCODERS = {
    "h264": "libx264 -g 10 -bf 2",
    "h264 closed": "libx264 -g 10 -bf 0 -tune zerolatency",
    "h264 open": "libx264 -g 10 -bf 2 -x264-params open-gop=1:scenecut=0",
    "h264 one-frame groups": "libx264 -g 1",
    "h264 one group": "libx264 -g 300 -bf 2 -sc_threshold 0",
    "h264 pyramid": "libx264 -g 15 -bf 5 -b_strategy 0 -x264-params b-pyramid=normal:ref=4",
    "h264 intra refresh": "libx264 -g 10 -bf 0 -x264-params intra-refresh=1",
    "h264 interlaced": f"libx264 -g 10 -bf 2 {_FIELDS}",
    "h264 main": "libx264 -profile:v main -g 10 -bf 2 -coder 0",
    "h264 422": "libx264 -g 10 -pix_fmt yuv422p",
    "h264 444": "libx264 -g 10 -pix_fmt yuv444p",
    "h264 10 bit": "libx264 -g 10 -pix_fmt yuv420p10le",
    "h264 rgb": "libx264rgb -g 10 -pix_fmt rgb24",
    "h264 full range": "libx264 -g 10 -vf scale=out_range=pc:out_color_matrix=bt709 -color_range pc -colorspace bt709",
    "h264 bt709": "libx264 -g 10 -vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709",
    "h264 bt2020": "libx264 -g 10 -vf scale=out_color_matrix=bt2020 -colorspace bt2020nc -color_primaries bt2020",
    "h264 odd": "libx264 -g 10 -vf crop=67:51 -pix_fmt yuv444p",
    "hevc": f"{_X265}:bframes=2",
    "hevc closed": f"{_X265}:open-gop=0:bframes=2",
    "hevc low delay": f"{_X265}:bframes=0",
    "hevc one-frame groups": "libx265 -x265-params log-level=none:pools=1:keyint=1",
    "hevc intra refresh": f"{_X265}:bframes=0:intra-refresh=1",
    "hevc 10 bit": f"{_X265} -pix_fmt yuv420p10le",
    "av1": "libaom-av1 -cpu-used 8 -g 10 -lag-in-frames 8",
    "av1 low delay": "libaom-av1 -cpu-used 8 -g 10 -usage realtime -lag-in-frames 0",
    "av1 svt": "libsvtav1 -preset 12 -g 10",
    "av1 10 bit": "libaom-av1 -cpu-used 8 -g 10 -pix_fmt yuv420p10le",
    "mpeg1": "mpeg1video -q:v 2 -g 10 -bf 2 -r 25",
    "mpeg1 closed": "mpeg1video -q:v 2 -g 10 -bf 0 -r 25",
    "mpeg2": "mpeg2video -q:v 2 -g 10 -bf 2 -r 25",
    "mpeg2 closed": "mpeg2video -q:v 2 -g 10 -bf 0 -r 25",
    "mpeg2 closed with B": "mpeg2video -q:v 2 -g 10 -bf 2 -r 25 -flags +cgop -sc_threshold 1000000000",
    "mpeg2 one-frame groups": "mpeg2video -q:v 2 -g 1 -r 25",
    "mpeg2 interlaced": f"mpeg2video -q:v 2 -g 10 -bf 2 -r 25 {_FIELDS}",
    "mpeg4": "mpeg4 -q:v 2 -g 10 -bf 0",
    "mpeg4 B": "mpeg4 -q:v 2 -g 10 -bf 2",
    "mpeg4 still": "mpeg4 -q:v 2 -g 10 -vf loop=loop=4:size=5:start=3 -frames:v 30",
    "xvid": "libxvid -q:v 2 -g 10 -bf 2",
    "msmpeg4": "msmpeg4 -q:v 2 -g 10",
    "vp8": "libvpx -g 10 -b:v 500k -auto-alt-ref 1 -lag-in-frames 16",
    "vp8 one group": "libvpx -g 300 -b:v 500k -auto-alt-ref 1 -lag-in-frames 25 -arnr-maxframes 5",
    "vp8 alpha": "libvpx -g 10 -b:v 500k -pix_fmt yuva420p -auto-alt-ref 0",
    "vp9": "libvpx-vp9 -g 10 -b:v 500k -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16",
    "vp9 odd": "libvpx-vp9 -g 10 -b:v 500k -cpu-used 8 -vf crop=67:51",
    "vp9 10 bit": "libvpx-vp9 -g 10 -b:v 500k -cpu-used 8 -pix_fmt yuv420p10le",
    "mjpeg": "mjpeg -q:v 2 -pix_fmt yuvj420p",
    "mjpeg 422": "mjpeg -q:v 2 -pix_fmt yuvj422p",
    "prores": "prores_ks",
    "prores alpha": "prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
    "theora": "libtheora -q:v 8 -g 10",
    "wmv1": "wmv1 -q:v 2 -g 10",
    "wmv2": "wmv2 -q:v 2 -g 10",
    "flv1": "flv1 -q:v 2 -g 10",
    "h263": "h263 -q:v 2 -g 10 -s 176x144",
    "ffv1": "ffv1 -g 10",
    "ffv1 alpha": "ffv1 -g 10 -pix_fmt bgra",
    "huffyuv": "huffyuv",
    "gif": "gif",
    "dv": "dvvideo -s 720x576 -r 25 -pix_fmt yuv420p -frames:v 6",
    "cinepak": "cinepak -frames:v 8",
    "raw": "rawvideo -pix_fmt uyvy422",
    "png": "png",
}
_MODERN = (
    *(name for name in _ENCODERS if name.startswith(("h264", "hevc", "av1"))),
    *("mpeg1", "mpeg2", "mpeg2 closed with B", "mpeg4", "mpeg4 B", "mpeg4 still", "mjpeg", "vp9", "vp9 10 bit", "png"),
)
_CONTAINERS = {
    "mp4": (*_MODERN, "xvid"),
    "mov": ("h264", "h264 open", "hevc", "mpeg4 B", "mjpeg 422", "prores", "prores alpha", "raw", "png", "dv", "h263"),
    "mkv": (*_MODERN, "mpeg2 interlaced", "vp8", "vp9 odd", "theora", "prores", "prores alpha", "ffv1 alpha", "wmv2"),
    "webm": ("vp8", "vp8 one group", "vp8 alpha", "vp9", "vp9 odd", "vp9 10 bit", "av1", "av1 svt"),
    "avi": (
        *(
            "h264",
            "h264 closed",
            "h264 one-frame groups",
            "mpeg4",
            "mpeg4 B",
            "mpeg4 still",
            "xvid",
            "msmpeg4",
            "mjpeg",
        ),
        *("mjpeg 422", "mpeg1 closed", "mpeg2", "ffv1", "huffyuv", "cinepak", "raw", "wmv2", "flv1", "dv"),
    ),
    "asf": ("h264", "h264 closed", "mpeg4", "mpeg4 B", "mjpeg", "wmv2"),
    "wmv": ("wmv1", "wmv2", "msmpeg4"),
    "flv": ("flv1", "h264", "h264 closed"),
    "mpg": ("mpeg1", "mpeg1 closed", "mpeg2", "mpeg2 closed", "mpeg2 one-frame groups", "h264"),
    "vob": ("mpeg2", "mpeg2 closed", "mpeg2 closed with B", "mpeg2 interlaced"),
    "ts": (
        *("mpeg1", "mpeg2", "mpeg2 closed with B", "h264", "h264 closed", "h264 open", "h264 interlaced", "hevc"),
        *("hevc low delay", "mpeg4 B"),
    ),
    "m2ts": ("mpeg2", "h264", "hevc"),
    "3gp": ("h263", "h264", "mpeg4"),
    "ogv": ("theora", "vp8"),
    "gif": ("gif",),
    "m1v": ("mpeg1",),
    "m2v": ("mpeg2",),
}
_EDITS = {  # name -> the video whose packets are copied, what is done to them
    "times twice.mkv": ("h264 closed.mp4", "-bsf:v setts=ts=floor(N/2)*2/10/TB"),
    "times twice.mp4": ("h264 closed.mp4", "-bsf:v setts=ts=floor(N/2)*2/10/TB"),
    "times missing.mkv": ("mpeg4.mp4", "-bsf:v setts=pts=if(mod(N\\,3)\\,NOPTS\\,PTS)"),
    "times missing.avi": ("h264.mp4", "-bsf:v setts=pts=NOPTS"),
    "rate varies.mp4": ("h264.mp4", "-bsf:v setts=pts=PTS*PTS/4000+PTS:dts=DTS*DTS/4000+DTS"),
    "rate varies.mkv": ("h264 closed.mp4", "-bsf:v setts=ts=N*N+N"),
    "begins late.mp4": ("h264.mp4", "-output_ts_offset 7"),
    "begins late.mkv": ("h264.mp4", "-output_ts_offset 7"),
    "begins below 0.mkv": ("h264.mp4", "-output_ts_offset -0.7 -avoid_negative_ts disabled"),
    "fragments.mp4": ("h264.mp4", "-movflags frag_keyframe+empty_moov"),
    "fragments open.mp4": ("h264 open.mp4", "-movflags frag_keyframe+empty_moov+default_base_moof"),
    "fragments hevc.mp4": ("hevc closed.mp4", "-movflags frag_keyframe+empty_moov"),
    "index first.mp4": ("h264.mp4", "-movflags +faststart"),
    "no edit list.mp4": ("h264.mp4", "-use_editlist 0"),
    "negative offsets.mp4": ("h264.mp4", "-movflags negative_cts_offsets"),
    "live.webm": ("vp9.webm", "-live 1"),
    "live.mkv": ("h264.mp4", "-live 1"),
    "no first key.mp4": ("h264.mp4", "-bsf:v noise=drop=not(n)"),
    "no first key.mkv": ("h264.mp4", "-bsf:v noise=drop=not(n)"),
    "no first key.ts": ("mpeg2.ts", "-bsf:v noise=drop=not(n)"),
    "no first key.avi": ("mpeg4.avi", "-bsf:v noise=drop=not(n)"),
    "no first key.webm": ("vp9.webm", "-bsf:v noise=drop=not(n)"),
    "packets missing.mp4": ("h264.mp4", "-bsf:v noise=drop=eq(n\\,10)+eq(n\\,15)"),
    "packets missing.mkv": ("h264 closed.mp4", "-bsf:v noise=drop=eq(n\\,10)+eq(n\\,15)"),
    "packets missing.webm": ("vp9.webm", "-bsf:v noise=drop=eq(n\\,10)+eq(n\\,15)"),
    "key missing.mkv": ("mpeg4.mp4", "-bsf:v noise=drop=eq(n\\,20)"),
    "unpacked.avi": ("xvid.avi", "-bsf:v mpeg4_unpack_bframes"),
    "start codes.mkv": ("h264.ts", ""),
    "from transport.mp4": ("h264.ts", ""),
    "from program.mp4": ("mpeg2.mpg", ""),
    "from interlaced.mp4": ("h264 interlaced.ts", ""),
    "90.mp4": ("h264.mp4", "-metadata:s:v rotate=90"),
    "180.mp4": ("h264.mp4", "-metadata:s:v rotate=180"),
    "270.mov": ("h264.mp4", "-metadata:s:v rotate=270"),
    "90 hevc.mp4": ("hevc.mp4", "-metadata:s:v rotate=90"),
    "90 odd.mp4": ("h264 odd.mp4", "-metadata:s:v rotate=90"),
    "sar.mp4": ("h264.mp4", "-bsf:v h264_metadata=sample_aspect_ratio=4/3"),
    "cropped.mp4": ("h264.mp4", "-bsf:v h264_metadata=crop_left=8:crop_bottom=6"),
}
_CUTS = {  # name -> the video whose packets are copied from somewhere on
    "cut.mp4": ("h264.mp4", "-ss 0.55"),
    "cut open.mp4": ("h264 open.mp4", "-ss 1.35"),
    "cut hevc.mp4": ("hevc.mp4", "-ss 1.35"),
    "cut.mov": ("h264 closed.mp4", "-ss 0.55"),
    "cut.mkv": ("h264 open.mp4", "-ss 1.35"),
    "cut.ts": ("h264.ts", "-ss 1.35"),
    "cut.webm": ("vp9.webm", "-ss 1.35"),
    "end cut.mp4": ("h264.mp4", "-t 1.55"),
}
_MORE = {  # name -> further inputs and outputs
    "sound.mp4": "-f lavfi -i sine=d=3 -c:v libx264 -g 10",
    "sound.ts": "-f lavfi -i sine=d=3 -c:v mpeg2video -g 10 -bf 2 -r 25 -c:a mp2",
    "cover.mp4": "-f lavfi -i color=red:s=64x64:d=0.1 -map 1 -map 0 -c:v:0 mjpeg -c:v:1 libx264 -g 10 "
    "-disposition:v:0 attached_pic",
    "two.mkv": "-f lavfi -i testsrc2=s=256x192:d=3:r=10 -map 0 -map 1 -c:v libx264 -g 10",
    "two.ts": "-f lavfi -i testsrc2=s=256x192:d=3:r=10 -map 0 -map 1 -c:v libx264 -g 10",
}
# The ffmpeg of PyAV heeds where a file says that chroma of 10 bits is sited, and converts each field by itself; older
# ones have to be told so.
_SITED_LEFT = "scale=in_h_chr_pos=0:in_v_chr_pos=128:flags=bicubic"
_REFERENCES = {
    "h264 10 bit": _SITED_LEFT,
    "hevc 10 bit": _SITED_LEFT,
    "interlaced": "scale=interl=1:flags=bicubic",
    "dv.": "scale=interl=1:flags=bicubic",
}


class Recipe(NamedTuple):
    """A call of ffmpeg: the video it reads, options in front of it and behind it."""

    origin: str
    before: str
    behind: str


RECIPES = {
    **{
        f"{encoder}.{container}": Recipe(SOURCE, "", f"-c:v {_ENCODERS[encoder]}")
        for container, encoders in _CONTAINERS.items()
        for encoder in encoders
    },
    **{name: Recipe(origin, "", f"-c copy {options}") for name, (origin, options) in _EDITS.items()},
    **{name: Recipe(origin, options, "-c copy") for name, (origin, options) in _CUTS.items()},
    **{name: Recipe(SOURCE, "", options) for name, options in _MORE.items()},
}


@functools.cache
def find_ffmpeg() -> str:
    """Find ffmpeg; skips the test where it is not installed."""
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("needs the command ffmpeg, whose frames are the reference")
    return found


def call_ffmpeg(*arguments: str | Path) -> bytes:
    """Run ffmpeg with one thread; raises CalledProcessError."""
    command = [find_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", "-threads", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def make_video(folder: Path, name: str) -> Path:
    """Make a video of `RECIPES` in `folder`, and what it is made from, unless they are there."""
    path = folder / name
    if path.exists():
        return path
    if name == SOURCE:
        source = "testsrc=size=128x96:rate=10:duration=3"
        call_ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", "-c:v", "ffv1", path)
        return path
    recipe = RECIPES[name]
    origin = make_video(folder, recipe.origin)
    call_ffmpeg(*recipe.before.split(), "-i", origin, *recipe.behind.split(), "-threads", "1", path)
    return path


def read_reference(path: Path) -> np.ndarray:
    """Return all frames of a video as ffmpeg gives them, uint8 `T H W 3`."""
    wanted = next((["-vf", options] for word, options in _REFERENCES.items() if word in path.name), [])
    flags = ["-map", "0:V:0", "-vsync", "passthrough", *wanted, "-c:v", "ppm", "-pix_fmt", "rgb24"]
    return np.stack(_split_pictures(call_ffmpeg("-i", path, *flags, "-f", "image2pipe", "-")))


def _split_pictures(stream: bytes) -> list[np.ndarray]:
    """Split pictures in the PPM format, each of which says its size."""
    pictures, at = [], 0
    while at < len(stream):
        magic, size, depth = stream[at : at + 40].split(b"\n", 3)[:3]
        width, height = map(int, size.split())
        start = at + len(magic) + len(size) + len(depth) + 3
        pictures.append(np.frombuffer(stream, np.uint8, width * height * 3, start).reshape(height, width, 3))
        at = start + width * height * 3
    return pictures
