"""Images with a map of depths each: `ROOT/images`, `ROOT/depth`, lists of the splits.

A map is 16-bit grey (millimetres, 0 where nothing was measured, as depth cameras write it) or of floats.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.mask_data import MaskFolders
from vision_peft.data.annotations.mask_folders import MaskItems
from vision_peft.data.decoding.masks import DepthMasks


@dataclass(frozen=True, kw_only=True)
class Depth(MaskFolders):
    """A depth for every pixel, in metres: `scale` times what the file holds."""

    name: ClassVar[str] = "depth"
    masks: str = "depth"
    scale: float = 0.001
    missing: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0:
            raise ValueError(f"data.scale must be above 0, got {self.scale}")

    def find_reading(self, root: Path, items: MaskItems, problems: list[str]) -> DepthMasks:
        return DepthMasks(self.scale, self.missing)
