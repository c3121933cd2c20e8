"""Find what a user wants to have predicted: files, folders, patterns, lists, and what class each is known to be of."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vision_peft.data.annotations.list_files import is_integer, iterate_lines
from vision_peft.data.annotations.list_lines import KNOWN_COLUMNS, PATH_WORDS, ListForm, ListLines, read_list_lines
from vision_peft.data.annotations.scan_folder import DEEPEST, FileKind, FolderScan
from vision_peft.data.annotations.video_paths import VIDEO_EXTENSIONS
from vision_peft.data.decoding.bands import ARRAY_EXTENSIONS, BandForm
from vision_peft.data.decoding.image_kinds import EXTENSIONS, MISSING_PLUGINS, starts_as_image
from vision_peft.data.decoding.video_file import VideoDecodeError, find_container
from vision_peft.data.item_names import to_nfc
from vision_peft.data.problems import raise_problems
from vision_peft.home_paths import expand_home
from vision_peft.suggest import Suggestions

LIST_EXTENSIONS = (".txt", ".csv", ".tsv", ".lst")
FROM_STDIN = "-"
_PICTURES = EXTENSIONS - VIDEO_EXTENSIONS


@dataclass
class Inputs:
    """What there is to predict: `labels[i]` is the number of the class that `paths[i]` is known to be of, else None."""

    paths: list[str] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # names in label order
    absent: dict[str, str] = field(default_factory=dict)  # paths that were named and are not there, and why
    left_out: Counter[str] = field(default_factory=Counter)  # files in folders that are of another kind, by extension

    def add(self, path: str, label: int | None) -> None:
        """Add one file."""
        self.paths.append(path)
        self.labels.append(label)

    def leave_out(self, paths: Iterable[str]) -> int:
        """Take out files that are done already, and return how many that are."""
        done = set(paths)
        kept = [place for place, path in enumerate(self.paths) if path not in done]
        gone = len(self.paths) - len(kept)
        self.paths = [self.paths[place] for place in kept]
        self.labels = [self.labels[place] for place in kept]
        return gone


def find_inputs(
    words: Iterable[str],
    clips: bool,
    classes: Sequence[str] | None,
    stdin: Iterable[str] = (),
    bands: BandForm | None = None,
) -> Inputs:
    """Find the images, or for a model of clips the videos, that the words of a command line mean, in their order.

    A word is a file; a folder, of which all files are taken, at any depth; a pattern such as `photos/**/*.jpg`; a list
    (`LIST_EXTENSIONS`) with a path, or a path and a label, a line; or `-` for paths on `stdin`, one a line. The class
    of a file is known from a labelled list, or from the name of a folder it lies in. For a model of clips a folder with
    images in it is a video, frame by frame.

    Where no classes are given, they are the names that occur: the labels of a list, or the names of the folders right
    below a folder that was typed.

    Args:
        words: as typed.
        clips: whether the model takes videos.
        classes: names in label order; None: whatever names occur, in this order; (): labels are not looked at.
        stdin: lines.
        bands: how the files of a model of images with bands are read.

    Raises:
        ValueError: lists with lines that make no sense or labels that are no class; all of them are named.
    """
    found, problems = Inputs(classes=list(classes or ())), list[str]()
    finder: _Finder = (_Finder if classes is not None else _OpenFinder)(found, clips, problems, bands)
    for word in words:
        if word == FROM_STDIN:
            for line in stdin:
                if path := line.rstrip("\r\n"):
                    finder.add_file(path)
        else:
            finder.add_word(word)
    raise_problems("lists of inputs", [*dict.fromkeys(problems)])
    return found


class _Finder:
    names_any = False  # whether any name is a class

    def __init__(self, found: Inputs, clips: bool, problems: list[str], bands: BandForm | None = None) -> None:
        self.found, self.clips, self.problems = found, clips, problems
        self.label_of: dict[str, int] = {to_nfc(name): label for label, name in enumerate(found.classes)}
        self.kind = (
            FileKind("video", VIDEO_EXTENSIONS, {}, _starts_as_video)
            if clips
            else FileKind("image", EXTENSIONS, MISSING_PLUGINS, starts_as_image)
        )
        if bands is not None:
            self.kind = FileKind("image", EXTENSIONS | ARRAY_EXTENSIONS, {}, starts_as_image)
        self.ending = bands.stack[0] if bands is not None and bands.stack else ""  # of the files that name an image

    def add_word(self, word: str) -> None:
        path = expand_home(word)
        if path.is_dir():
            self.add_folder(str(path))
        elif path.suffix.lower() in LIST_EXTENSIONS and path.is_file():
            self.add_list(path)
        elif glob.has_magic(word) and not os.path.lexists(path):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
            for match in matches:
                self.add_word(match)
            if not matches:
                self.found.absent[word] = "no file matches this pattern"
        else:
            self.add_file(str(path))

    def add_file(self, path: str) -> None:
        if not os.path.lexists(path):
            self.found.absent[path] = "there is no such file"
            return
        self.found.add(path, self._label_alone(path))

    def add_folder(self, folder: str) -> None:
        """Add all files of a folder, or for a model of clips the folder itself and those in it that hold frames."""
        scan = FolderScan(self.kind, recursive=True, leave_out=())
        names, left_out = scan.list_files(folder)
        if self.clips:
            frames, pictures = _find_frame_folders(folder)
            for below in frames:
                self.found.add(below, self._label_in(folder, os.path.relpath(below, folder)))
            left_out -= pictures
        for name in names:
            if not name.endswith(self.ending):
                continue
            self.found.add(os.path.join(folder, name), self._label_in(folder, name))  # noqa: PTH118
        self.found.left_out += left_out
        for problem in scan.problems:
            path, _, why = problem.partition(": ")
            self.found.absent[path] = why

    def _label_alone(self, path: str) -> int | None:
        """Return the class of a file that was named itself, by the folder that it lies in."""
        return self.label_of.get(to_nfc(Path(path).absolute().parent.name))

    def _label_in(self, folder: str, name: str) -> int | None:
        """Return the class of the innermost folder on the way from `folder`, itself included, to a file in it."""
        above = [Path(folder).absolute().name, *Path(name).parts[:-1]]
        return next((self.label_of[to_nfc(each)] for each in reversed(above) if to_nfc(each) in self.label_of), None)

    def add_list(self, file: Path) -> None:
        """Add what a list names: a path a line, or a path and a label."""
        if self._is_plain(file):
            lines = [line.strip() for _, line in iterate_lines(file, self.problems)]
            if lines and lines[0].lower() in PATH_WORDS:
                del lines[0]
            for path in lines:
                self.add_file(_find_listed(file, path))
            if not lines and not any(problem.startswith(f"{file}: ") for problem in self.problems):
                self.problems.append(f"{file}: no line names a file: wanted a path, or a path and a label, a line")
            return
        form = KNOWN_COLUMNS if self.found.classes or self.names_any else ListForm(empty=True, flags=None)
        lines = read_list_lines(file, self.problems, form)
        labels = self._find_labels(file, lines)
        for path, text in zip(lines.paths, lines.labels, strict=True):
            full = _find_listed(file, path)
            if os.path.lexists(full):
                self.found.add(full, labels.get(text))
            else:
                self.found.absent[full] = f"there is no such file, {file} names it"

    def _is_plain(self, file: Path) -> bool:
        """Whether a list holds paths and nothing else, by its first lines."""
        lines = [line.strip() for (_, line), _ in zip(iterate_lines(file, self.problems), range(2), strict=False)]
        if not lines:
            return True
        if lines[0].lower() in PATH_WORDS or os.path.lexists(_find_listed(file, lines[-1])):
            return True
        return not any(mark in lines[0] for mark in " \t,;")

    def _find_labels(self, file: Path, lines: ListLines) -> dict[int, int]:
        """Return the class of each text in the place of a label: its number where all are numbers, else its name."""
        texts, classes = lines.texts, len(self.found.classes)
        if not classes:  # nobody asks what they are of
            return {}
        if all(is_integer(text) and 0 <= int(text) < classes for text in texts):
            return {place: int(text) for place, text in enumerate(texts)}
        suggest = Suggestions(self.label_of)
        unknown = [text for text in texts if to_nfc(text) not in self.label_of]
        self.problems += [f"{file}: {text!r} is not one of the {classes} classes{suggest(text)}" for text in unknown]
        return {place: self.label_of.get(to_nfc(text), -1) for place, text in enumerate(texts)}


class _OpenFinder(_Finder):
    """Takes whatever names occur as classes."""

    names_any = True

    def _label_alone(self, path: str) -> int | None:
        return None

    def _label_in(self, folder: str, name: str) -> int | None:
        above = Path(name).parts[:-1]
        return self._number(above[0]) if above else None

    def _find_labels(self, file: Path, lines: ListLines) -> dict[int, int]:
        return {place: self._number(text) for place, text in enumerate(lines.texts)}

    def _number(self, text: str) -> int:
        name = to_nfc(text)
        if name not in self.label_of:
            self.label_of[name] = len(self.found.classes)
            self.found.classes.append(name)
        return self.label_of[name]


def _find_listed(file: Path, path: str) -> str:
    """Return where a path of a list leads: below the folder of the list, else from here."""
    beside = str(file.parent / path)
    return path if not os.path.lexists(beside) and os.path.lexists(path) else beside


def _starts_as_video(path: str) -> bool:
    try:
        return bool(find_container(path))
    except VideoDecodeError:
        return False


def _find_frame_folders(folder: str) -> tuple[list[str], Counter[str]]:
    """List the folders, `folder` itself or below it, that hold images directly and no video, and count the images.

    Links are followed; of one that leads back up, `FolderScan` tells.
    """
    found, counts = list[str](), Counter[str]()

    def look_into(below: str, above: tuple[str, ...]) -> None:
        with os.scandir(below) as entries:
            seen = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        kinds = Counter(Path(entry.name).suffix.lower() for entry in seen if not entry.is_dir())
        frames = {kind: count for kind, count in kinds.items() if kind in _PICTURES}
        if frames and not kinds.keys() & VIDEO_EXTENSIONS:
            found.append(below)
            counts.update(frames)
        for entry in seen:
            if entry.is_dir() and (real := os.path.realpath(entry.path)) not in above and len(above) <= DEEPEST:
                look_into(entry.path, (*above, real))

    look_into(folder, (os.path.realpath(folder),))
    return found, counts
