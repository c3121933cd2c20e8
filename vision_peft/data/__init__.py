"""Image and video data: datasets, their lists, decoding, transforms, loading and checks.

A name below is imported when it is first used: importing this package, or `choices` and `root` in it, is free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision_peft.data.config import SPLITS, DataConfig
    from vision_peft.data.dataset import ImageDataset
    from vision_peft.data.datasets import DATASETS
    from vision_peft.data.decoding.image_dataset import ImageFiles
    from vision_peft.data.decoding.images import ImageDecodeError

__all__ = ["DATASETS", "SPLITS", "DataConfig", "ImageDataset", "ImageDecodeError", "ImageFiles"]

_MODULES = {
    "DATASETS": "datasets",
    "SPLITS": "config",
    "DataConfig": "config",
    "ImageDataset": "dataset",
    "ImageDecodeError": "decoding.images",
    "ImageFiles": "decoding.image_dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
