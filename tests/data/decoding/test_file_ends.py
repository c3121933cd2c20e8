"""Files that end before their container does, wherever the break falls."""

from pathlib import Path

import av
import pytest
from support.video_files import write_video

from vision_peft.data.decoding.file_ends import find_cut
from vision_peft.data.decoding.video import VideoDecodeError, decode_clip, frame_count
from vision_peft.data.decoding.video_index import read_index

FRAMES = 12


def list_ends(path: Path) -> list[int]:
    """Places behind each packet."""
    with av.open(str(path)) as container:
        return [(packet.pos or 0) + packet.size for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(("name", "codec"), [("whole.mp4", "libx264"), ("whole.mov", "mpeg4"), ("whole.avi", "mpeg4")])
def test_a_break_between_two_packets_is_not_taken_for_the_end(tmp_path: Path, name: str, codec: str) -> None:
    whole = write_video(tmp_path / name, FRAMES, codec, index_first=name != "whole.avi")
    content, ends = whole.read_bytes(), sorted(list_ends(whole))
    assert frame_count(whole) == FRAMES
    assert read_index(whole).frames in (FRAMES, None)
    for number, end in enumerate(ends[1:-1], start=2):
        cut = whole.with_stem(f"cut_{number}")
        cut.write_bytes(content[:end])
        for ask in (frame_count, lambda path: decode_clip(path, [0]), lambda path: decode_clip(path, [0], "pyav")):
            with pytest.raises(
                VideoDecodeError, match=rf"its container is damaged: .*{number} of {FRAMES} frames|partial"
            ):
                ask(cut)


def test_what_ends_with_its_file_is_whole(tmp_path: Path) -> None:
    box = (16).to_bytes(4, "big") + b"free" + bytes(8)
    long = (1).to_bytes(4, "big") + b"mdat" + (24).to_bytes(8, "big") + bytes(8)
    to_the_end = bytes(4) + b"mdat" + bytes(100)
    for content, told in (
        (box + long, None),
        (box + to_the_end, None),
        (box + long + b"\0\0", None),
        (box + long[:-3], "its mdat box goes on 3 bytes behind the end of the file"),
        (box * 2 + box[:-1], "its free box goes on 1 bytes behind the end of the file"),
        (b"", None),
        (bytes(3) + b"\7free", None),
    ):
        (tmp_path / "file").write_bytes(content)
        assert find_cut(tmp_path / "file", "mov") == told
    (tmp_path / "file").write_bytes(b"RIFF" + (20).to_bytes(4, "little") + b"AVI " + bytes(10))
    assert find_cut(tmp_path / "file", "avi") == "it ends 6 bytes before its end"
    assert find_cut(tmp_path / "file", "matroska") is None
