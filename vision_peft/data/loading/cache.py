"""Images decoded once and kept in memory, without a change to any pixel that reaches the model.

Kept, as uint8, is what the transform makes of an image every time (`Transform.fixed`): with a fixed resize the resized
image, a few dozen kilobytes; with random crops the whole image. Worker processes that are forked read what the main
process keeps; processes that are started anew decode for themselves.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError, ImageFiles, image_pixels
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.loading.memory import free_memory
from vision_peft.data.transforms.images import Geometry, Transform

LARGEST_AUTO_MB = 4096
HEADERS_READ = 2000  # whole images of more files than this are estimated from SAMPLED headers
SAMPLED = 64
_MB = 10**6


def keep_decoded(
    splits: Mapping[str, ImageDataset],
    read_often: Iterable[str],
    cache_mb: int | str,
    workers: int | str,
    processes: int = 1,
) -> tuple[dict[str, ImageDataset], str]:
    """The splits, those `read_often` as `Cached`, and what was decided in one line for the user.

    All or none are kept. `cache_mb` (10^6 bytes) is the most they may take together; "auto" is a quarter of the free
    memory, at most `LARGEST_AUTO_MB`; 0 keeps none. The `processes` that train on one machine share it, and each keeps
    images of its own. The transforms must be set. The line is empty where there is nothing to decode.
    """
    read_often = list(dict.fromkeys(read_often))
    names = [name for name in read_often if not splits[name].in_memory]
    if not names:
        return dict(splits), ""
    limit = min(free_memory() // 4, LARGEST_AUTO_MB * _MB) if cache_mb == "auto" else int(cache_mb) * _MB
    limit //= processes
    store = Store(limit)
    if videos := {name: data for name in names if isinstance(data := splits[name], VideoFiles)}:
        return dict(splits), _keep_videos(videos, store, cache_mb, workers)
    cached = {name: Cached(splits[name], store) for name in names}
    if not limit:
        return dict(splits), "images are decoded in every epoch (cache_mb=0)"
    if not all(each.in_memory for each in cached.values()) and not _processes_share_memory(workers):
        return dict(splits), "images are decoded in every epoch: here worker processes cannot share the decoded ones"
    count, size, exact = _estimate(cached.values())
    about = f"{'' if exact else 'about '}{math.ceil(size / _MB):,} MB"
    images = f"{count:,} of {' and '.join(names)}"
    if size > limit:
        would = f"{images} would take {about} decoded, more than the {limit // _MB:,} MB of cache_mb={cache_mb}"
        return dict(splits), f"images are decoded in every epoch: {would}"
    return {**splits, **cached}, f"images are kept decoded: {images}, {about}"


def _keep_videos(videos: Mapping[str, VideoFiles], store: Store, cache_mb: int | str, workers: int | str) -> str:
    """Have the videos kept decoded, whole, where all fit into the store; what was decided."""
    size = sum(data.decoded_size() for data in videos.values()) if store.limit else 0
    count = sum(len(data.paths) for data in videos.values())
    would = f"{count:,} of {' and '.join(videos)}"
    about = f"about {math.ceil(size / _MB):,} MB"
    if not store.limit:
        reason = f"cache_mb={cache_mb}"
    elif not _processes_share_memory(workers):
        reason = "here worker processes cannot share the decoded ones"
    elif size > store.limit:
        reason = f"{would} would take {about}, more than the {store.limit // _MB:,} MB of cache_mb={cache_mb}"
    else:
        for data in videos.values():
            data.store = store
        return f"videos are kept decoded: {would}, {about}"
    return f"videos are decoded in every epoch: {reason}"


class Cached(ImageDataset):
    """A dataset whose images are decoded once, all of them by threads before the first is asked for.

    Several share one `store`; the same file under the same geometry is kept once. What does not fit into the store is
    decoded at every access, as is an undecodable file, which raises `ImageDecodeError` every time.
    """

    def __init__(self, dataset: ImageDataset, store: Store) -> None:
        super().__init__(dataset.classes, dataset.labels)
        self.dataset, self.store, self.transform = dataset, store, dataset.transform
        self.in_memory = dataset.in_memory or self.geometry is not None  # random crops of whole images cost time
        self._prepared = False

    @property
    def geometry(self) -> Geometry | None:
        """What is done to an image before it is kept."""
        return self.transform.fixed if isinstance(self.transform, Transform) else None

    def image(self, index: int) -> Image.Image:
        return self._fixed(index, None)

    def path(self, index: int) -> str:
        return self.dataset.path(index)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not isinstance(self.transform, Transform):
            return super().__getitem__(index)
        return self.transform.rest(self._fixed(index, self.geometry)), self.labels[index]

    def prepare(self) -> None:
        """Decode what is not kept yet, with a thread a core; the result does not depend on their order."""
        if self._prepared:
            return
        self._prepared = True
        missing = [index for index in range(len(self)) if self.key(index) not in self.store.kept]
        pool = ThreadPoolExecutor(_cores())
        try:
            # in the order of the dataset, so that always the same images are kept where not all of them fit
            for index, pixels in zip(missing, pool.map(self._pixels, missing), strict=True):
                if pixels is not None and not self.store.keep(self.key(index), pixels):
                    break
        finally:
            pool.shutdown(cancel_futures=True)

    def key(self, index: int) -> Hashable:
        """Under what item `index` is kept: files by path, items of other datasets by dataset and index."""
        if type(self.dataset) is ImageFiles:
            return self.geometry, self.dataset.paths[index]
        return self.geometry, id(self.dataset), index

    def pixels_of(self, index: int) -> int:
        """Width x height of the whole image, 0 where it is undecodable."""
        try:
            if isinstance(self.dataset, ImageFiles):
                return image_pixels(self.dataset.paths[index], max_pixels=self.dataset.max_pixels)
            return math.prod(self.dataset.image(index).size)
        except ImageDecodeError:
            return 0

    def _fixed(self, index: int, geometry: Geometry | None) -> Image.Image:
        if geometry == self.geometry and (pixels := self.store.kept.get(self.key(index))) is not None:
            return Image.fromarray(pixels)
        image = self.dataset.image(index)
        return image if geometry is None else geometry(image)

    def _pixels(self, index: int) -> np.ndarray | None:
        try:
            return np.asarray(self._fixed(index, self.geometry))
        except ImageDecodeError:
            return None  # raised again, and dealt with, where the image is asked for


def _estimate(datasets: Iterable[Cached]) -> tuple[int, int, bool]:
    """Images, their bytes, whether these were counted; of many whole images some headers stand for all."""
    size, exact, seen = 0, True, set()
    for dataset in datasets:
        new = [index for index in range(len(dataset)) if dataset.key(index) not in seen]
        seen |= {dataset.key(index) for index in new}
        if dataset.geometry is not None:
            size += 3 * math.prod(dataset.geometry.size) * len(new)
            continue
        asked = new if len(new) <= HEADERS_READ else new[:: len(new) // SAMPLED]
        exact &= len(asked) == len(new)
        with ThreadPoolExecutor(_cores()) as pool:
            size += 3 * sum(pool.map(dataset.pixels_of, asked)) * len(new) // max(len(asked), 1)
    return len(seen), size, exact


def _processes_share_memory(workers: int | str) -> bool:
    started = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return started == "fork" or workers in (0, "0")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
