"""Datasets of videos: files, or folders with one image per frame; an item is a clip, or one view of a video."""

import bisect
import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vision_peft.data.decoding.clip_sampling import ClipSampling, pick_segments
from vision_peft.data.decoding.clip_times import (
    Timeline,
    count_views,
    describe_short_videos,
    read_timeline,
    spread_over,
)
from vision_peft.data.decoding.frame_folders import decode_frame_folder
from vision_peft.data.decoding.kept_videos import KeptVideos, as_clip
from vision_peft.data.decoding.video import Choose, decode_all, decode_clip
from vision_peft.data.decoding.video_backends import check_backend, usable_backends
from vision_peft.data.decoding.video_file import find_container
from vision_peft.data.flat_arrays import IntArray, TextArray
from vision_peft.data.transforms.clips import ClipTransform, eval_clip_transform, train_clip_transform
from vision_peft.data.transforms.images import select_geometry

_SHOWN_FRAMES = 4  # of the picture that stands for a video
_LOOKED_AT = 200  # videos that are asked how long they are, where this is only to be said
_THREADS = 8  # that read packets of videos


class VideoFiles(KeptVideos):
    """Clips decoded from videos on every access: item `i` is `(transform(clip, crop), label)`, a source is a video.

    In training it has one item a video, a clip from a random place or from the middle. Else the items of a video follow
    each other, in the order of its views in time and, of each, of its crops in space: `clips.views * clips.crops` of
    them, or with uniform views as many as its length gives. `labels` are those of the items. Without a transform an
    item is the clip.

    `frame_counts` says that the paths are folders with an image per frame, and how many of them (first by name, numbers
    by value) the video has; `frame_names` is a pattern of their names. `decoder` is one of `video_backends.py`, or
    "auto".
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
        frame_names: str | None = None,
        decoder: str = "auto",
    ) -> None:
        super().__init__(classes, labels)
        check_backend(decoder)
        self.paths = TextArray.of(paths if isinstance(paths, TextArray) else map(str, paths))
        self.store = None
        self.video_labels = IntArray(self.labels)
        self.frame_counts, self.frame_names = frame_counts, frame_names
        self.decoder = decoder
        self._clips, self._training, self._place = ClipSampling(1), False, "random"
        self._starts: Sequence[int] = range(len(self.paths) + 1)  # first item of each video, and their number

    @property
    def clips(self) -> ClipSampling:
        """How clips are taken from the videos."""
        return self._clips

    @clips.setter
    def clips(self, clips: ClipSampling) -> None:
        if clips.mode == "seconds" and self.frame_counts is not None:
            raise ValueError(
                "recipe.sampling=seconds needs videos that say when their frames are shown; these are folders with an "
                "image per frame: take sampling=segments or dense"
            )
        self._clips = clips
        self._list_items()

    @property
    def training(self) -> bool:
        """Whether an item is what a model trains on: one clip of each video."""
        return self._training

    @training.setter
    def training(self, training: bool) -> None:
        self._training = training
        self._list_items()

    @property
    def varies(self) -> bool:
        return self.training and self._place == "random"

    @property
    def decoders(self) -> Sequence[str]:
        return usable_backends() if self.frame_counts is None else ()

    def use_decoder(self, name: str) -> None:
        check_backend(name)
        self.decoder = name

    def set_training(
        self, settings: Mapping[str, Any], augment: str, random_erasing: float, clip_place: str = "random"
    ) -> None:
        self._place = clip_place
        self._training, self.clips = True, ClipSampling.read({**settings, "views": 1, "crops": 1})
        geometry = select_geometry(settings)
        self.transform = train_clip_transform(**geometry, augment=augment, random_erasing=random_erasing)

    def set_evaluation(self, settings: Mapping[str, Any]) -> None:
        self._training, self.clips = False, ClipSampling.read(settings)
        self.view_average = settings.get("view_average", "logits")
        self.transform = eval_clip_transform(**select_geometry(settings), crops=settings["crops"])

    def subset(self, items: Sequence[int]) -> "VideoFiles":
        """Return a dataset of the videos that `items` show, with all views of each."""
        videos = list(dict.fromkeys(self.source_of(item) for item in items))
        part = copy.copy(self)
        part.paths, part.video_labels = self.paths.take(videos), self.video_labels.take(videos)
        if self.frame_counts is not None:
            part.frame_counts = [self.frame_counts[video] for video in videos]
        part._list_items()
        return part

    def count_sources(self) -> int:
        return len(self.paths)

    def source_of(self, index: int) -> int:
        return bisect.bisect_right(self._starts, index) - 1

    def first_item(self, source: int) -> int:
        return self._starts[source]

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
        return as_clip(self.frames(self.source_of(index), self._choose(index)))

    def image(self, index: int) -> Image.Image:
        """Return four frames spread over the video as one picture, in the order of reading, for tools that show it.

        They stand two by two, or in a row or a column where that is nearer to a square.
        """
        frames = self.frames(self.source_of(index), lambda count: pick_segments(count, _SHOWN_FRAMES))
        _, height, width, _ = frames.shape
        grids = ((2, 2), (1, 4), (4, 1))  # rows, columns
        rows, columns = min(grids, key=lambda grid: abs(math.log(grid[1] * width / (grid[0] * height))))
        picture = frames.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
        return Image.fromarray(picture.reshape(rows * height, columns * width, 3))

    def frames(self, video: int, choose: Choose) -> np.ndarray:
        """Return the frames of a video that `choose` picks, given their number, as uint8 `T H W 3`."""
        path = self.paths[video]
        if self.frame_counts is not None:
            return decode_frame_folder(path, self.frame_counts[video], choose, self.frame_names)
        return decode_clip(path, choose, self.decoder)

    def describe_oddities(self) -> str:
        """Name videos that are shorter than a clip, as far as some are looked at."""
        if self.clips.mode != "seconds":
            return ""
        return describe_short_videos(spread_over(self.paths, _LOOKED_AT), self.clips.length)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label, crop, kept = self.labels[index], self.crop(index), self.find_kept(self.source_of(index))
        if kept is None:
            clip = self.clip(index)
        else:
            clip = as_clip(kept[list(self._choose(index)(len(kept)))])
            if isinstance(self.transform, ClipTransform):
                return self.transform.finish(clip, crop), label
        # the transform of a dataset of clips takes the crop too
        return (clip if self.transform is None else self.transform(clip, crop)), label  # pyright: ignore[reportCallIssue]

    def _choose(self, index: int) -> Choose:
        """Return what picks the frames of item `index`, drawn here where they are random."""
        clips, video = self.clips, self.source_of(index)

        def read(count: int) -> Timeline:
            return read_timeline(self.paths[video], count)

        if self.varies:
            drawn = clips.draw()
            return lambda count: clips.train(count, drawn, read)
        view = (index - self.first_item(video)) // clips.crops
        return lambda count: clips.test(count, view, read)

    def _list_items(self) -> None:
        clips, videos = self.clips, len(self.paths)
        if self.training:
            self._starts = range(videos + 1)
        elif isinstance(clips.views, int):
            each = clips.views * clips.crops
            self._starts = range(0, each * videos + 1, each)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                views = pool.map(lambda path: count_views(path, clips.length), self.paths)
                self._starts = [0, *itertools.accumulate(clips.crops * number for number in views)]
        self.labels = IntArray(np.repeat(self.video_labels.values, np.diff(np.array(self._starts))))

    def decode_parts(self, video: int, at_once: int) -> Iterator[np.ndarray]:
        if type(self) is VideoFiles and self.frame_counts is None:  # others may find their frames elsewhere
            return decode_all(self.paths[video], self.decoder, at_once)
        return super().decode_parts(video, at_once)
