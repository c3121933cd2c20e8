"""Datasets, one family a file. A file in this folder is a dataset by existing; nothing else lists it."""

import importlib
import pkgutil

from vision_peft.data.config import DataConfig


def _find() -> dict[str, type[DataConfig]]:
    found: dict[str, type[DataConfig]] = {}
    for module_name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{module_name}")
        for value in vars(module).values():
            is_config = isinstance(value, type) and issubclass(value, DataConfig) and value is not DataConfig
            if is_config and value.__module__ == module.__name__ and "name" in vars(value):  # else a common base
                found[value.name] = value
    return found


DATASETS = _find()
