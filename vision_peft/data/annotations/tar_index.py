"""Where each file of a tar archive lies, from its headers alone, so that any of them can be read by itself.

Plain ustar, GNU and pax archives. Every header is checked by its checksum, every step goes forward and stays within the
file. A hard link, as which tar stores a further name of a file, is the file that it names; symbolic links, folders and
devices are passed over. https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vision_peft.safe_files import open_regular

BLOCK = 512
_LONGEST_NAME = 2**16  # bytes
_FILES = (b"0", b"\0", b"7")
_LINK, _FOLDERS = b"1", (b"5", b"V")  # V: a name for the whole archive
_LONG_NAME, _LONG_TARGET, _PAX, _FOR_ALL = b"L", b"K", b"x", b"g"
_OTHERS = {b"2": "a symbolic link: pack it with --dereference", b"S": "a sparse file: pack it without --sparse"}
_PIECE = 2**20  # bytes that are read at once


class Member(NamedTuple):
    """A file in an archive: its name, where its content begins, how many bytes it has."""

    name: str
    offset: int
    size: int


def list_members(path: Path, passed_over: list[tuple[str, str]] | None = None) -> Iterator[Member]:
    """List the regular files of a tar archive in their order.

    Args:
        path: of the archive.
        passed_over: gets the names of what is neither file nor folder, and what each is.

    Raises:
        ValueError: it is compressed, no tar archive, damaged, cut short, or something follows its end; the message
            says at which byte.
        OSError: it cannot be opened, or is no regular file.
    """
    with open_regular(path) as file:
        handle, end = file.fileno(), os.fstat(file.fileno()).st_size
        place, given, members = 0, dict[str, str](), dict[str, Member]()
        while True:
            header = os.pread(handle, BLOCK, place)
            if header == bytes(BLOCK):
                _check_rest(handle, place + BLOCK, path)
                return
            if len(header) < BLOCK and not header.strip(b"\0"):
                raise ValueError(
                    f"{path} is cut short: it stops at byte {end:,}, without the zeros that end an archive"
                )
            kind, size, name = _read_header(header, place, path)
            content, is_header = place + BLOCK, kind in (_LONG_NAME, _LONG_TARGET, _PAX, _FOR_ALL)
            size = size if is_header else int(given.get("size", size))
            if content + size > end:
                left = f"the file at byte {place:,} has {size:,} bytes, {max(0, end - content):,} are left"
                raise ValueError(f"{path} is cut short: {left}")
            if kind in (_LONG_NAME, _LONG_TARGET):
                field = "path" if kind == _LONG_NAME else "linkpath"
                given[field] = _decode(os.pread(handle, min(size, _LONGEST_NAME), content))
            elif kind == _PAX:
                given |= _read_pax(os.pread(handle, min(size, _LONGEST_NAME), content), place, path)
            elif not is_header:
                name = given.get("path", name)
                target = given.get("linkpath", _decode(header[157:257])) if kind == _LINK else None
                if kind in _FILES or target in members:
                    held = Member(name, content, size) if target is None else members[target]
                    members[name] = held._replace(name=name)
                    yield members[name]
                elif kind not in _FOLDERS and passed_over is not None:
                    passed_over.append((name, _describe(kind, target)))
                given = {}
            place = content + -(-size // BLOCK) * BLOCK


def _describe(kind: bytes, target: str | None) -> str:
    """Say what a member is that is no file."""
    if target is not None:
        return f"a link to {target!r}, which is not in front of it: pack both"
    return _OTHERS.get(kind, f"of the kind {_decode(kind)!a}, no file: remove it")


def _check_rest(handle: int, place: int, path: Path) -> None:
    """Raise ValueError where something comes behind the zeros that end an archive."""
    while piece := os.pread(handle, _PIECE, place):
        if rest := piece.lstrip(b"\0"):
            raise ValueError(
                f"{path} goes on behind its end, at byte {place + len(piece) - len(rest):,}: it is damaged, or several "
                "archives were joined into one; give each as a file of its own"
            )
        place += len(piece)


def _read_header(header: bytes, place: int, path: Path) -> tuple[bytes, int, str]:
    """Return type, size and name of a header."""
    if place == 0 and header[:2] == b"\x1f\x8b":
        raise ValueError(f"{path} is compressed, wanted a plain tar archive: decompress it by gunzip")
    checksum = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    try:
        if len(header) < BLOCK or _read_number(header[148:156]) != checksum:
            raise ValueError
        size, prefix = _read_number(header[124:136]), header[345:500]
    except ValueError:
        what = "it is not a tar archive" if place == 0 else f"there is no header of a file at byte {place:,}"
        raise ValueError(f"{path} is damaged: {what}") from None
    name = _decode(header[:100])
    if header[257:262] == b"ustar" and header[262:263] == b"\0" and (folder := _decode(prefix)):
        name = f"{folder}/{name}"
    return header[156:157], size, name


def _read_number(field: bytes) -> int:
    """Read a number in octal digits, or in base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise ValueError(field)
    return int(text or b"0", 8)


def _read_pax(records: bytes, place: int, path: Path) -> dict[str, str]:
    """Return path, target and size of a pax header: records `length key=value`."""
    found: dict[str, str] = {}
    while records:
        digits, _, _ = records.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
        key, equals, value = records[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or length > len(records):
            raise ValueError(f"{path} is damaged: there is no pax header at byte {place:,}")
        if key in (b"path", b"linkpath") or (key == b"size" and value.isdigit() and len(value) < 19):
            found[key.decode()] = _decode(value)
        elif key.startswith(b"GNU.sparse"):
            raise ValueError(f"{path} holds a sparse file at byte {place:,}: pack it without --sparse")
        records = records[length:]
    return found


def _decode(name: bytes) -> str:
    return name.split(b"\0")[0].decode("utf-8", errors="backslashreplace")
