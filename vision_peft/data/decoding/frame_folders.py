"""Decode videos that are folders with one image per frame."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision_peft.data.decoding.clip_frames import ClipFrames
from vision_peft.data.decoding.images import EXTENSIONS, decode_image
from vision_peft.data.decoding.video import Choose
from vision_peft.data.decoding.video_file import VideoDecodeError, describe_error


def decode_frame_folder(folder: str, count: int, choose: Choose) -> np.ndarray:
    """Return frames of a folder with one image per frame, as `decode_clip` does; the video is its first `count`.

    Raises:
        VideoDecodeError: an image that cannot be decoded, fewer than `count` images, or images of several sizes.
    """
    try:
        names = list_frames(folder)
        wanted = choose(count)
        if len(names) < count:
            raise ValueError(f"{len(names)} images, {count} frames were announced")
        return _read(folder, names, wanted)
    except VideoDecodeError:
        raise
    except (OSError, ValueError) as error:
        raise VideoDecodeError(folder, "frames", describe_error(error)) from None


def list_frames(folder: str) -> list[str]:
    """Return the names of the images in a folder, ordered by name with numbers by their value."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in EXTENSIONS]
    return sorted(names, key=lambda name: ([int(digits) for digits in _find_numbers(name)], name))


def _read(folder: str, names: Sequence[str], wanted: Sequence[int]) -> np.ndarray:
    clip, before = ClipFrames(folder, wanted), ""
    for index in sorted({*wanted}):
        picture = np.asarray(decode_image(Path(folder, names[index])))
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        if len(clip.array) and picture.shape != clip.array.shape[1:]:
            raise ValueError(f"{before} and {names[index]} {size}: wanted frames of one size")
        clip.put(index, picture)
        before = f"{names[index]} is {size}"
    return clip.array


def _find_numbers(name: str) -> list[str]:
    return "".join(letter if letter in "0123456789" else " " for letter in name).split()
