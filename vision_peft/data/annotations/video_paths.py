"""Check the videos that a list names: they exist, are not empty and hold pictures."""

import os

from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.decoding.video_file import is_only_sound
from vision_peft.data.problems import quote

_MP4_AND_MATROSKA = (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm")
_MPEG = (".mpg", ".mpeg", ".m1v", ".m2v", ".vob", ".ts", ".mts", ".m2ts")
_OTHERS = (".avi", ".divx", ".asf", ".wmv", ".flv", ".ogv", ".ogm", ".gif")
VIDEO_EXTENSIONS = frozenset((*_MP4_AND_MATROSKA, *_MPEG, *_OTHERS))
OPENED = 2000  # files whose header a reader looks into before training, a millisecond each


class VideoCheck(PathCheck):
    """Checks that videos exist below `root`, are not empty and, of the first `OPENED`, hold more than sound.

    A file that cannot be opened is not a problem of its list: training replaces it, the verb check-data decodes all.
    """

    what = "video"
    opened = 0

    def list_sound(self, folder: bytes) -> frozenset[bytes]:
        return frozenset()  # a listing says nothing of what is in a file

    def find_absence(self, full: str, path: str) -> str | None:
        if absent := super().find_absence(full, path):
            return absent
        size = os.path.getsize(full)  # noqa: PTH202
        if not size:
            return f"video {quote(path)} is empty (0 bytes)"
        self.opened += 1
        if self.opened > OPENED or not is_only_sound(full, size):
            return None
        return f"video {quote(path)} has sound but no pictures"
