"""A dataset of images that are decoded once and kept in memory, without a change to any pixel that reaches the model.

What is kept, as uint8 or of bands as float32, is what the transform makes of an image every time (`Transform.fixed`):
with a fixed resize the resized image, a few dozen kilobytes; with random crops the whole image.
"""

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.images import ImageDecodeError
from vision_peft.data.decoding.pixel_store import Store
from vision_peft.data.loading.worker_limit import count_cores
from vision_peft.data.transforms.images import Geometry, Transform


class Cached(ImageDataset):
    """A dataset whose images are decoded once, all of them by threads before the first is asked for.

    Several share one `store`; the same file under the same geometry is kept once. What does not fit into the store is
    decoded at every access, as is an undecodable file, which raises `ImageDecodeError` every time.
    """

    def __init__(self, dataset: ImageDataset, store: Store) -> None:
        super().__init__(dataset.classes, dataset.labels, dataset.targets)
        self.dataset, self.store, self.transform = dataset, store, dataset.transform
        self.bands = dataset.bands
        self.in_memory = dataset.in_memory or self.geometry is not None  # random crops of whole images cost time
        self._prepared = False

    @property
    def geometry(self) -> Geometry | None:
        """What is done to an image before it is kept."""
        return self.transform.fixed if isinstance(self.transform, Transform) else None

    @property
    def is_kept(self) -> bool:
        return True

    def image(self, index: int) -> Any:
        return self._fixed_image(index, None)

    def picture(self, index: int) -> Image.Image:
        return self.dataset.picture(index)

    def path(self, index: int) -> str:
        return self.dataset.path(index)

    def file(self, index: int) -> str | None:
        return self.dataset.file(index)

    def stored_as(self, index: int) -> str | None:
        return self.dataset.stored_as(index)

    def stored_size(self, index: int) -> int | None:
        return self.dataset.stored_size(index)

    def check(self, index: int, decode: bool) -> None:
        self.dataset.check(index, decode)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not isinstance(self.transform, Transform):
            return super().__getitem__(index)
        return self.transform.rest(self._fixed_image(index, self.geometry)), self.labels[index]

    def prepare(self) -> None:
        """Decode what is not kept yet, with a thread a core; the result does not depend on their order."""
        if self._prepared:
            return
        self._prepared = True
        missing = [index for index in range(len(self)) if self.key(index) not in self.store.kept]
        pool = ThreadPoolExecutor(count_cores())
        try:
            # in the order of the dataset, so that always the same images are kept where not all of them fit
            for index, pixels in zip(missing, pool.map(self._decode, missing), strict=True):
                if pixels is not None and not self.store.keep(self.key(index), pixels):
                    break
        finally:
            pool.shutdown(cancel_futures=True)

    def key(self, index: int) -> Hashable:
        return self.geometry, self.dataset.key(index)

    def count_pixels(self, index: int) -> int:
        """Return width x height of the whole image, 0 where it is undecodable."""
        try:
            return self.dataset.count_pixels(index)
        except ImageDecodeError:
            return 0

    def _fixed_image(self, index: int, geometry: Geometry | None) -> Any:
        if geometry == self.geometry and (pixels := self.store.kept.get(self.key(index))) is not None:
            return Image.fromarray(pixels) if self.bands is None else torch.from_numpy(pixels)
        image = self.dataset.image(index)
        return image if geometry is None else geometry(image)

    def _decode(self, index: int) -> np.ndarray | None:
        try:
            return np.asarray(self._fixed_image(index, self.geometry))
        except ImageDecodeError:
            return None  # raised again, and dealt with, where the image is asked for
