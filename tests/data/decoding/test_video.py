"""Frames of real and of damaged video files: the same whichever library decodes them, and an error for what is none."""

import gc
import multiprocessing
import os
import pickle
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.video_files import DISORDERLY, ORDERLY, reference, turned, write_audio, write_video
from torch.utils.data import DataLoader, Dataset

from vision_peft.data.decoding import video, video_backends
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.video import decode_clip, frame_count
from vision_peft.data.decoding.video_backends import check_backend, usable_backends
from vision_peft.data.decoding.video_file import VideoDecodeError

BACKENDS = ("decord", "torchcodec", "pyav")
SAMPLES = {  # frames that ffprobe -count_frames and PyAV's plain decoding give
    "mmaction2_demo_arm_wrestling.mp4": 280,
    "mmaction2_demo_skeleton.mp4": 72,
    "mmaction2_part_0.mp4": 32,
    "mmaction2_structuralize.mp4": 300,
    "mmaction2_test.avi": 164,
    "mmaction2_test.mp4": 300,
    "paddlevideo_k400_example.avi": 131,
    "ssv2_166766.mp4": 49,
    "ssv2_56620.gif": 60,
}


def installed(backend: str) -> str:
    if backend not in usable_backends():
        pytest.skip(f"{backend} is not installed")
    return backend


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, (codec, options, *_) in {**ORDERLY, **DISORDERLY}.items():
        write_video(folder / name, codec=codec, **options)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ORDERLY)
def test_every_backend_gives_the_very_frames_in_any_order(clips: Path, name: str, backend: str) -> None:
    path, frames = clips / name, reference(clips / name)
    assert len(frames) == 60
    installed(backend)
    assert frame_count(path) == 60
    chosen = random.Random(0)
    asked = [[0], [59], [59, 0, 59], [50, 40, 30], range(13, 16), range(60)]
    asked += [[chosen.randrange(60) for _ in range(8)] for _ in range(5)]
    for indices in asked:
        clip = decode_clip(path, list(indices), backend)
        assert clip.dtype == np.uint8
        assert np.array_equal(clip, frames[list(indices)])


@pytest.mark.parametrize("name", DISORDERLY)
def test_files_that_decord_would_mix_up_go_to_the_next_backend(clips: Path, name: str) -> None:
    path, frames = clips / name, reference(clips / name)
    for indices in ([0, 5, 10, 15], [20, 24, 28, 32], [50, 40, 30], [59], [13, 14, 15]):
        assert np.array_equal(decode_clip(path, indices), frames[indices])
    if "decord" in usable_backends():
        with pytest.raises(VideoDecodeError, match=f"decord: .*{DISORDERLY[name][2]}") as caught:
            decode_clip(path, [0], "decord")
        assert caught.value.backend == "decord"


@pytest.mark.parametrize("name", DISORDERLY)
def test_torchcodec_sorts_frames_by_their_times_where_key_frames_are_new_starts(clips: Path, name: str) -> None:
    path, frames = clips / name, reference(clips / name)
    installed("torchcodec")
    if name != "hevc.mp4":
        with pytest.raises(VideoDecodeError, match=f"torchcodec: .*{DISORDERLY[name][2]}"):
            decode_clip(path, [0], "torchcodec")
        return
    for indices in ([0, 5, 10, 15], [20, 24, 28, 32], [50, 40, 30], [59], [13, 14, 15], [*range(60)]):
        assert np.array_equal(decode_clip(path, indices, "torchcodec"), frames[indices])


def test_a_function_of_the_number_of_frames_chooses_with_one_opening(clips: Path) -> None:
    asked = []
    clip = decode_clip(clips / "h264.mp4", lambda frames: asked.append(frames) or [frames - 1, 0])
    assert asked == [60]
    assert np.array_equal(clip, reference(clips / "h264.mp4")[[59, 0]])


@pytest.mark.parametrize(
    ("indices", "first"),
    [
        ([0, 20, 40, 59], "decord"),  # 60 frames for 4
        ([0, 7, 15, 22, 30, 37, 45, 52], "pyav"),
        ([40, 42, 44, 46, 48, 50, 52, 54], "decord"),  # what lies ahead of them need not be decoded
        ([59, 50, 40, 30, 20, 10, 5, 0], "pyav"),
    ],
)
def test_what_is_wanted_all_over_a_short_video_is_decoded_from_its_start(
    clips: Path, monkeypatch: pytest.MonkeyPatch, indices: list[int], first: str
) -> None:
    asked = []
    readers = {
        name: lambda *a, name=name, read=read: asked.append(name) or read(*a) for name, read in video._READERS.items()
    }
    monkeypatch.setattr(video, "_READERS", readers)
    usable = [*usable_backends()]
    frames = decode_clip(clips / "h264.mp4", indices)
    assert asked == [first if first in usable else usable[0]]
    assert np.array_equal(frames, reference(clips / "h264.mp4")[indices])


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("indices", [[-1], [60], [0, 59, 60], [3, -60]])
def test_frames_before_the_first_or_behind_the_last_are_refused(clips: Path, backend: str, indices: list[int]) -> None:
    if backend != "auto":
        installed(backend)
    with pytest.raises(IndexError, match="of a video of 60 frames, 0 to 59"):
        decode_clip(clips / "h264.mp4", indices, backend)


@pytest.mark.parametrize("size", [(64, 128), (320, 240), (64, 48), (72, 56)])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_come_upright_from_every_backend(tmp_path: Path, degrees: int, size: tuple[int, int]) -> None:
    plain = write_video(tmp_path / "plain.mp4", 8, size=size)
    path = turned(plain, tmp_path / "turned.mp4", degrees, size)
    upright = np.rot90(reference(plain)[[0, 5]], -degrees // 90, axes=(1, 2))  # np.rot90 turns counter-clockwise
    assert np.array_equal(decode_clip(path, [0, 5]), upright)
    assert np.array_equal(decode_clip(path, [0, 5], "pyav"), upright)
    if "torchcodec" in usable_backends():
        assert np.array_equal(decode_clip(path, [0, 5], "torchcodec"), upright)
    if "decord" in usable_backends():
        try:
            frames = decode_clip(path, [0, 5], "decord")
        except VideoDecodeError:
            return  # decord cannot turn every width
        assert np.array_equal(frames, upright)


def test_a_gif_falls_through_to_a_backend_that_opens_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.gif", 20, "gif")
    assert np.array_equal(decode_clip(path, [0, 7, 19]), reference(path)[[0, 7, 19]])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_files_have_the_right_number_of_frames(shared: Path, name: str) -> None:
    path = shared / "data" / "video_format_samples" / name
    frames = SAMPLES[name]
    assert frame_count(path) == frame_count(path, decode=True) == frames
    clip = decode_clip(path, [0, frames // 2, frames - 1])
    assert clip.shape[0] == 3
    if not name.endswith("skeleton.mp4"):  # 1080p takes its time
        assert np.array_equal(clip, decode_clip(path, [0, frames // 2, frames - 1], "pyav"))


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are not videos, with what the error must say."""
    whole = write_video(folder / "whole.mp4").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(random.Random(0).randbytes(3000))
    (folder / "no_index.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "page.mp4").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    write_audio(folder / "audio.mp4")
    return {
        "gone.mp4": "FileNotFoundError",
        "empty.mp4": "the file is empty",
        "noise.mp4": "not a video of a known container",
        "no_index.mp4": "Invalid data",
        "page.mp4": "not a video of a known container",
        "list.mp4": "playlist",
        "folder.mp4": "not a regular file",
        "pipe.mp4": "not a regular file",
        "audio.mp4": "no video stream",
    }


def test_what_is_no_video_is_one_error_with_path_backend_and_cause_in_one_line(tmp_path: Path) -> None:
    for name, cause in broken_files(tmp_path).items():
        with pytest.raises(VideoDecodeError, match=cause) as caught:
            decode_clip(tmp_path / name, [0])
        error = caught.value
        assert isinstance(error, ImageDecodeError)
        assert error.path == str(tmp_path / name)
        assert "\n" not in str(error)
        assert "stack" not in str(error).lower()
        assert ".cc:" not in str(error)
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.backend, copy.path) == (str(error), error.backend, error.path)
        assert error.backend in ("none", "pyav")


def test_an_unknown_or_missing_backend_is_named(monkeypatch: pytest.MonkeyPatch, clips: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown video decoder 'decrod' \(did you mean decord\?\)"):
        check_backend("decrod")
    missing = {"decord": "No module named 'decord'", "torchcodec": "none"}
    monkeypatch.setattr(video_backends, "explain_absence", missing.get)
    assert usable_backends() == ["pyav"]
    assert np.array_equal(decode_clip(clips / "h264.mp4", [3]), reference(clips / "h264.mp4")[[3]])
    with pytest.raises(ImportError, match=r"decord: No module .* x86-64 only: give data\.decoder=auto"):
        decode_clip(clips / "h264.mp4", [3], "decord")
    monkeypatch.setattr(video_backends, "explain_absence", {**missing, "pyav": "none"}.get)
    with pytest.raises(ImportError, match="pip install av"):
        check_backend("auto")


@pytest.mark.parametrize("words", ["Could not load libtorchcodec. Likely causes:\n 1. FFmpeg", "Invalid data found"])
def test_torchcodec_without_the_libraries_of_ffmpeg_is_not_usable(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def decoder(_: bytes) -> None:
        raise RuntimeError(words)

    decoders = SimpleNamespace(VideoDecoder=decoder)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=decoders))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.setattr(video_backends, "explain_absence", video_backends.explain_absence.__wrapped__)  # asked anew
    monkeypatch.setattr(video_backends, "listen_to", lambda _: None)
    assert ("torchcodec" in usable_backends()) == (words == "Invalid data found")
    if words != "Invalid data found":
        with pytest.raises(ImportError, match="torchcodec: ffmpeg's libraries are not installed"):
            check_backend("torchcodec")


class Frames(Dataset[torch.Tensor]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(decode_clip(self.path, [index]))


@pytest.mark.skipif(sys.platform == "win32", reason="processes do not fork there")
@pytest.mark.parametrize("name", ["h264.mp4", "xvid.avi"])
def test_processes_forked_after_the_parent_decoded_give_the_right_frames(clips: Path, name: str) -> None:
    path = clips / name
    decode_clip(path, range(0, 60, 7))
    fork = multiprocessing.get_context("fork")
    loader = DataLoader(Frames(path), batch_size=5, num_workers=2, multiprocessing_context=fork, timeout=60)
    found = torch.cat(list(loader))[:, 0].numpy()
    assert np.array_equal(found, reference(path))


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 10**6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("times", "megabytes"), [(200, 10), pytest.param(2000, 20, marks=pytest.mark.slow)])
def test_many_openings_leak_neither_files_nor_memory(clips: Path, backend: str, times: int, megabytes: int) -> None:
    path = clips / "h264.mp4"
    installed(backend)
    for _ in range(50):
        decode_clip(path, [0, 10], backend)
    files, before = sum(1 for _ in Path("/proc/self/fd").iterdir()), resident_mb()
    for _ in range(times):
        decode_clip(path, [0, 10], backend)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= files
    assert resident_mb() - before < megabytes
