"""Check that every file of an image with one file a band exists where a list names the first of them."""

from collections.abc import Sequence
from pathlib import Path

from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.problems import quote


class StackCheck(PathCheck):
    """Checks an image, or with a `stack` of endings all files of it, of which the path that is listed is the first."""

    def __init__(self, root: Path, stack: Sequence[str] = (), confined: bool = True, hint: str = "") -> None:
        super().__init__(root, confined, hint)
        self.stack = stack

    def list_sound(self, folder: bytes) -> frozenset[bytes]:
        return frozenset() if self.stack else super().list_sound(folder)

    def find_absence(self, full: str, path: str) -> str | None:
        if not self.stack:
            return super().find_absence(full, path)
        first, *others = self.stack
        if not path.endswith(first):
            return f"image {quote(path)} does not end in {quote(first)}, the first of data.stack"
        found = [super().find_absence(full, path)]
        for ending in others:
            file = path.removesuffix(first) + ending
            place = full.removesuffix(first) + ending
            outside = self.confined and not self.is_inside(place)
            found.append(f"{quote(file)} leads out of {self.root}" if outside else super().find_absence(place, file))
        return "; ".join(filter(None, found)) or None
