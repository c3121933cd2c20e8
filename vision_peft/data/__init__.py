"""Image data: one file per dataset family, safe decoding, transforms and a resumable loader."""

import importlib
import pkgutil

from vision_peft.data.dataset import SPLITS, DataConfig, ImageDataset
from vision_peft.data.images import ImageDecodeError

__all__ = ["DATASETS", "SPLITS", "DataConfig", "ImageDataset", "ImageDecodeError"]


def _find_datasets() -> dict[str, type[DataConfig]]:
    found: dict[str, type[DataConfig]] = {}
    for module_name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{module_name}")
        for value in vars(module).values():
            is_config = isinstance(value, type) and issubclass(value, DataConfig) and value is not DataConfig
            if is_config and value.__module__ == module.__name__ and "name" in vars(value):  # else a common base
                found[value.name] = value
    return found


DATASETS = _find_datasets()
