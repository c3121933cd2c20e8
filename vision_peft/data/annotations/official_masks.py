"""What the known sets of images with masks share: an official train and val, and a test without public masks."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vision_peft.data.annotations.mask_data import MaskData
from vision_peft.data.annotations.mask_folders import MaskItems, pair


@dataclass(frozen=True, kw_only=True)
class OfficialMasks(MaskData):
    """A set whose official val takes the place of test, whose masks are not public; val is drawn from train."""

    protocol: ClassVar[str] = "val_select_retrain"

    @abstractmethod
    def find_halves(self, root: Path, problems: list[str]) -> MaskItems:
        """Return the items of the official train, and of the official val as "test"."""

    def find_items(self, root: Path, problems: list[str]) -> MaskItems:
        items = self.find_halves(root, problems)
        for split, names in items.splits.items():
            if not names and not problems:
                problems.append(f"{root}: there is no image of the official {'val' if split == 'test' else split}")
        pair(items, {"masks": root}, problems)
        return items


def find_base(root: Path, names: tuple[str, ...], needed: tuple[str, ...]) -> Path:
    """Return ``root``, or the folder of one of ``names`` in it, that has the folders ``needed``.

    Raises:
        FileNotFoundError: none has them; the message lists them.
    """
    tried = [root, *(root / name for name in names)]
    for base in tried:
        if all((base / folder).is_dir() for folder in needed):
            return base
    raise FileNotFoundError(
        f"{root} does not hold {', '.join(needed)}, nor does {' or '.join(names)} in it: give data.root=FOLDER, where "
        "the official archives are unpacked"
    )
