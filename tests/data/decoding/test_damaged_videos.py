"""Damaged videos: the frames that come out one after another, whatever else is asked for, or an error; never a crash.

Sixty run by default, 500 by `pytest -m frames`. Each is decoded in a process of its own kind, so that a crash is seen.
"""

import contextlib
import multiprocessing
import random
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest
from support.video_files import write_video

from vision_peft.data.decoding.frame_pictures import PictureMaker
from vision_peft.data.decoding.video import decode_clip, frame_count
from vision_peft.data.decoding.video_backends import usable_backends
from vision_peft.data.decoding.video_file import VideoDecodeError
from vision_peft.data.decoding.video_index import read_index
from vision_peft.data.decoding.video_readers import read_all

FRAMES = 40
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "h264.mp4": ("libx264", {"g": "10"}),
    "h264.mkv": ("libx264", {"g": "10"}),
    "cavlc.mp4": ("libx264", {"g": "10", "bf": "0", "coder": "0"}),
    "one_group.mp4": ("libx264", {"g": "250"}),
    "hevc.mp4": ("libx265", {"g": "10", "x265-params": "log-level=none:pools=1:open-gop=0"}),
    "av1.mp4": ("libsvtav1", {"g": "10", "preset": "12"}),
    "vp9.webm": ("libvpx-vp9", {"g": "10", "deadline": "realtime"}),
    "vp8.webm": ("libvpx", {"g": "10", "deadline": "realtime"}),
    "mpeg4.avi": ("mpeg4", {"g": "10", "bf": "2"}),
    "mpeg2.ts": ("mpeg2video", {"g": "10", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "10"}),
    "mjpeg.avi": ("mjpeg", {}),
    "wmv2.asf": ("wmv2", {"g": "10"}),
    "flv.flv": ("flv", {"g": "10"}),
    "gif.gif": ("gif", {}),
}


def damage(whole: bytes, number: int) -> bytes:
    """Overwrite, change, insert, remove or cut bytes; what happens depends on `number` alone."""
    drawn = random.Random(number)
    content, at = bytearray(whole), drawn.randrange(len(whole))
    match drawn.choice(("run", "run", "bytes", "bytes", "insert", "remove", "cut", "header")):
        case "run":
            length = drawn.choice((4, 40, 400))
            content[at : at + length] = bytes([drawn.choice((0, 0x55, 0xFF))]) * len(content[at : at + length])
        case "bytes":
            for _ in range(drawn.choice((1, 20, len(whole) // 50))):
                content[drawn.randrange(len(whole))] = drawn.randrange(256)
        case "insert":
            content[at:at] = drawn.randbytes(drawn.choice((1, 50, 1000)))
        case "remove":
            del content[at : at + drawn.choice((1, 50, 1000))]
        case "cut":
            del content[max(at, 1) :]
        case "header":
            for _ in range(3):
                content[drawn.randrange(min(600, len(whole)))] = drawn.randrange(256)
    return bytes(content)


def read_in_order(path: Path) -> list[np.ndarray]:
    """Return the frames that come out one after another, until the first error."""
    frames = list[np.ndarray]()
    with contextlib.suppress(VideoDecodeError):
        index = read_index(path)
        maker = PictureMaker(index.turn)
        frames.extend(maker.make(frame) for frame in read_all(path, index))
    return frames


def find_difference(path: Path, number: int) -> tuple[str, int, int]:
    """Ask for frames in many ways; return what is wrong or "", and how many answers were frames and errors."""
    in_order = read_in_order(path)
    seen = dict(enumerate(in_order))
    drawn, answers, errors = random.Random(number), 0, 0
    count = max(len(in_order), 1)
    asked: list[Any] = [[drawn.randrange(count)] for _ in range(6)]
    asked += [drawn.choices(range(count), k=5), [0, count - 1], range, lambda frames: [frames - 1, frames // 2]]
    asked += [lambda frames: range(0, frames, 3)]
    for backend in ("auto", *usable_backends()):
        for indices in asked:
            numbers: list[int] = []
            choose = indices if callable(indices) else lambda _, wanted=indices: wanted
            try:
                clip = decode_clip(
                    path, lambda frames, choose=choose, into=numbers: remember(choose(frames), into), backend
                )
            except (VideoDecodeError, IndexError) as error:
                errors += 1
                if "\n" in str(error):
                    return f"{backend}: an error of several lines", answers, errors
                continue
            answers += 1
            for index, frame in zip(numbers, clip, strict=True):
                known = seen.setdefault(index, frame)
                if known.shape != frame.shape or not np.array_equal(known, frame):
                    return f"{backend}: another frame {index} when {numbers[:8]} are asked for", answers, errors
    try:
        counts = {frame_count(path), frame_count(path)}
    except VideoDecodeError:
        return "", answers, errors
    return "" if len(counts) == 1 else f"counts {counts}", answers, errors


def remember(indices: Any, into: list[int]) -> list[int]:
    into[:] = indices
    return into


def examine(paths: list[tuple[int, Path]], send: Connection) -> None:
    for number, path in paths:
        send.send((number, *find_difference(path, number)))
    send.send(None)


def examine_all(paths: list[Path]) -> tuple[dict[int, tuple[str, int, int]], list[str]]:
    """Examine the files in processes; return what was found by number, and which ended a process or took too long."""
    found: dict[int, tuple[str, int, int]] = {}
    ended: list[str] = []
    start = 0
    while start < len(paths):
        receive, send = multiprocessing.Pipe(duplex=False)
        arguments = (list(enumerate(paths))[start:], send)
        child = multiprocessing.get_context("fork").Process(target=examine, args=arguments)
        child.start()
        send.close()
        try:
            while receive.poll(60) and (result := receive.recv()) is not None:
                found[result[0]] = result[1:]
                start = result[0] + 1
            if start == len(paths):
                break
            ended.append(f"{paths[start].name}: not done in a minute")
        except EOFError:
            child.join()
            ended.append(f"{paths[start].name}: exit code {child.exitcode}")
        finally:
            child.kill()
            child.join()
        start += 1
    return found, ended


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name, (codec, options) in KINDS.items():
        write_video(folder / name, FRAMES, codec, (64, 48), index_first=name.endswith(".mp4"), **options)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="processes do not fork there")
@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.frames)])
def test_frames_of_damaged_videos_do_not_depend_on_what_else_is_asked_for(
    whole: Path, tmp_path: Path, count: int
) -> None:
    paths = []
    for number in range(count):
        name = list(KINDS)[number % len(KINDS)]
        paths.append(tmp_path / f"{number:03d}_{name}")
        paths[-1].write_bytes(damage((whole / name).read_bytes(), number))
    found, ended = examine_all(paths)
    assert ended == []
    assert {paths[number].name: wrong for number, (wrong, *_) in found.items() if wrong} == {}
    assert len(found) == count
    answers, errors = (sum(counts) for counts in list(zip(*found.values(), strict=True))[1:])
    print(f"{answers} answers, {errors} errors")
    assert min(answers, errors) > count  # both ends are met


@pytest.mark.parametrize("backend", ["auto", "decord", "torchcodec", "pyav"])
def test_damage_is_an_error_and_the_other_groups_are_as_before(whole: Path, tmp_path: Path, backend: str) -> None:
    if backend not in ("auto", *usable_backends()):
        pytest.skip(f"{backend} is not installed")
    frames = read_in_order(whole / "h264.mkv")
    content = bytearray((whole / "h264.mkv").read_bytes())
    with av.open(str(whole / "h264.mkv")) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][FRAMES // 2 + 1]
        middle = content.index(bytes(packet)) + packet.size // 2
    content[middle : middle + 16] = b"\x55" * 16
    path = tmp_path / "damaged.mkv"
    path.write_bytes(content)
    assert read_index(path).refusals == {}
    in_order = read_in_order(path)
    broken = len(in_order)
    assert FRAMES // 2 < broken < FRAMES - 10
    frames[:broken] = in_order  # some of which are made of the broken one
    for number in range(FRAMES):
        for indices in ([number], [number, 0], [FRAMES - 1, number], [number, broken], [*range(number)]):
            try:
                clip = decode_clip(path, indices, backend)
            except VideoDecodeError:
                continue
            assert broken not in indices
            assert all(np.array_equal(frame, frames[index]) for index, frame in zip(indices, clip, strict=True))
    if backend != "decord":  # which reads ahead, and may meet the damage behind what is asked for
        assert np.array_equal(decode_clip(path, [0, 5], backend), np.stack([frames[0], frames[5]]))
    if backend not in ("pyav", "decord"):  # pyav comes to the damage before
        assert np.array_equal(decode_clip(path, [FRAMES - 1], backend)[0], frames[-1])
    with pytest.raises(VideoDecodeError, match=rf"damaged|errors inside the file|frame {broken}"):
        decode_clip(path, [broken], backend)


def test_frames_that_a_damaged_container_loses_are_not_lost_in_silence(whole: Path, tmp_path: Path) -> None:
    content = bytearray((whole / "h264.mkv").read_bytes())
    with av.open(str(whole / "h264.mkv")) as container:
        place = [packet.pos or 0 for packet in container.demux(video=0) if packet.size][FRAMES // 2]
    content[place - 8 : place + 8] = b"\xff" * 16
    (tmp_path / "a.mkv").write_bytes(content)
    (tmp_path / "b.mkv").write_bytes(content)  # the same report once more
    index_first = write_video(tmp_path / "whole.mp4", index_first=True).read_bytes()
    (tmp_path / "c.mp4").write_bytes(index_first[: len(index_first) * 3 // 4])
    asks = {"count": frame_count, "any": lambda p: decode_clip(p, [0]), "pyav": lambda p: decode_clip(p, [0], "pyav")}
    told = {}
    for name in ("a.mkv", "b.mkv", "c.mp4"):
        for kind, ask in asks.items():
            av.logging.set_level(None)  # as other users of PyAV may
            av.logging.set_skip_repeated(True)
            told[name, kind] = _complain(ask, tmp_path / name)
    assert {key: text for key, text in told.items() if "its container is damaged: " not in text} == {}


def _complain(ask: Callable[[Path], Any], path: Path) -> str:
    try:
        ask(path)
    except VideoDecodeError as error:
        return str(error)
    return "nothing"
