"""Re-encode a folder of videos so that clips can be read several times faster.

    vision-peft prepare-video hmdb51 hmdb51-256
    vision-peft prepare-video ssv2 ssv2-240 --short-side 240 --gop 12 --workers 16
    vision-peft prepare-video kinetics kinetics-320 --short-side 320 --keep-names
    vision-peft prepare-video hmdb51 hmdb51-256 --verify

Every video becomes H.264 in mp4 at the same place below OUT, upright and without sound. Its short side is scaled down
to --short-side (never up). It keeps all its frames, their colours (as BT.601) and times, with a key frame at least
every --gop frames, so a clip from the middle is decoded from a nearby key frame. Videos are recognised by name or by
their first bytes. Other files, such as split lists, are copied, and counted by extension at the end. Links to folders
are followed.

A video is written under a temporary name, decoded again, and moved into place only if the number of frames is right.
OUT/prepared.jsonl lists what is finished, so the same command continues after a stop. Videos that cannot be decoded are
reported at the end and do not stop the others.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vision_peft.cli._encode_video import encode
from vision_peft.cli._prepared import (
    MANIFEST,
    Settings,
    is_part,
    name_part,
    read_manifest,
    read_prepared,
    remove_parts,
)
from vision_peft.cli._verb import announce_loading, make_parser, suggest_next
from vision_peft.printable import LONGEST_LINE, name_some, printable, show

NAMED = 3  # files of one kind that a line names


def prepare(source: Path, out: Path, settings: Settings, workers: int) -> list[str]:
    """Do what is not done yet; returns what failed, a line each.

    Raises:
        ValueError: folders that overlap, other settings than OUT was begun with, two videos of one name, a name that is
            kept for unfinished files, a manifest that is damaged.
        OSError: no folder at `source`, nothing can be written to `out`.
    """
    source, out = source.resolve(), out.resolve()
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder")
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ValueError(f"one of {out} and {source} contains the other: choose another output folder")
    found, loops = list_paths(source, out)
    files = [path for path in found if (source / path).is_file()]
    videos = [path for path in files if _is_video(source / path)]
    if not videos:
        raise ValueError(f"{source} holds no video: {_count_by_extension(files) or 'it is empty'}")
    _check_names(videos, settings)
    if kept := [path for path in found if is_part(path)]:
        raise ValueError(f"{source / kept[0]} has the name of an unfinished file of this tool: rename or remove it")
    out.mkdir(parents=True, exist_ok=True)
    finished = read_manifest(out, settings)
    remove_parts(out)
    others = [path for path in sorted({*files} - {*videos}) if path.name != MANIFEST]
    for path in others:
        _copy(source / path, out / path)
    if others:
        show(f"copied as they are, not videos: {_count_by_extension(others)}")
    if left_out := sorted({*found} - {*files}):
        show(f"left out, neither files nor folders: {_count_by_extension(left_out)}")
    if loops:
        show(f"left out, links to folders that they are in: {name_some(loops, NAMED)}")
    todo = [path for path in videos if not _is_done(source, out, path, settings, finished)]
    show(f"{len(videos)} videos, {len(videos) - len(todo)} of them are done already")
    failed = []
    with ThreadPoolExecutor(workers) as pool, (out / MANIFEST).open("a", encoding="utf-8") as manifest:
        work = pool.map(lambda path: _attempt(source / path, out / settings.target(path), settings), todo)
        try:
            for number, (path, (frames, problem)) in enumerate(zip(todo, work, strict=True), 1):
                if problem:
                    failed.append(f"{path}: {problem}")
                else:
                    entry = {"path": path.as_posix(), "frames": frames, **_stamp(source / path)}
                    manifest.write(json.dumps(entry) + "\n")
                    manifest.flush()
                if number % max(len(todo) // 100, 1) == 0 or number == len(todo):
                    show(f"{number}/{len(todo)}  {printable(path, LONGEST_LINE)}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def list_paths(source: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """List what is below `source` and no folder, links to folders followed, and such links to where they are in.

    Raises:
        ValueError: a link leads to `out`, to a folder in it or to one that it is in.
    """
    found, loops = list[Path](), list[Path]()

    def enter(folder: Path, above: tuple[Path, ...]) -> None:
        for path in folder.iterdir():
            if not path.is_dir():
                found.append(path.relative_to(source))
            elif not path.is_symlink():
                enter(path, (*above, path.resolve()))
            elif (real := path.resolve()) in above:
                loops.append(path.relative_to(source))
            elif real.is_relative_to(out) or out.is_relative_to(real):
                raise ValueError(f"{path} is a link to {real}, and {out} overlaps that: choose another output folder")
            else:
                enter(path, (*above, real))

    enter(source, (source,))
    return sorted(found), sorted(loops)


def verify(out: Path) -> list[str]:
    """Decode every finished video of `out` again; what is wrong, a line each."""
    settings, entries = read_prepared(out / MANIFEST)
    if settings is None:
        raise FileNotFoundError(f"{out / MANIFEST} is not there: nothing has been prepared in {out}")
    from vision_peft.data.decoding.video import frame_count

    problems = []
    for entry in {entry["path"]: entry for entry in entries}.values():  # a video that was made again has two
        path = out / settings.target(Path(entry["path"]))
        try:
            if (frames := frame_count(path, decode=True)) != entry["frames"]:
                problems.append(f"{path}: {frames} frames, {entry['frames']} were written")
        except ValueError as error:
            problems.append(f"{path}: {_cause(error)}")
    return problems


def _attempt(source: Path, target: Path, settings: Settings) -> tuple[int, str]:
    """Return the number of frames and "", or 0 and why there is no `target`."""
    from vision_peft.data.decoding.video import frame_count

    part = name_part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        frames = encode(source, part, settings.short_side, settings.gop, settings.crf)
        if (found := frame_count(part, decode=True)) != frames:
            return 0, f"{frames} frames were written, {found} can be read"
        os.replace(part, target)  # noqa: PTH105 - the documented atomic call
    except Exception as error:  # PyAV has errors of many kinds; the other videos do not depend on this one
        return 0, _cause(error)
    finally:
        part.unlink(missing_ok=True)
    return frames, ""


def _is_done(source: Path, out: Path, path: Path, settings: Settings, finished: dict[str, dict[str, Any]]) -> bool:
    entry = finished.get(path.as_posix())
    return (out / settings.target(path)).is_file() and entry == {**(entry or {}), **_stamp(source / path)}


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"source_bytes": status.st_size, "source_mtime": int(status.st_mtime)}


def _is_video(path: Path) -> bool:
    """Whether a file's name or its first bytes say that it is a video, which holds more than sound."""
    from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS
    from vision_peft.data.decoding.video_file import VideoDecodeError, find_container, is_only_sound

    if path.suffix.lower() in VIDEO_EXTENSIONS:
        return True
    try:
        find_container(path)
    except VideoDecodeError:
        return False
    return not is_only_sound(str(path), path.stat().st_size)


def _count_by_extension(paths: Sequence[Path]) -> str:
    """Write `3 .txt (a.txt, b.txt, c.txt), 1 .mxf (d.mxf)`, the most frequent extension first."""
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(path.suffix.lower() or "without extension", []).append(path)
    most_first = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    return ", ".join(f"{len(files)} {printable(kind)} ({name_some(files, NAMED)})" for kind, files in most_first)


def _check_names(videos: list[Path], settings: Settings) -> None:
    seen: dict[Path, Path] = {}
    problems = [f"{seen[target]} and {path}" for path in videos if _twice(seen, target := settings.target(path), path)]
    if problems:
        raise ValueError(f"two videos would become one file, give --keep-names: {'; '.join(problems[:5])}")


def _twice(seen: dict[Path, Path], target: Path, path: Path) -> bool:
    return seen.setdefault(target, path) != path


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = name_part(target)
    shutil.copyfile(source, part)
    os.replace(part, target)  # noqa: PTH105 - the documented atomic call


def _cause(error: Exception) -> str:
    cause = getattr(error, "cause", None)  # of a video that cannot be decoded, without its path
    return " ".join((cause or f"{type(error).__name__}: {error}").split())


def main(argv: Sequence[str]) -> int:
    """Parse, prepare or verify, report."""
    parser = make_parser("prepare-video", __doc__)
    parser.add_argument("source", type=Path, help="folder of videos; may have subfolders")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--short-side", type=int, default=256, help="short side in pixels (default: 256)")
    parser.add_argument("--gop", type=int, default=12, help="frames between key frames, at most (default: 12)")
    parser.add_argument("--crf", type=int, default=18, help="quality, 0 (lossless) to 51 (default: 18)")
    parser.add_argument("--keep-names", action="store_true", help="keep file extensions, for lists that contain them")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="videos at a time (default: one per core)"
    )
    parser.add_argument("--verify", action="store_true", help="only check finished videos by decoding them again")
    options = parser.parse_args(argv)
    if options.short_side < 16 or options.gop < 1 or not 0 <= options.crf <= 51 or options.workers < 1:
        raise ValueError("--short-side must be at least 16, --gop and --workers at least 1, and --crf 0 to 51")
    settings = Settings(options.short_side, options.gop, options.crf, options.keep_names)
    what = "are not as they were written" if options.verify else "could not be prepared"
    announce_loading()
    failed = verify(options.out) if options.verify else prepare(options.source, options.out, settings, options.workers)
    for line in failed:
        show(printable(line, LONGEST_LINE), sys.stderr)
    show(f"{len(failed)} videos {what}" if failed else f"{printable(options.out, LONGEST_LINE)}: every video is whole")
    if not failed and not options.verify:
        suggest_next(["train", "data=hmdb51", f"data.root={options.out}", "backbone.num_frames=8"])
    return 2 if failed else 0
