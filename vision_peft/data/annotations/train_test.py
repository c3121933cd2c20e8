"""Data sets that come in two official halves, train and test: val is drawn from train."""

from dataclasses import dataclass
from typing import ClassVar

from vision_peft.data.annotations.draw_split import check_fraction
from vision_peft.data.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class OfficialHalves(DataConfig):
    """Settings that such data sets share.

    `seed` draws `val_fraction` of train as val, class by class; trainval is all of train.
    """

    protocol: ClassVar[str] = "val_select_retrain"
    root: str | None = None
    val_fraction: float = 0.1
    seed: int = 0
    download: bool = False

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
