"""tools/prepare_video.py on clips of a few frames: what comes out, going on after a stop, what is refused."""

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.video_files import write_audio, write_sizes

from vision_peft.cli._prepared import name_part
from vision_peft.data.decoding.video import decode_clip
from vision_peft.data.decoding.video_backends import usable_backends

av = pytest.importorskip("av", reason="needs PyAV")
Prepare = Callable[..., tuple[int, str, str]]


def write_video(path: Path, frames: int, height: int = 40, width: int = 64, codec: str = "mpeg4") -> None:
    """A bright bar on its way from left to right, a column a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 250
        for number in range(frames):
            pixels = np.full((height, width, 3), 30, np.uint8)
            pixels[:, 4 * number % width : 4 * number % width + 8] = (220, 40, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def read_video(path: Path) -> tuple[np.ndarray, list[bool]]:
    """Frames T H W 3 and whether each is a key frame."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.key_frame for frame in frames]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write_video(root / "videos" / "wave" / "a#1 [x]&.avi", 13)
    write_video(root / "videos" / "wave" / "tall.mp4", 5, height=90, width=50)
    write_video(root / "videos" / "small.mp4", 3, height=20, width=30)
    (root / "splits").mkdir()
    (root / "splits" / "wave.txt").write_text("a#1 [x]&.avi 1\n")
    return root


@pytest.fixture
def prepare(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """`prepare(*arguments)` runs the tool in this process: its exit code and what it says on both streams."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare_video.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(repository / "tools" / "prepare_video.py"), run_name="__main__")
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def test_videos_come_out_small_whole_and_with_many_key_frames(prepare: Prepare, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, complaints = prepare(tree, out, "--short-side", 32, "--gop", 4, "--workers", 2)
    assert (code, complaints) == (0, "")
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    names = ["videos/small.mp4", "videos/wave/a#1 [x]&.mp4", "videos/wave/tall.mp4"]
    assert files == ["prepared.jsonl", "splits/wave.txt", *names]
    assert (out / "splits" / "wave.txt").read_text() == "a#1 [x]&.avi 1\n"
    shapes = {name: read_video(out / name)[0].shape for name in names}
    assert shapes == {names[0]: (3, 20, 30, 3), names[1]: (13, 32, 52, 3), names[2]: (5, 58, 32, 3)}
    frames, keys = read_video(out / names[1])
    starts = [number for number, key in enumerate(keys) if key]  # the encoder adds some where the picture changes
    assert starts[0] == 0
    assert max(np.diff([*starts, 13])) <= 4
    for backend in usable_backends():
        assert np.array_equal(decode_clip(out / names[1], [12, 5, 6], backend), frames[[12, 5, 6]])
    before, _ = read_video(tree / "videos" / "wave" / "a#1 [x]&.avi")
    for old, new in zip(before, frames, strict=True):  # the bar stands where it stood
        assert abs(old[..., 0].mean(0).argmax() / 64 - new[..., 0].mean(0).argmax() / 52) < 0.13
        assert abs(old.mean() - new.mean()) < 6
    settings, *entries = map(json.loads, (out / "prepared.jsonl").read_text().splitlines())
    assert settings == {"short_side": 32, "gop": 4, "crf": 18, "keep_names": False}
    assert {entry["path"]: entry["frames"] for entry in entries} == {
        "videos/small.mp4": 3,
        "videos/wave/a#1 [x]&.avi": 13,
        "videos/wave/tall.mp4": 5,
    }


def test_the_same_command_makes_only_what_is_missing_or_has_changed(
    prepare: Prepare, tree: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "out", ["--short-side", 32, "--keep-names"]
    assert prepare(tree, out, *options)[0] == 0
    whole, small = out / "videos" / "wave" / "a#1 [x]&.avi", out / "videos" / "small.mp4"
    stamp = whole.stat().st_mtime_ns
    small.unlink()
    half = name_part(out / "videos" / "wave" / "tall.avi")
    half.write_bytes(b"half")  # what a kill leaves
    with (out / "prepared.jsonl").open("a") as manifest:
        manifest.write('{"path": "videos/wa')
    write_video(tree / "videos" / "wave" / "tall.mp4", 7)
    code, said, complaints = prepare(tree, out, *options)
    assert (code, complaints) == (0, "")
    assert "3 videos, 1 of them are done already" in said
    assert whole.stat().st_mtime_ns == stamp
    assert len(read_video(small)[0]) == 3
    assert len(read_video(out / "videos" / "wave" / "tall.mp4")[0]) == 7
    assert not half.exists()
    assert prepare(tree, out, *options, "--verify")[0] == 0
    small.write_bytes(whole.read_bytes())
    code, said, complaints = prepare(tree, out, "--verify")
    assert code == 2
    assert "small.mp4: 13 frames, 3 were written" in complaints


def test_damaged_videos_are_reported_and_the_others_are_made(prepare: Prepare, tree: Path, tmp_path: Path) -> None:
    (tree / "videos" / "broken.mp4").write_bytes(b"no video at all")
    (tree / "videos" / "empty.webm").touch()
    code, said, complaints = prepare(tree, tmp_path / "out")
    assert code == 2
    assert "videos/broken.mp4: not a video of a known container" in complaints
    assert "videos/empty.webm: the file is empty" in complaints
    assert "2 videos could not be prepared" in said
    assert len(list((tmp_path / "out").rglob("*.mp4"))) == 3
    assert "Traceback" not in complaints


def test_videos_are_known_by_name_or_content_and_what_is_copied_or_left_out_is_counted(
    prepare: Prepare, tree: Path, tmp_path: Path
) -> None:
    for name in ("a.ts", "b.3gp", "c.asf", "d.vob"):
        write_video(tree / "more" / name, 4, codec="mpeg2video" if name[0] in "ad" else "mpeg4")
    (tree / "more" / "e.dat").write_bytes((tree / "more" / "d.vob").read_bytes())
    write_audio(tree / "more" / "f.m4a")
    (tree / "more" / "g.mxf").write_bytes(b"\6\x0e\x2b\x34" * 9)
    os.mkfifo(tree / "more" / "h.ts")
    out = tmp_path / "out"
    code, said, complaints = prepare(tree, out)
    assert (code, complaints) == (0, "")
    assert {path.name: len(read_video(path)[0]) for path in (out / "more").glob("*.mp4")} == {
        f"{name}.mp4": 4 for name in "abcde"
    }
    assert "8 videos, 0 of them are done already" in said
    kinds = "1 .m4a (more/f.m4a), 1 .mxf (more/g.mxf), 1 .txt (splits/wave.txt)"
    assert f"copied as they are, not videos: {kinds}\n" in said
    assert "left out, neither files nor folders: 1 .ts (more/h.ts)\n" in said


def test_links_to_folders_are_followed(prepare: Prepare, tree: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "far" / "deep" / "b.mp4", 2)
    (tree / "videos" / "linked").symlink_to(tmp_path / "far")
    (tree / "videos" / "wave" / "up").symlink_to(tree / "videos")
    out = tmp_path / "out"
    code, said, complaints = prepare(tree, out)
    assert (code, complaints) == (0, "")
    assert "4 videos, 0 of them are done already" in said
    assert "left out, links to folders that they are in: videos/wave/up\n" in said
    assert len(read_video(out / "videos" / "linked" / "deep" / "b.mp4")[0]) == 2
    assert not (out / "videos" / "linked").is_symlink()
    for target in (out, out / "videos", tmp_path):
        (tree / "mine").symlink_to(target)
        code, _, complaints = prepare(tree, out)
        assert (code, complaints.count("\n")) == (2, 1)
        assert f"{tree / 'mine'} is a link to {target}, and {out} overlaps that" in complaints
        (tree / "mine").unlink()


def test_what_was_prepared_can_be_prepared_once_more(prepare: Prepare, tree: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "32", tmp_path / "16"
    assert prepare(tree, first, "--short-side", 32)[0] == 0
    for done in (0, 3):
        code, said, complaints = prepare(first, second, "--short-side", 16)
        assert (code, complaints) == (0, "")
        assert f"3 videos, {done} of them are done already" in said
        assert "copied as they are, not videos: 1 .txt (splits/wave.txt)\n" in said
        assert json.loads((second / "prepared.jsonl").read_text().splitlines()[0])["short_side"] == 16
    assert prepare(first, second, "--short-side", 16, "--verify")[0] == 0


def test_a_video_whose_size_changes_is_not_made(prepare: Prepare, tmp_path: Path) -> None:
    write_sizes(tmp_path / "videos" / "two.ts", (64, 48), (32, 24))
    code, _, complaints = prepare(tmp_path / "videos", tmp_path / "out")
    assert (code, complaints) == (2, "two.ts: the size changes from 64x48 to 32x24 at frame 6\n")


def test_what_cannot_be_right_is_refused_in_one_line(prepare: Prepare, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(tree, out)[0] == 0
    twins = tmp_path / "twins"
    write_video(twins / "small.avi", 2)
    write_video(twins / "small.mp4", 2)
    cases = [
        ((tree, out, "--short-side", 64), "was started with"),
        ((tree, tree / "out"), "contains the other"),
        ((tmp_path / "nowhere", out), "is not a folder"),
        ((tree / "splits", tmp_path / "new"), "holds no video"),
        ((twins, tmp_path / "new"), "two videos would become one file, give --keep-names: small.avi and small.mp4"),
        ((tree, out, "--gop", 0), "--gop and --workers at least 1"),
        ((tree, tmp_path / "nothing", "--verify"), "nothing has been prepared"),
    ]
    for arguments, message in cases:
        code, _, complaints = prepare(*arguments)
        assert (code, complaints.count("\n")) == (2, 1)
        assert message in complaints
