"""Datasets of images that are no files of their own: parts of tables and of archives, which hold them encoded."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.deep_grey import choose_few
from vision_peft.data.decoding.image_kinds import START, accepts_start
from vision_peft.data.decoding.images import (
    MAX_PIXELS,
    ImageDecodeError,
    ImageHeader,
    ValueRange,
    decode_image,
    read_header,
)


class EncodedImages(ImageDataset):
    """Images decoded on every access from what `read` returns; its options are those of `ImageFiles`."""

    def __init__(
        self,
        labels: Iterable[int],
        classes: Sequence[str],
        *,
        max_pixels: int = MAX_PIXELS,
        exif_rotation: bool = False,
        value_range: ValueRange = "full",
    ) -> None:
        super().__init__(classes, labels)
        self.max_pixels, self.exif_rotation = max_pixels, exif_rotation
        self.value_range: ValueRange = value_range

    @abstractmethod
    def read(self, index: int, most: int | None = None) -> bytes:
        """Return an image as it is stored, or the first `most` bytes of it.

        Raises:
            ValueError, OSError: that fails.
        """

    @abstractmethod
    def stored_size(self, index: int) -> int | None: ...

    def stored_as(self, index: int) -> str:
        return self.path(index)

    def check(self, index: int, decode: bool) -> None:
        if decode:
            self.image(index)
        elif not accepts_start(self._read(index, START)):
            self.header(index)

    def image(self, index: int) -> Image.Image:
        return decode_image(
            self.path(index),
            max_pixels=self.max_pixels,
            exif_rotation=self.exif_rotation,
            value_range=self.value_range,
            content=self._read(index),
        )

    def header(self, index: int) -> ImageHeader:
        """Return what the image's header says, with orientation 1 where `exif_rotation` turns the image upright."""
        header = read_header(self.path(index), max_pixels=self.max_pixels, content=self._read(index))
        return header._replace(orientation=1) if self.exif_rotation else header

    def count_pixels(self, index: int) -> int:
        width, height = self.header(index).size
        return width * height

    def yield_few(self) -> Iterator[bytes]:
        """Yield a few images from all over as they are stored, of those that can be read."""
        for index in choose_few(len(self)):
            with contextlib.suppress(ImageDecodeError):
                yield self._read(index)

    def _read(self, index: int, most: int | None = None) -> bytes:
        try:
            return self.read(index, most)
        except ImageDecodeError:
            raise
        except (ValueError, OSError) as error:
            raise ImageDecodeError(self.path(index), str(error)) from None
