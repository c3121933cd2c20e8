"""Decode videos that are folders with one image per frame."""

import collections
import fnmatch
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision_peft.data.decoding.clip_frames import ClipFrames
from vision_peft.data.decoding.images import EXTENSIONS, decode_image
from vision_peft.data.decoding.video import Choose
from vision_peft.data.decoding.video_file import VideoDecodeError, describe_error

_NUMBER = re.compile("[0-9]+")
_NAMED = 4  # ways of naming that a message names


def decode_frame_folder(folder: str, count: int, choose: Choose, pattern: str | None = None) -> np.ndarray:
    """Return frames of a folder with one image per frame, as `decode_clip` does; the video is its first `count`.

    Raises:
        VideoDecodeError: an image that cannot be decoded, fewer than `count` images, images of several sizes, or of
            several kinds as `list_frames` says.
    """
    try:
        names = list_frames(folder, pattern)
        wanted = choose(count)
        if len(names) < count:
            raise ValueError(f"{len(names)} images, {count} frames were announced")
        return _read(folder, names, wanted)
    except VideoDecodeError:
        raise
    except (OSError, ValueError) as error:
        raise VideoDecodeError(folder, "frames", describe_error(error)) from None


def list_frames(folder: str, pattern: str | None = None) -> list[str]:
    """Return the names of the images in a folder, ordered by name with numbers by their value; no hidden ones.

    With a pattern, such as `img_*.jpg`, they are those whose names match. Without one their names have to be alike:
    images of flow beside those of colours are no frames of the same video.

    Raises:
        ValueError: names that differ in more than their numbers, or two of the same numbers.
    """
    with os.scandir(folder) as entries:
        images = [entry.name for entry in entries if Path(entry.name).suffix.lower() in EXTENSIONS]
    names = [name for name in images if not name.startswith(".")]
    if pattern is not None:
        names = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    found = sorted((tuple(map(int, _NUMBER.findall(name))), name) for name in names)
    if pattern is None:
        _check_kinds(names)
        for (numbers, name), (next_numbers, next_name) in itertools.pairwise(found):
            if numbers and numbers == next_numbers:
                raise ValueError(f"{name} and {next_name} are the same frame by their numbers: wanted one of them")
    return [name for _, name in found]


def _check_kinds(names: Sequence[str]) -> None:
    kinds = collections.Counter(_NUMBER.sub("#", Path(name).stem) for name in names)
    if len(kinds) > 1 and any("#" in kind for kind in kinds):
        most_first = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
        some = ", ".join(f"{count} {kind}" for kind, count in most_first[:_NAMED])
        more = f" and {len(kinds) - _NAMED} others" if len(kinds) > _NAMED else ""
        raise ValueError(f"its images are named in {len(kinds)} ways ({some}{more}): wanted one, that of the frames")


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
