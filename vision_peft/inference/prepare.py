"""Turn whatever shows something (a file, an image, an array, a clip) into what a model takes, as evaluation does.

Decoding and geometry are those of the datasets, so that a file gives the numbers that evaluation saw. One thing is
not theirs: photographs are turned upright as their EXIF data say, which the published benchmarks do not do.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision_peft.backbones import input_config
from vision_peft.data.decoding.band_files import draw_bands
from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.bands import BandForm, read_band_item
from vision_peft.data.decoding.frame_folders import list_frames
from vision_peft.data.decoding.images import MAX_PIXELS, ImageDecodeError, ValueRange, convert_image, decode_image
from vision_peft.data.decoding.video import Choose
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.transforms.bands import eval_bands
from vision_peft.data.transforms.images import eval_transform, select_geometry
from vision_peft.data.transforms.masks import eval_image
from vision_peft.formats.input_record import complete_input
from vision_peft.home_paths import expand_home

Item = str | Path | bytes | Image.Image | np.ndarray
_CLASSES = ["anything"]  # of a dataset whose labels nobody asks for


class Preparation:
    """From an image or a video to the tensors of a model.

        prepare = Preparation.of(vp.load("runs/digits/..."))
        prepare("photo.jpg")  # float32, 3 H W; of a model of clips 3 T H W

    Args:
        settings: size, mean, std, interpolation, ... as a dataset's `set_evaluation` takes them.
        exif_rotation: turn photographs upright.
        max_pixels: width x height beyond which an image is refused, by its header.

    Raises:
        ValueError: settings that do not go together.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, exif_rotation: bool = True, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.settings = dict(settings)
        self.gives_clips = settings.get("num_frames") is not None
        self.exif_rotation, self.max_pixels = exif_rotation, max_pixels
        self.bands = Bands.of(settings, max_pixels) if "channels" in settings else None
        self.transform: Callable[[Any], Tensor]
        if settings.get("window", False):  # over images as large as they are
            self.transform = eval_image(settings)
        elif self.form is not None:
            self.transform = eval_bands(settings)
        else:
            self.transform = eval_transform(**select_geometry(settings))

    @classmethod
    def of(cls, model: Any, **options: Any) -> "Preparation":
        """Return that of a model of `vp.load`: as its adapter records it, else as the backbone itself says.

        Args:
            model: any timm model of images or clips.
            options: `exif_rotation`, `max_pixels`.
        """
        info = getattr(model, "adapter_info", None)
        return cls(complete_input(None if info is None else info.input, input_config(model)), **options)

    @property
    def form(self) -> BandForm | None:
        """How the files of images with bands are read; None: the model takes photographs or clips."""
        return None if self.bands is None else self.bands.form

    @property
    def value_range(self) -> ValueRange:
        """Which values become 0 and 255 in greyscale of more than 8 bits, see `data.decoding.images`."""
        recorded = self.settings.get("value_range", "full")
        return recorded if isinstance(recorded, str) else (recorded[0], recorded[1])

    def __call__(self, item: Item) -> Tensor:
        """Return an image as 3 H W; of a model of clips one clip as 3 T H W, from the middle of a video.

        Args:
            item: a path (of an image or a video, or of a folder with an image per frame), the bytes of an image file, a
                PIL image, or an array: uint8 H W 3, H W 4 (alpha is dropped), H W or uint16 H W; for clips uint8
                T H W 3, of which exactly as many frames as the model takes are the clip itself. Where the model takes
                bands: a path of what its data were (of a stack the first file), or an array H W C or C H W.

        Raises:
            ImageDecodeError: a file that is not there or cannot be decoded; `path` and `cause` say which and why.
            TypeError, ValueError: an array of another form, or an image where the model takes clips.
        """
        if not self.gives_clips:
            return self.transform(self.read(item))
        return self._open_video(item, views=1, crops=1)[0][0]

    def iterate_views(self, item: Item) -> Iterator[Tensor]:
        """Yield all that is shown of an item and averaged then: as many clips as recorded, of an image itself."""
        if not self.gives_clips:
            yield self(item)
            return
        videos = self._open_video(item)
        for index in range(len(videos)):
            yield videos[index][0]

    def list_views(self, item: Item) -> Tensor:
        """Return the views of `iterate_views` in one tensor: views 3 T H W; of an image 1 3 H W."""
        return torch.stack([*self.iterate_views(item)])

    def average(self, logits: Tensor) -> Tensor:
        """Return the logits (classes) that the logits of an item's views (views x classes) amount to.

        The mean is of what evaluation takes the mean of: logits, or probabilities, whose logarithm is returned then.
        """
        if self.settings.get("view_average", "logits") == "logits" or len(logits) == 1:
            return logits.double().mean(0).float()
        return logits.double().softmax(1).mean(0).log().float()

    def read(self, item: Item) -> Image.Image | Tensor:
        """Return what `transform` takes: an upright picture, or the bands of an image (C H W) as in its file."""
        return self.read_image(item) if self.form is None else read_band_item(item, self.form)

    def draw(self, seen: Image.Image | Tensor) -> Image.Image:
        """Return a picture of what `read` returned: of bands the shown ones, one in grey or three in colours."""
        if isinstance(seen, Image.Image):
            return seen
        assert self.bands is not None
        return draw_bands(seen, self.bands.show)

    def read_image(self, item: Item) -> Image.Image:
        """Return an image as an upright 8-bit RGB picture, before any scaling; errors are those of a call."""
        options: dict[str, Any] = {"max_pixels": self.max_pixels, "exif_rotation": self.exif_rotation}
        options["value_range"] = self.value_range
        match item:
            case str() | Path():
                return decode_image(expand_home(item), **options)
            case bytes():
                return decode_image("the image", content=item, **options)
            case Image.Image():
                return convert_image(item, **options)
            case np.ndarray():
                return convert_image(_to_image(item), **options)
        raise TypeError(
            f"wanted a path, the bytes of an image file, a PIL image or an array, got {type(item).__name__}; pass a "
            "tensor to the model itself"
        )

    def _open_video(self, item: Item, **changes: Any) -> VideoFiles:
        """Return a dataset of one video, the views of which are its items."""
        settings = {**self.settings, **changes}
        match item:
            case np.ndarray():
                videos, frames = _ArrayVideo(_check_clip(item)), len(item)
                if frames == settings["num_frames"]:
                    settings |= {"sampling": "segments", "views": 1}
                elif settings["sampling"] == "seconds":
                    raise ValueError(
                        f"the model takes clips of {settings['clip_seconds']} seconds, and an array does not say when "
                        f"its frames are shown: give the {settings['num_frames']} frames of a clip, or a video file"
                    )
            case str() | Path():
                videos = _open_path(expand_home(item))
            case _:
                raise TypeError(f"wanted a path of a video or an array T H W 3, got {type(item).__name__}")
        videos.set_evaluation(settings)
        return videos


class _ArrayVideo(VideoFiles):
    """A video that is an array, uint8 T H W 3."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(["the clip"], [0], _CLASSES)
        self.array = array

    def frames(self, video: int, choose: Choose) -> np.ndarray:
        return self.array[[*choose(len(self.array))]]


def _open_path(path: Path) -> VideoFiles:
    counts: Sequence[int] | None = None
    if path.is_dir():
        if not (frames := _call(list_frames, path)):
            raise ImageDecodeError(
                path, ("a folder without images: wanted a video, or a folder with one image per frame")
            )
        counts = [len(frames)]
    return VideoFiles([path], [0], _CLASSES, frame_counts=counts)


def _call(read: Callable[[str], list[str]], path: Path) -> list[str]:
    try:
        return read(os.fspath(path))
    except OSError as error:
        raise ImageDecodeError(path, f"{type(error).__name__}: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageDecodeError(path, str(error)) from None


def _to_image(array: np.ndarray) -> Image.Image:
    """Return an array as a PIL image of its own mode."""
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    coloured = array.ndim == 3 and array.shape[2] in (3, 4)
    accepted = (array.dtype == np.uint8 and (grey or coloured)) or (array.dtype == np.uint16 and grey)
    if not accepted or not array.size:
        kind = "uint8 H W 3, H W 4 or H W, or uint16 H W"
        clip = "; clips T H W 3 are for models of clips" if array.ndim == 4 else ""
        hint = "; multiply values of 0 to 1 by 255 first" if array.dtype.kind == "f" else ""
        raise ValueError(f"an image is an array of {kind}, got {array.dtype} {_shape(array)}{clip}{hint}")
    return Image.fromarray(array.reshape(array.shape[:2]) if grey else array)


def _check_clip(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
        raise ValueError(f"a clip is an array uint8 T H W 3, got {array.dtype} {_shape(array)}")
    return array


def _shape(array: np.ndarray) -> str:
    return " ".join(map(str, array.shape)) or "without a shape"
