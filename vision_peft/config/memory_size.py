"""Memory as people write it: ``8GB``, ``7.5GiB``, ``8000MB`` or ``50%`` of what the device has."""

import re

UNITS = {"mb": 10**6, "gb": 10**9, "mib": 2**20, "gib": 2**30}
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB|%)", re.IGNORECASE)


def check_memory_size(text: str) -> str | None:
    """Describe what is wrong with a size as it was typed; None where it can be read."""
    found = _WRITTEN.fullmatch(text)
    if found is not None and float(found[1]) > 0 and (found[2] != "%" or float(found[1]) <= 100):
        return None
    hint = f", which has no unit: give {text}GB" if re.fullmatch(r"\d+(\.\d+)?", text) else ""
    return f"memory must be a size such as 8GB, 8GiB, 8000MB or 50% (of what the device has); got {text}{hint}"


def read_memory_size(text: str, whole: int) -> int:
    """Return the bytes that a checked text says; a share is one of ``whole``."""
    number, unit = _WRITTEN.fullmatch(text).groups()  # type: ignore[union-attr]
    return int(float(number) * (whole / 100 if unit == "%" else UNITS[unit.lower()]))
