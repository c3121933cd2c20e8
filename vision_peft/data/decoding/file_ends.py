"""Whether a container goes on behind the end of its file, as one does whose download or copy was broken off.

ffmpeg says nothing where the break falls between two packets: what is missing behind it is then not missed.
"""

import os
from pathlib import Path
from typing import BinaryIO

_MOST_BOXES = 100_000  # that are looked at; each asks for a read
_LONGEST = 2**63  # bytes; a larger number is no size


def find_cut(path: str | Path, container: str) -> str | None:
    """Describe what goes on behind the end of a file of ffmpeg's container "mov" or "avi"; None where nothing does."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if container == "mov":
            return _find_cut_box(file, size)
        if container == "avi":
            start = file.read(12)
            end = 8 + int.from_bytes(start[4:8], "little")
            if start[:4] == b"RIFF" and start[8:] == b"AVI " and end > size:
                return f"it ends {end - size:,} bytes before its end"
    return None


def _find_cut_box(file: BinaryIO, size: int) -> str | None:
    """Walk over the outermost boxes: a size of 4 bytes and a name of 4, or 1, the name and a size of 8."""
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if len(header) < 8 or not 8 <= length < _LONGEST:  # 0: up to the end of the file
            return None
        place += length
        if place > size:
            return f"its {header[4:8].decode('latin-1')} box goes on {place - size:,} bytes behind the end of the file"
    return None
