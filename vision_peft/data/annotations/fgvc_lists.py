"""Splits and labels of a fine-grained dataset from text: VPT's json lists, or the lists of the two bird archives.

* VPT (https://github.com/KMnP/vpt): `{train,val,test}.json`, `{"001.Albatross/0046.jpg": 1, ...}`.
* CUB-200-2011 and NABirds: `images.txt`, `image_class_labels.txt`, `train_test_split.txt` (1 is train) and
  `classes.txt`, each line an id, a space and a value; NABirds numbers images by UUID and leaves gaps between classes.

Every problem is appended to a list with file and line or key; a missing file raises FileNotFoundError.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from vision_peft.data.annotations.list_files import read_lines
from vision_peft.strict_json import parse_json

JSON_ROOTS = ("images", "Images", "", "jpg")


class Sample(NamedTuple):
    """One image: its path below the task folder, its class id as the file has it, and where it is named."""

    path: str
    class_id: int
    where: str


class Archive(NamedTuple):
    """What the metadata of a task folder say.

    `parts` holds "train", "test" and, where a validation split is public, "val"; `names` the name of a class id, empty
    where no file gives names; `from_one` whether class ids run from 1 to the number of classes.
    """

    parts: dict[str, list[Sample]]
    names: dict[int, str]
    from_one: bool


def read_json(folder: Path, problems: list[str], train_file: str = "train.json") -> Archive:
    """Read VPT's lists; images are in `images/`, `Images/`, `jpg/` or beside them. Only `val.json` may be absent."""
    parts: dict[str, list[Sample]] = {}
    for part, name in (("train", train_file), ("val", "val.json"), ("test", "test.json")):
        if part != "val" or (folder / name).is_file():
            parts[part] = place_below(folder, _json_entries(folder / name, problems), JSON_ROOTS)
    return Archive(parts, {}, from_one=False)


def _json_entries(file: Path, problems: list[str]) -> list[Sample]:
    lines = read_lines(file, problems)
    if not lines:
        return []
    try:  # objects become tuples of pairs, in which a key that stands twice can be seen
        pairs = parse_json("\n".join(lines), pairs=tuple)
    except ValueError as error:
        problems.append(f"{file}: not readable as json ({error})")
        return []
    if not isinstance(pairs, tuple):
        problems.append(f"{file}: wanted an object of path: class id, got {quote(pairs)}")
        return []
    samples = []
    for path, value in pairs:
        class_id = None if isinstance(value, bool) else whole(value)
        if class_id is None:
            problems.append(f"{file}: {quote(path)}: class id {quote(value)} is not an integer from 0")
        else:
            samples.append(Sample(path, class_id, f"{file}: {quote(path)}"))
    return samples


def read_lists(folder: Path, problems: list[str]) -> Archive:
    """Read the lists of CUB-200-2011 and NABirds; `classes.txt` may be absent, and may name classes without images."""
    image_file, label_file, split_file, class_file = (
        folder / name for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    images, labels, flags = (_table(file, problems) for file in (image_file, label_file, split_file))
    names: dict[int, str] = {}
    for text, (name, line) in (_table(class_file, problems) if class_file.is_file() else {}).items():
        if (class_id := whole(text)) is None:
            problems.append(f"{class_file}:{line}: class id {quote(text)} is not an integer from 0")
        else:
            names[class_id] = name
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for image, (path, line) in images.items():
        label, label_line = labels.get(image, ("", 0))
        flag, flag_line = flags.get(image, ("", 0))
        found = []
        if not label_line:
            found.append(f"{image_file}:{line}: image {quote(image)} has no line in {label_file.name}")
        elif (class_id := whole(label)) is None:
            found.append(f"{label_file}:{label_line}: class id {quote(label)} is not an integer from 0")
        elif names and class_id not in names:
            found.append(f"{label_file}:{label_line}: class id {class_id} is not in {class_file.name}")
        if not flag_line:
            found.append(f"{image_file}:{line}: image {quote(image)} has no line in {split_file.name}")
        elif flag not in ("0", "1"):
            found.append(f"{split_file}:{flag_line}: wanted 1 (train) or 0 (test), got {quote(flag)}")
        if not found:
            parts["train" if flag == "1" else "test"].append(Sample(path, int(label), f"{image_file}:{line}"))
        problems.extend(found)
    for file, table in ((label_file, labels), (split_file, flags)):
        alone = [(image, line) for image, (_, line) in table.items() if image not in images]
        problems.extend(f"{file}:{line}: image {quote(image)} is not in {image_file.name}" for image, line in alone)
    parts = {part: place_below(folder, samples, ("images", "images/images")) for part, samples in parts.items()}
    return Archive(parts, names, from_one=False)


def _table(file: Path, problems: list[str]) -> dict[str, tuple[str, int]]:
    """Read value and line number by id; a value may hold spaces."""
    rows: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(read_lines(file, problems), start=1):
        words = line.split(maxsplit=1)
        if len(words) == 1:
            problems.append(f"{file}:{number}: wanted '<id> <value>', got {quote(line.strip())}")
        elif words and words[0] in rows:
            problems.append(f"{file}:{number}: id {quote(words[0])} is already on line {rows[words[0]][1]}")
        elif words:
            rows[words[0]] = (words[1].strip(), number)
    return rows


def place_below(folder: Path, samples: list[Sample], roots: tuple[str, ...]) -> list[Sample]:
    """Put the paths of `samples` below the one of `roots` that holds most of the twenty or so looked for."""
    tried = [sample.path for sample in samples[:: len(samples) // 20 + 1]]
    found = [sum(os.path.isfile(os.path.join(folder, root, path)) for path in tried) for root in roots]  # noqa: PTH113, PTH118
    root = roots[found.index(max(found))]
    return [sample._replace(path=os.path.join(root, sample.path)) for sample in samples]  # noqa: PTH118


def whole(value: Any) -> int | None:
    """Convert a number (MATLAB's are floats) or decimal digits to an integer from 0; None for all else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else None
    is_number = isinstance(value, int | float)
    return int(value) if is_number and 0 <= value < 10**18 and value == int(value) else None


def quote(value: object) -> str:
    """Shorten a value to one line of a message."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 120 else f"{text[:100]}...{text[-15:]}"
