"""Methods, one family a file. A file in this folder is a method by existing; nothing else lists it."""

import importlib
import inspect
import pkgutil

from vision_peft.tuning.method import Method


def _find() -> dict[str, type[Method]]:
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Method) and value.__module__ == module.__name__ and "name" in value.__dict__:
                found[value.name] = value
    return dict(sorted(found.items()))


METHODS: dict[str, type[Method]] = _find()
