"""The samples of a tar shard in WebDataset's layout: where the image of each lies, and the value of its label."""

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vision_peft.data.annotations.labelled_parts import Value
from vision_peft.data.annotations.list_files import is_integer
from vision_peft.data.annotations.tar_index import Member, list_members
from vision_peft.data.decoding.images import EXTENSIONS
from vision_peft.safe_files import open_regular
from vision_peft.strict_json import parse_json

_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # name up to the first dot of the file's own name, the rest
_LARGEST_LABEL = 2**20  # bytes of the member that holds a label


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard: name, place of the image (offset, size) and value of the label of each."""

    path: str
    names: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def index_shard(path: str, image: str | None, label: str | None, json_field: str) -> ShardIndex:
    """Read the headers of a shard, and its labels, once a process.

    Args:
        path: of the shard.
        image: extension of the images, in any case, with or without its dot; None: the one that a sample has.
        label: extension of the labels, likewise; None: cls, else json.
        json_field: field of a json that holds the label.
    """
    status = Path(path).stat()
    image, label = (None if name is None else name.removeprefix(".").lower() for name in (image, label))
    return _index_shard(path, status.st_size, status.st_mtime_ns, image, label, json_field)


@functools.lru_cache(maxsize=4096)
def _index_shard(
    path: str, size: int, changed: int, image: str | None, label: str | None, json_field: str
) -> ShardIndex:
    """Read it; `size` and `changed` (in ns) distinguish files that replace each other."""
    del size, changed
    index = ShardIndex(path)
    samples: dict[str, dict[str, Member]] = {}
    passed_over: list[tuple[str, str]] = []
    try:
        for member in list_members(Path(index.path), passed_over):
            if (named := _match(member.name)) is None:
                continue
            files = samples.setdefault(named[1], {})
            if files.setdefault(named[2].lower(), member) is not member:
                index.problems.append(f"{index.path}: key {named[1]!r} has two files .{named[2].lower()}")
        index.problems.extend(f"{index.path}: {name!r} is {what}" for name, what in passed_over if _match(name))
        with open_regular(Path(index.path)) as file:
            for key, files in samples.items():
                try:
                    extension = _find_image(files, image)
                    value = _read_label(file.fileno(), files, label, json_field)
                except ValueError as error:
                    index.problems.append(f"{index.path}: key {key!r} {error}")
                    continue
                index.names.append(f"{index.path}/{key}.{extension}")
                index.places.append((files[extension].offset, files[extension].size))
                index.values.append(value)
    except (ValueError, OSError) as error:
        index.problems.append(str(error))
    return index


def _match(name: str) -> re.Match[str] | None:
    """Return key and extension; None for WebDataset's own notes, and files without an extension."""
    named = _SAMPLE.fullmatch(name.removeprefix("./"))
    return None if named is None or named[1].startswith("__") else named


def _find_image(files: Iterable[str], wanted: str | None) -> str:
    """Return the extension of the image of a sample."""
    found = [name for name in files if (name == wanted if wanted else f".{name.rpartition('.')[2]}" in EXTENSIONS)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f".{name}" for name in files)
    if found:
        raise ValueError(f"has several images ({there}): name the one with data.image={found[0]}")
    raise ValueError(f"has no image{f' .{wanted}' if wanted else ''}, but {there}")


def _read_label(handle: int, files: dict[str, Member], wanted: str | None, json_field: str) -> Value:
    """Return what a sample has for a label: a number or the name of a class."""
    name = wanted or next((name for name in ("cls", "json") if name in files), None)
    if name is None or name not in files:
        raise ValueError(f"has no label: wanted a file .{wanted or 'cls or .json'}, got {', '.join(files)}")
    member = files[name]
    if member.size > _LARGEST_LABEL:
        raise ValueError(f"has a label of {member.size:,} bytes in .{name}")
    content = os.pread(handle, member.size, member.offset)
    if name.rpartition(".")[2] != "json":
        text = content.decode("utf-8", errors="backslashreplace").strip()
        return int(text) if is_integer(text) else text or None
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ValueError(f"has no JSON in .{name}: {error}") from None
    if not isinstance(value, dict) or json_field not in value:
        raise ValueError(f"has no field {json_field!r} in .{name}: name it with data.json_field")
    value = value[json_field]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"has {str(value)[:40]!r} as {json_field!r} in .{name}, wanted a number or a name")
    return value
