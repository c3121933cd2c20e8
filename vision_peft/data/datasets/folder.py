"""A tree of class folders: `ROOT/{train,val,test}/<class>/*`, or `ROOT/<class>/*` to be split by seed."""

from dataclasses import dataclass
from typing import ClassVar

from vision_peft.data.annotations.class_folders import OtherKind
from vision_peft.data.annotations.folder_data import ClassFolders
from vision_peft.data.annotations.scan_folder import FileKind
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.band_files import BandFiles, BandOptions, select_stacks
from vision_peft.data.decoding.band_statistics import Bands
from vision_peft.data.decoding.bands import ARRAY_EXTENSIONS
from vision_peft.data.decoding.deep_grey import check_value_range, warn_of_deep_grey
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.image_kinds import EXTENSIONS, MISSING_PLUGINS, starts_as_image
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.flat_arrays import IntArray, TextArray

IMAGES = FileKind("image", EXTENSIONS, MISSING_PLUGINS, starts_as_image)
BANDS = FileKind("image", EXTENSIONS | ARRAY_EXTENSIONS, {}, starts_as_image)
VIDEOS = OtherKind(VIDEO_EXTENSIONS - EXTENSIONS, "data=video_folder backbone.num_frames=8 reads videos")


@dataclass(frozen=True, kw_only=True)
class Folder(BandOptions, ClassFolders):
    """Images sorted into one folder per class; see `ClassFolders`. Those without an extension go by their first bytes.

    Images of a kind that needs a plugin of PIL which is not installed (HEIC, ...) are an error: left out, they would
    be missing from some classes more than from others. With `channels` they have any number of bands, see `bands.py`.
    """

    name: ClassVar[str] = "folder"
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False
    value_range: str | tuple[float, float] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value_range(self.value_range)
        self.check_bands(self.value_range, self.exif_rotation)

    @property
    def kind(self) -> FileKind:
        return IMAGES if self.channels is None else BANDS

    @property
    def other(self) -> OtherKind:
        return VIDEOS

    def select(self, items: SplitItems, problems: list[str]) -> SplitItems:
        return items.keep(select_stacks(items.paths, self.stack, problems)) if self.stack else items

    def look_at(self, items: SplitItems) -> Bands | None:
        if self.channels is None:
            warn_of_deep_grey(items.paths, str(self.root), self.value_range, self.max_pixels)
            return None
        return self.describe_bands(items.paths.take(items.parts["train"]), self.value_range, self.max_pixels)

    def make(self, paths: TextArray, labels: IntArray, classes: list[str], seen: Bands | None) -> ImageDataset:
        if seen is not None:
            return BandFiles(paths, labels, classes, seen)
        return ImageFiles(
            paths,
            labels,
            classes,
            max_pixels=self.max_pixels,
            exif_rotation=self.exif_rotation,
            value_range=self.value_range,
        )
