"""Check the videos that a list names: they exist, are not empty and hold pictures."""

import os

from vision_peft.data.annotations.list_files import PathCheck, quote
from vision_peft.data.decoding.video_file import is_only_sound

VIDEO_EXTENSIONS = frozenset((".avi", ".mp4", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".gif", ".wmv", ".flv"))
OPENED = 2000  # files whose header a reader looks into before training, a millisecond each


class VideoCheck(PathCheck):
    """Checks that videos exist below `root`, are not empty and, of the first `OPENED`, hold more than sound.

    A file that cannot be opened is not a problem of its list: training replaces it, the verb check-data decodes all.
    """

    what = "video"
    opened = 0

    def find_absence(self, full: str, path: str) -> str | None:
        if absent := super().find_absence(full, path):
            return absent
        size = os.path.getsize(full)  # noqa: PTH202
        if not size:
            return f"video {quote(path)} is empty (0 bytes)"
        self.opened += 1
        if self.opened > OPENED or not is_only_sound(full, size):
            return None
        return f"video {quote(path)} holds sound and no pictures"
