"""Frames of a clip, put into one array as they are decoded: twice the memory of a clip is often too much."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision_peft.data.decoding.video_file import check_clip_size


class ClipFrames:
    """The frames `wanted` of a video, in this order, repeated or not, as far as they have been put in.

    Attributes:
        missing: numbers of the frames that are still to come, each with its places.
        array: uint8 `T H W 3`; empty before the first frame.
    """

    def __init__(self, path: str | Path, wanted: Sequence[int]) -> None:
        self.path, self.length = path, len(wanted)
        self.missing: dict[int, list[int]] = {}
        for place, number in enumerate(wanted):
            self.missing.setdefault(number, []).append(place)
        self.array = np.empty((0, 0, 0, 3), np.uint8)

    def put(self, number: int, picture: np.ndarray) -> None:
        """Put frame `number`, which is missing, where it belongs; raises LargeClipError at the first of too many."""
        if not len(self.array):
            check_clip_size(self.path, self.length, picture.shape[0] * picture.shape[1])
            self.array = np.empty((self.length, *picture.shape), np.uint8)
        self.array[self.missing.pop(number)] = picture
