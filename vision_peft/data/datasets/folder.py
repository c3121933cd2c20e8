"""A tree of class folders: `ROOT/{train,val,test}/<class>/*`, or `ROOT/<class>/*` to be split by seed."""

from dataclasses import dataclass
from typing import ClassVar

from vision_peft.data.annotations.class_folders import OtherKind
from vision_peft.data.annotations.folder_data import ClassFolders
from vision_peft.data.annotations.scan_folder import FileKind
from vision_peft.data.annotations.split_items import SplitItems
from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.deep_grey import check_value_range, warn_of_deep_grey
from vision_peft.data.decoding.image_dataset import ImageFiles
from vision_peft.data.decoding.image_kinds import EXTENSIONS, MISSING_PLUGINS, starts_as_image
from vision_peft.data.decoding.images import MAX_PIXELS
from vision_peft.data.flat_arrays import IntArray, TextArray

IMAGES = FileKind("image", EXTENSIONS, MISSING_PLUGINS, starts_as_image)
VIDEOS = OtherKind(VIDEO_EXTENSIONS - EXTENSIONS, "data=video_folder backbone.num_frames=8 reads videos")


@dataclass(frozen=True, kw_only=True)
class Folder(ClassFolders):
    """Images sorted into one folder per class; see `ClassFolders`. Those without an extension go by their first bytes.

    Images of a kind that needs a plugin of PIL which is not installed (HEIC, ...) are an error: left out, they would
    be missing from some classes more than from others.
    """

    name: ClassVar[str] = "folder"
    max_pixels: int = MAX_PIXELS
    exif_rotation: bool = False
    value_range: str | tuple[float, float] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value_range(self.value_range)

    @property
    def kind(self) -> FileKind:
        return IMAGES

    @property
    def other(self) -> OtherKind:
        return VIDEOS

    def look_at(self, items: SplitItems) -> None:
        warn_of_deep_grey(items.paths, str(self.root), self.value_range, self.max_pixels)

    def make(self, paths: TextArray, labels: IntArray, classes: list[str]) -> ImageDataset:
        return ImageFiles(
            paths,
            labels,
            classes,
            max_pixels=self.max_pixels,
            exif_rotation=self.exif_rotation,
            value_range=self.value_range,
        )
