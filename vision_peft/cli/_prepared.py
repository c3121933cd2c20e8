"""What `prepare_video.py` keeps in its output folder beside the videos: the list of what is done, unfinished files."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from vision_peft.printable import printable
from vision_peft.safe_files import check_regular, write_file
from vision_peft.strict_json import parse_json

MANIFEST = "prepared.jsonl"  # first line: the settings; then one finished video a line
_PART = re.compile(r"\.prepare-video-[0-9a-f]{16}\.part")  # no source has such a name
_ENTRY = {"path": str, "frames": int, "source_bytes": int, "source_mtime": int}


@dataclass(frozen=True)
class Settings:
    """How videos are encoded; part of the manifest."""

    short_side: int  # pixels
    gop: int  # frames from one key frame to the next, at most
    crf: int  # x264's quality: 0 lossless, 18 hardly visible, 51 worst
    keep_names: bool  # else the extension becomes .mp4

    def target(self, path: Path) -> Path:
        """Name the video that `path` becomes."""
        return path if self.keep_names else path.with_suffix(".mp4")


def name_part(target: Path) -> Path:
    """Name the file that becomes `target` once it is whole, beside it; as long for every target."""
    number = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return target.with_name(f".prepare-video-{number}.part")


def is_part(path: Path) -> bool:
    """Whether a file has the name of an unfinished one."""
    return _PART.fullmatch(path.name) is not None


def remove_parts(out: Path) -> None:
    """Remove the unfinished files that an interrupted start left anywhere in `out`."""
    for path in [path for path in out.rglob(".prepare-video-*.part") if is_part(path)]:
        if path.is_symlink() or path.is_file():
            path.unlink()


def read_manifest(out: Path, settings: Settings) -> dict[str, dict[str, Any]]:
    """Read the finished videos of `out` by path; start the manifest with `settings` if there is none.

    Raises:
        ValueError: `out` holds something else, was begun with other settings, or has a damaged manifest.
    """
    path = out / MANIFEST
    begun, entries = read_prepared(path)
    if begun is None:
        if others := sorted(item.name for item in out.iterdir() if item.name != MANIFEST):
            raise ValueError(f"{out} holds {others[0]}, which this tool did not write: choose another folder")
    elif begun != settings:
        raise ValueError(f"{out} was started with {asdict(begun)}, got {asdict(settings)}: choose another folder")
    text = "".join(json.dumps(line) + "\n" for line in (asdict(settings), *entries))
    if begun is None or path.read_bytes() != text.encode():  # without a cut last line
        write_file(path, text)
    return {entry["path"]: entry for entry in entries}


def read_prepared(path: Path) -> tuple[Settings | None, list[dict[str, Any]]]:
    """Read a manifest: the settings, None where there is no whole line, and what is finished, as it was written.

    A last line that was cut off is left out; what it names is made again.

    Raises:
        ValueError: another line is damaged, with the file and the number of the line.
    """
    check_regular(path)
    *whole, cut = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found: list[Any] = []
    for number, line in enumerate([*whole, cut], start=1):
        if not line.strip():
            continue
        try:
            found.append(_read_entry(line) if found else _read_settings(line))
        except ValueError as error:
            if number > len(whole):
                break
            raise ValueError(f"{path} line {number} is damaged: {printable(error, 300)}") from None
    return (found[0], found[1:]) if found else (None, [])


def _read_settings(line: bytes) -> Settings:
    wanted = {item.name: item.type for item in fields(Settings)}
    return Settings(**_read_object(line, wanted, "the settings of the folder, such as those that this command has"))


def _read_entry(line: bytes) -> dict[str, Any]:
    entry = _read_object(line, _ENTRY, "a finished video; remove the line, and the video is made again")
    path = PurePosixPath(entry["path"])
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in entry["path"]:
        raise ValueError(f"{entry['path']!r} is no file below the folder; remove the line")
    return entry


def _read_object(line: bytes, types: Any, what: str) -> dict[str, Any]:
    found = parse_json(line)
    if not isinstance(found, dict) or found.keys() != types.keys():
        raise ValueError(f"wanted an object with {', '.join(types)}, {what}")
    for name, wanted in types.items():
        if type(found[name]) is not wanted or (wanted is int and name != "source_mtime" and found[name] < 0):
            kind = {str: "a text", int: "a whole number from 0", bool: "true or false"}[wanted]
            raise ValueError(f"{name} must be {kind}, got {found[name]!r}; wanted {what}")
    return found
