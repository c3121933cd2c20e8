"""What is opened as a video: regular files of known containers, and nothing that they name."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.video_files import reference, write_audio, write_sizes, write_video

from vision_peft.data.annotations.video_paths import VideoCheck
from vision_peft.data.decoding.video import decode_clip, frame_count
from vision_peft.data.decoding.video_backends import usable_backends
from vision_peft.data.decoding.video_file import VideoDecodeError, find_container, is_only_sound, open_video

CONTAINERS = {
    "a.mp4": ("libx264", "mov"),
    "a.mov": ("libx264", "mov"),
    "a.3gp": ("mpeg4", "mov"),
    "a.mkv": ("libx264", "matroska"),
    "a.webm": ("libvpx", "matroska"),
    "a.avi": ("mpeg4", "avi"),
    "a.asf": ("wmv2", "asf"),
    "a.wmv": ("wmv2", "asf"),
    "a.flv": ("flv", "flv"),
    "a.mpg": ("mpeg2video", "mpeg"),
    "a.vob": ("mpeg2video", "mpeg"),
    "a.m2v": ("mpeg2video", "mpegvideo"),
    "a.ts": ("mpeg2video", "mpegts"),
    "a.m2ts": ("mpeg2video", "mpegts"),
    "a.ogv": ("libvpx", "ogg"),
    "a.gif": ("gif", "gif"),
}
SECRET = "#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:5,\n{}\n"
PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXTINF:9,\n{}\n",
    "itself.m3u8": "#EXTM3U\n#EXTINF:9,\nitself.m3u8\n",
    "concat.mp4": "ffconcat version 1.0\nfile {}\n",
    "bom.mp4": "\ufeff#EXTM3U\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "dash.mpd": '<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">{}</MPD>',
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n{}",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_known_by_their_first_bytes(tmp_path: Path, name: str) -> None:
    codec, container = CONTAINERS[name]
    path = write_video(tmp_path / name, 12, codec)
    renamed = path.rename(tmp_path / "video.txt")
    assert find_container(renamed) == container
    assert not is_only_sound(str(renamed), renamed.stat().st_size)
    assert frame_count(renamed) == frame_count(renamed, decode=True) == len(reference(renamed))
    assert np.array_equal(decode_clip(renamed, [7, 0]), reference(renamed)[[7, 0]])


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("backend", ["auto", "decord", "torchcodec", "pyav"])
def test_a_playlist_is_refused_whatever_it_names(tmp_path: Path, name: str, backend: str) -> None:
    if backend not in ("auto", *usable_backends()):
        pytest.skip(f"{backend} is not installed")
    secret = write_video(tmp_path / "secret.ts", 8, "mpeg2video")
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(secret))
    with pytest.raises(VideoDecodeError, match=r"not a video"):
        decode_clip(path, [0], backend)
    assert not is_only_sound(str(path), path.stat().st_size)


def disguised(folder: Path, tag: bytes) -> Path:
    """A transport stream of its own, behind a tag and a playlist that names a file elsewhere."""
    secret = write_video(folder / "outside" / "secret.ts", 8, "mpeg2video")
    own = write_video(folder / "own.ts", 8, "mpeg2video")
    path = folder / "innocent.mpg"
    path.write_bytes(tag + SECRET.format(secret).encode() + own.read_bytes())
    return path


@pytest.mark.parametrize("backend", ["auto", "decord", "torchcodec", "pyav"])
def test_a_tag_in_front_does_not_make_a_playlist_a_video(tmp_path: Path, backend: str) -> None:
    if backend not in ("auto", *usable_backends()):
        pytest.skip(f"{backend} is not installed")
    id3 = b"ID3\3\0\0" + bytes([0, 0, 0, 100]) + bytes(100)
    with pytest.raises(VideoDecodeError, match=r"not a video of a known container \(the file starts with b'ID3"):
        decode_clip(disguised(tmp_path, id3), [0], backend)


def test_a_container_that_another_library_may_take_for_a_playlist_goes_to_none_of_them(tmp_path: Path) -> None:
    """Words of a playlist further inside, where some demuxers look for them, too."""
    video = write_video(tmp_path / "a.avi", 12, "mpeg4")
    content = bytearray(video.read_bytes())
    video.write_bytes(content + b"<MPD dash:profile:isoff-on-demand:2011")
    assert np.array_equal(decode_clip(video, [3]), reference(video)[[3]])
    for backend in {"decord", "torchcodec"} & {*usable_backends()}:
        with pytest.raises(VideoDecodeError, match="the container does not say"):
            decode_clip(video, [3], backend)


PIPES = """
import os, sys
from pathlib import Path
from vision_peft.data.annotations.video_paths import VideoCheck
from vision_peft.data.decoding.video import decode_clip, frame_count
from vision_peft.data.decoding.video_file import VideoDecodeError, is_only_sound
root = Path(sys.argv[1])
for name in ("p.ts", "link.ts"):
    path = root / name
    assert not is_only_sound(str(path), 0)
    print(VideoCheck(root).find_problem(name))
    for ask in (frame_count, lambda path: decode_clip(path, [0])):
        try:
            ask(path)
        except VideoDecodeError as error:
            print(error.cause)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.ts")
    (tmp_path / "link.ts").symlink_to("p.ts")
    done = subprocess.run([sys.executable, "-c", PIPES, tmp_path], capture_output=True, text=True, timeout=120)
    cause = "not a regular file but a folder, a pipe or a device"
    missing = [f"video '{name}' is missing" for name in ("p.ts", "link.ts")]
    assert done.stdout.splitlines() == [missing[0], cause, cause, missing[1], cause, cause], done.stderr


def test_a_list_of_playlists_and_sound_is_read_without_opening_what_they_name(tmp_path: Path) -> None:
    write_audio(tmp_path / "sound.mp4")
    (tmp_path / "endless.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n../secret.ts\n")
    check = VideoCheck(tmp_path)
    assert check.find_problem("sound.mp4") == "video 'sound.mp4' has sound but no pictures"
    assert check.find_problem("endless.m3u8") is None  # its list is right; the file is reported where it is decoded


def test_names_that_ffmpeg_would_take_for_something_else_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "a%03d.mp4", "pipe:0", "file:x.mp4", "-i.mp4", "ä#?.mp4"):
        Path(name).write_bytes(write_video(tmp_path / "whole.mp4", 12).read_bytes())
        assert np.array_equal(decode_clip(name, [5]), reference(tmp_path / "whole.mp4")[[5]])


@pytest.mark.parametrize("asked", [[0], [7], [2, 3], [5, 6]])
def test_a_change_of_size_is_named_whatever_frames_are_asked_for(tmp_path: Path, asked: list[int]) -> None:
    path = write_sizes(tmp_path / "two.ts", (64, 48), (32, 24))
    with pytest.raises(VideoDecodeError, match="pyav: the size changes from 64x48 to 32x24 at frame 6"):
        decode_clip(path, asked)
    with pytest.raises(VideoDecodeError, match="the size changes from 64x48 to 32x24 at frame 6"):
        frame_count(path)


def test_what_goes_wrong_while_a_video_is_open_is_the_one_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    with pytest.raises(VideoDecodeError, match=r"cannot decode .*a\.mp4: something odd"), open_video(path):
        raise ValueError("something odd")
