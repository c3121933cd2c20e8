"""Makers of files that a data folder may hold where images are expected; `MAKERS` names them.

A maker writes to the path it is given and returns how that must end: `Picture` or a pattern of the error's cause.
"""

import os
import pickle
import struct
from pathlib import Path

from support.hostile_images import IMAGES
from support.hostile_kit import NO_IMAGE, End, Maker, Makers, Picture, encoded, plain

FILES = Makers()


@FILES.add
def zero_bytes(path: Path) -> End:
    path.touch()
    return "the file is empty"


@FILES.add
def html_page(path: Path) -> End:
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    return NO_IMAGE


@FILES.add
def plain_text(path: Path) -> End:
    path.write_text("cat photo, to be uploaded\n" * 50)
    return NO_IMAGE


@FILES.add
def vector_graphics(path: Path) -> End:
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="9" height="9"/></svg>')
    return NO_IMAGE


class _Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("this-must-never-be-made",)


@FILES.add
def pickled_object(path: Path) -> End:
    path.write_bytes(pickle.dumps(_Malicious()))
    return NO_IMAGE


@FILES.add
def photoshop(path: Path) -> End:
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 48, 64, 8, 3)
    path.write_bytes(header + struct.pack(">IIIH", 0, 0, 0, 0) + bytes(3 * 48 * 64))
    return NO_IMAGE


@FILES.add
def a_folder(path: Path) -> End:
    path.mkdir()
    return "not a regular file"


@FILES.add
def a_pipe(path: Path) -> End:
    os.mkfifo(path)
    return "not a regular file"


@FILES.add
def a_link_to_an_endless_device(path: Path) -> End:
    path.symlink_to("/dev/zero")
    return "not a regular file"


@FILES.add
def a_broken_link(path: Path) -> End:
    path.symlink_to(path.with_name("nothing.jpg"))
    return "FileNotFoundError"


@FILES.add
def a_link_to_itself(path: Path) -> End:
    path.symlink_to(path)
    return "OSError"


@FILES.add
def a_file_without_permission_to_read(path: Path) -> End:
    path.write_bytes(encoded(plain(), "PNG"))
    path.chmod(0)
    return Picture() if os.access(path, os.R_OK) else "PermissionError"  # root may read everything


MAKERS: dict[str, Maker] = {**FILES, **IMAGES}
