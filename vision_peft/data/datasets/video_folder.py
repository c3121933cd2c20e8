"""A tree of class folders of videos: `ROOT/{train,val,test}/<class>/*`, or `ROOT/<class>/*` to be split by seed.

This is how UCF101, Kinetics and HMDB51 lie on disk before anybody writes lists of them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from vision_peft.data.annotations.class_folders import OtherKind
from vision_peft.data.annotations.folder_data import ClassFolders
from vision_peft.data.annotations.scan_folder import FileKind
from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.decoding.image_kinds import EXTENSIONS
from vision_peft.data.decoding.video_dataset import VideoFiles
from vision_peft.data.decoding.video_file import VideoDecodeError, find_container
from vision_peft.data.flat_arrays import IntArray, TextArray


def _starts_as_video(path: str) -> bool:
    try:
        return bool(find_container(path))
    except VideoDecodeError:
        return False


VIDEOS = FileKind("video", VIDEO_EXTENSIONS, {}, _starts_as_video)
IMAGES = OtherKind(EXTENSIONS - VIDEO_EXTENSIONS, "data=folder reads images")


@dataclass(frozen=True, kw_only=True)
class VideoFolder(ClassFolders):
    """Videos sorted into one folder per class; see `ClassFolders`."""

    name: ClassVar[str] = "video_folder"
    decoder: str = "auto"

    @property
    def kind(self) -> FileKind:
        return VIDEOS

    @property
    def other(self) -> OtherKind:
        return IMAGES

    def make(self, paths: TextArray, labels: IntArray, classes: list[str], seen: Any) -> ImageDataset:
        return VideoFiles(paths, labels, classes, decoder=self.decoder)
