"""Datasets of videos: files, or folders with one image per frame; an item is a clip, or one view of a video."""

import contextlib
import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.clip_sampling import ClipSampling, pick_segments
from vision_peft.data.decoding.frame_folders import decode_frame_folder
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.decoding.video import Choose, decode_clip
from vision_peft.data.decoding.video_backends import check_backend, usable_backends
from vision_peft.data.decoding.video_file import find_container
from vision_peft.data.transforms.clips import eval_clip_transform, train_clip_transform
from vision_peft.data.transforms.images import select_geometry

_SHOWN_FRAMES = 4  # of the picture that stands for a video
_MEASURED = 16  # videos whose size stands for that of all


class VideoFiles(ImageDataset):
    """Clips decoded from videos on every access: item `i` is `(transform(clip, crop), label)`, a source is a video.

    In training it has one item a video, a clip from a random place. Else it has V = `clips.views * clips.crops` items a
    video: item `i` is view `i % V` of video `i // V`, crop `i % clips.crops` in space of view
    `i % V // clips.crops` in time. `labels` are those of the items. Without a transform an item is the clip.

    `frame_counts` says that the paths are folders with an image per frame, and how many of them (first by name, numbers
    by value) the video has. `decoder` is one of `video_backends.py`, or "auto".
    """

    what = "video"
    gives_clips = True
    eval_batch_size = 16  # a clip is as large as many images

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
        return 1 if self.training else self.clips.views * self.clips.crops

    @property
    def varies(self) -> bool:
        return self.training

    @property
    def is_kept(self) -> bool:
        return self.store is not None

    @property
    def decoders(self) -> Sequence[str]:
        return usable_backends() if self.frame_counts is None else ()

    def use_decoder(self, name: str) -> None:
        check_backend(name)
        self.decoder = name

    def set_training(self, settings: Mapping[str, Any], augment: str, random_erasing: float) -> None:
        self.clips, self.training = ClipSampling.read({**settings, "views": 1, "crops": 1}), True
        geometry = select_geometry(settings)
        self.transform = train_clip_transform(**geometry, augment=augment, random_erasing=random_erasing)

    def set_evaluation(self, settings: Mapping[str, Any]) -> None:
        self.clips, self.training = ClipSampling.read(settings), False
        self.view_average = settings.get("view_average", "logits")
        self.transform = eval_clip_transform(**select_geometry(settings), crops=settings["crops"])

    def subset(self, items: Sequence[int]) -> "VideoFiles":
        """Return a dataset of the videos that `items` show, with all views of each."""
        videos = list(dict.fromkeys(self.source_of(item) for item in items))
        part = copy.copy(self)
        part.paths = [self.paths[video] for video in videos]
        part.video_labels = [self.video_labels[video] for video in videos]
        if self.frame_counts is not None:
            part.frame_counts = [self.frame_counts[video] for video in videos]
        part._repeat_labels()
        return part

    def count_sources(self) -> int:
        return len(self.paths)

    def source_of(self, index: int) -> int:
        return index // self.views

    def crop(self, index: int) -> int:
        """Return which crop in space item `index` is, from 0."""
        return 0 if self.training else index % self.clips.crops

    def path(self, index: int) -> str:
        return self.paths[self.source_of(index)]

    def file(self, index: int) -> str:
        return self.path(index)

    def check(self, index: int, decode: bool) -> None:
        """Look at the start of a video file; to `decode`, at its first and last frame, whatever lies between."""
        video = self.source_of(index)
        if decode:
            self.frames(video, lambda count: [0, count - 1])
        elif type(self) is VideoFiles and self.frame_counts is None:  # others may find their frames elsewhere
            find_container(self.paths[video])

    def clip(self, index: int) -> Tensor:
        """Return the clip of item `index` as uint8 `T C H W`; raises `ImageDecodeError`."""
        clips = self.clips
        if self.training:
            drawn = clips.draw()
            frames = self.frames(self.source_of(index), lambda count: clips.train(count, drawn))
        else:
            view = index % self.views // clips.crops
            frames = self.frames(self.source_of(index), lambda count: clips.test(count, view))
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def image(self, index: int) -> Image.Image:
        """Return four frames spread over the video, one below another, for tools that look at images."""
        frames = self.frames(self.source_of(index), lambda count: pick_segments(count, _SHOWN_FRAMES))
        return Image.fromarray(frames.reshape(-1, *frames.shape[2:]))

    def frames(self, video: int, choose: Choose) -> np.ndarray:
        """Return the frames of a video that `choose` picks, given their number, as uint8 `T H W 3`."""
        path = self.paths[video]
        if self.store is not None and (kept := self.store.kept.get(path)) is not None:
            return kept[list(choose(len(kept)))]
        if self.frame_counts is not None:
            return decode_frame_folder(path, self.frame_counts[video], choose)
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
                for video, frames in zip(part, pool.map(self._decode_whole, part), strict=True):
                    if frames is not None and not store.keep(self.paths[video], frames):
                        return

    def keep_in(self, store: Store) -> None:
        self.store = store

    def decoded_size(self) -> int:
        """Estimate the bytes of all videos decoded whole, from the first frames of a few of them."""
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
        # the transform of a dataset of clips takes the crop too
        return (clip if self.transform is None else self.transform(clip, self.crop(index))), label  # pyright: ignore[reportCallIssue]

    def _repeat_labels(self) -> None:
        self.labels = [label for label in self.video_labels for _ in range(self.views)]

    def _decode_whole(self, video: int) -> np.ndarray | None:
        try:
            return self.frames(video, range)
        except ImageDecodeError:
            return None  # raised again, and dealt with, where a clip of it is asked for
