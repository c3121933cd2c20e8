"""Decode videos that are folders with one image per frame."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
        frames = {index: np.asarray(decode_image(Path(folder, names[index]))) for index in sorted({*wanted})}
        _check_sizes(frames, names)
        return np.stack([frames[index] for index in wanted])
    except (OSError, ValueError) as error:
        raise VideoDecodeError(folder, "frames", describe_error(error)) from None


def list_frames(folder: str) -> list[str]:
    """Return the names of the images in a folder, ordered by name with numbers by their value."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in EXTENSIONS]
    return sorted(names, key=lambda name: ([int(digits) for digits in _find_numbers(name)], name))


def _check_sizes(frames: Mapping[int, np.ndarray], names: Sequence[str]) -> None:
    sizes = {names[index]: f"{picture.shape[1]}x{picture.shape[0]}" for index, picture in frames.items()}
    for (one, size), (other, next_size) in itertools.pairwise(sizes.items()):
        if size != next_size:
            raise ValueError(f"{one} is {size} and {other} {next_size}: wanted frames of one size")


def _find_numbers(name: str) -> list[str]:
    return "".join(letter if letter in "0123456789" else " " for letter in name).split()
