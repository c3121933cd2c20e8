"""Data sets of videos: files, or folders with one image per frame; an item is a clip, or one view of a video."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision_peft.data.annotations.list_files import PathCheck, shown
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.clip_sampling import ClipSampling, segments
from vision_peft.data.decoding.images import EXTENSIONS, ImageDecodeError, decode_image
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.decoding.video import Choose, VideoDecodeError, check_backend, decode_clip, is_only_sound

VIDEO_EXTENSIONS = frozenset((".avi", ".mp4", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".gif", ".wmv", ".flv"))
OPENED = 2000  # files whose header a reader looks into before training, a millisecond each
_SHOWN_FRAMES = 4  # of the picture that stands for a video
_MEASURED = 16  # videos whose size stands for that of all


class VideoFiles(ImageDataset):
    """Clips decoded from videos on every access: item `i` is `(transform(clip, crop), label)`.

    In training it has one item a video, a clip from a random place. Else it has V = `clips.views * clips.crops` items a
    video: item `i` is view `i % V` of video `i // V`, crop `i % clips.crops` in space of view
    `i % V // clips.crops` in time. `labels` are those of the items. Without a transform an item is the clip.

    `frame_counts` says that the paths are folders with an image per frame, and how many of them (first by name, numbers
    by value) the video has. `decoder` is the backend of `vision_peft.data.decoding.video`.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        labels: Iterable[int],
        classes: Sequence[str],
        *,
        frame_counts: Sequence[int] | None = None,
        decoder: str = "auto",
    ) -> None:
        super().__init__(classes, labels)
        check_backend(decoder)
        self.paths = [str(path) for path in paths]
        self.video_labels = self.labels
        self.frame_counts = frame_counts
        self.decoder = decoder
        self.store: Store | None = None  # where whole videos are kept decoded
        self._clips, self._training = ClipSampling(1), False

    @property
    def clips(self) -> ClipSampling:
        """How clips are taken from the videos."""
        return self._clips

    @clips.setter
    def clips(self, clips: ClipSampling) -> None:
        self._clips = clips
        self._repeat_labels()

    @property
    def training(self) -> bool:
        """Whether an item is a clip from a random place."""
        return self._training

    @training.setter
    def training(self, training: bool) -> None:
        self._training = training
        self._repeat_labels()

    @property
    def views(self) -> int:
        """Items of one video."""
        return 1 if self.training else self.clips.views * self.clips.crops

    def video(self, index: int) -> int:
        """The number of the video that item `index` shows."""
        return index // self.views

    def crop(self, index: int) -> int:
        """Which crop in space item `index` is, from 0."""
        return 0 if self.training else index % self.clips.crops

    def path(self, index: int) -> str:
        return self.paths[self.video(index)]

    def clip(self, index: int) -> Tensor:
        """The clip of item `index` as uint8 `T C H W`; raises `ImageDecodeError`."""
        clips = self.clips
        if self.training:
            drawn = clips.draw()
            frames = self.frames(self.video(index), lambda count: clips.train(count, drawn))
        else:
            view = index % self.views // clips.crops
            frames = self.frames(self.video(index), lambda count: clips.test(count, view))
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def image(self, index: int) -> Image.Image:
        """Four frames spread over the video, one below another: a picture of it for tools that look at images."""
        frames = self.frames(self.video(index), lambda count: segments(count, _SHOWN_FRAMES))
        return Image.fromarray(frames.reshape(-1, *frames.shape[2:]))

    def frames(self, video: int, choose: Choose) -> np.ndarray:
        """Those frames of a video that `choose` chooses of their number, as uint8 `T H W 3`."""
        path = self.paths[video]
        if self.store is not None and (kept := self.store.kept.get(path)) is not None:
            return kept[list(choose(len(kept)))]
        if self.frame_counts is not None:
            return frames_of_folder(path, self.frame_counts[video], choose)
        return decode_clip(path, choose, self.decoder)

    def prepare(self) -> None:
        """Decode whole videos, as many as the store takes, in the order of the dataset."""
        store = self.store
        if store is None or store.used >= store.limit:
            return
        missing = [video for video, path in enumerate(self.paths) if path not in store.kept]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for start in range(0, len(missing), 4 * cores):  # no more than these are decoded for nothing
            part = missing[start : start + 4 * cores]
            with ThreadPoolExecutor(cores) as pool:
                for video, frames in zip(part, pool.map(self._whole, part), strict=True):
                    if frames is not None and not store.keep(self.paths[video], frames):
                        return

    def decoded_size(self) -> int:
        """About how many bytes all videos take decoded whole, from the first frames of a few of them."""
        sizes: list[int] = []

        def first(count: int) -> list[int]:
            counts.append(count)
            return [0]

        for video in range(0, len(self.paths), max(1, len(self.paths) // _MEASURED)):
            counts: list[int] = []
            with contextlib.suppress(ImageDecodeError):
                sizes.append(self.frames(video, first).nbytes * counts[-1])
        return len(self.paths) * sum(sizes) // max(1, len(sizes))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label = self.labels[index]
        clip = self.clip(index)
        # the transform of a data set of clips takes the crop too
        return (clip if self.transform is None else self.transform(clip, self.crop(index))), label  # pyright: ignore[reportCallIssue]

    def _repeat_labels(self) -> None:
        self.labels = [label for label in self.video_labels for _ in range(self.views)]

    def _whole(self, video: int) -> np.ndarray | None:
        try:
            return self.frames(video, range)
        except ImageDecodeError:
            return None  # raised again, and dealt with, where a clip of it is asked for


def frames_of_folder(folder: str, count: int, choose: Choose) -> np.ndarray:
    """Frames of a folder with one image per frame, as `decode_clip` gives them; the video is its first `count`."""
    try:
        names = frame_names(folder)
        wanted = choose(count)
        if len(names) < count:
            raise ValueError(f"{len(names)} images, {count} frames were announced")
        frames = {index: np.asarray(decode_image(Path(folder, names[index]))) for index in set(wanted)}
        return np.stack([frames[index] for index in wanted])
    except (OSError, ValueError) as error:
        raise VideoDecodeError(folder, "frames", f"{type(error).__name__}: {error}") from None


def frame_names(folder: str) -> list[str]:
    """Names of the images in a folder, ordered by name with numbers by their value."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in EXTENSIONS]
    return sorted(names, key=lambda name: ([int(digits) for digits in _numbers(name)], name))


def _numbers(name: str) -> list[str]:
    return "".join(letter if letter in "0123456789" else " " for letter in name).split()


class VideoCheck(PathCheck):
    """Checks that videos exist below `root`, are not empty and, of the first `OPENED`, hold more than sound.

    A file that cannot be opened is no problem of its list: training replaces it, `tools/check_data.py` decodes all.
    """

    what = "video"
    opened = 0

    def absence(self, full: str, path: str) -> str | None:
        if absent := super().absence(full, path):
            return absent
        size = os.path.getsize(full)  # noqa: PTH202
        if not size:
            return f"video {shown(path)} is empty (0 bytes)"
        self.opened += 1
        if self.opened > OPENED or not is_only_sound(full, size):
            return None
        return f"video {shown(path)} holds sound and no pictures"
