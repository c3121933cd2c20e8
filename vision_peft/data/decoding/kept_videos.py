"""Videos that are decoded once and kept in memory, every frame as small as it reaches the model.

What is kept, as uint8, is what the transform makes of a frame every time (`ClipTransform.fix`): with a fixed resize the
resized frame; with random crops the frame as it is stored. All frames are kept, for a clip may be taken anywhere.
"""

import contextlib
import os
from abc import abstractmethod
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.decoding.video import Choose
from vision_peft.data.flat_arrays import TextArray
from vision_peft.data.transforms.clips import ClipTransform

_MEASURED = 16  # videos whose size stands for that of all
_AT_ONCE = 8  # frames of a video that are there as large as they are stored


class KeptVideos(ImageDataset):
    """A dataset of the videos `paths` whose frames can be kept in `store`, where there is one."""

    paths: TextArray
    store: Store | None

    @abstractmethod
    def frames(self, video: int, choose: Choose) -> np.ndarray:
        """Return the frames of a video that `choose` picks, given their number, as uint8 `T H W 3`."""

    def decode_parts(self, video: int, at_once: int) -> Iterator[np.ndarray]:
        """Yield all frames of a video in order, at most `at_once` at a time."""
        start, end = 0, 1

        def pick(count: int) -> range:
            nonlocal end
            end = count
            return range(start, min(start + at_once, count))

        while start < end:
            yield self.frames(video, pick)
            start += at_once

    def find_kept(self, video: int) -> np.ndarray | None:
        """Return all frames of a video as the transform always makes them, uint8 `T H W 3`; None: they are not kept."""
        return None if self.store is None else self.store.kept.get(self._key(video))

    @property
    def is_kept(self) -> bool:
        return self.store is not None

    def keep_in(self, store: Store) -> None:
        self.store = store

    def decoded_size(self) -> int:
        """Estimate the bytes of all frames as they are kept, from the first ones of a few videos."""
        sizes: list[int] = []

        def first(count: int) -> list[int]:
            counts.append(count)
            return [0]

        for video in range(0, len(self.paths), max(1, len(self.paths) // _MEASURED)):
            counts: list[int] = []
            with contextlib.suppress(ImageDecodeError):
                sizes.append(self._fix(self.frames(video, first)).nbytes * counts[-1])
        return len(self.paths) * sum(sizes) // max(1, len(sizes))

    def prepare(self) -> None:
        """Decode whole videos, as many as the store takes, in the order of the dataset."""
        store = self.store
        if store is None or store.used >= store.limit:
            return
        missing = [video for video in range(len(self.paths)) if self._key(video) not in store.kept]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for start in range(0, len(missing), 4 * cores):  # no more than these are decoded for nothing
            part = missing[start : start + 4 * cores]
            with ThreadPoolExecutor(cores) as pool:
                for video, frames in zip(part, pool.map(self._decode_whole, part), strict=True):
                    if frames is not None and not store.keep(self._key(video), frames):
                        return

    def _key(self, video: int) -> Hashable:
        """Return what the frames of a video are kept under: they are as its transform always makes them."""
        return (self.transform.fixes if isinstance(self.transform, ClipTransform) else None), self.paths[video]

    def _fix(self, frames: np.ndarray) -> np.ndarray:
        """Return frames, uint8 `T H W 3`, as they are kept."""
        if not isinstance(self.transform, ClipTransform) or self.transform.fixes is None:
            return frames
        return self.transform.fix(as_clip(frames)).permute(0, 2, 3, 1).contiguous().numpy()

    def _decode_whole(self, video: int) -> np.ndarray | None:
        """Decode a video; None where that fails, or where it alone is larger than the store."""
        parts, room = list[np.ndarray](), self.store.limit if self.store else 0
        try:
            for frames in self.decode_parts(video, _AT_ONCE):
                parts.append(self._fix(frames))
                room -= parts[-1].nbytes
                if room < 0:
                    return None
        except ImageDecodeError:
            return None  # raised again, and dealt with, where a clip of it is asked for
        return np.concatenate(parts) if parts else None


def as_clip(frames: np.ndarray) -> Tensor:
    """Return frames `T H W C` as a clip `T C H W`, without a copy."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
