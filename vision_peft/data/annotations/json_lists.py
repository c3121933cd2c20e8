"""Read lists in JSON: what each image is labelled with, one label, several, or numbers.

Four forms are read:

    [{"path": "a.jpg", "labels": ["sea", "sunset"]}, ...]           or "label": "sea", "value": 2.5, "values": [1, 2]
    {"a.jpg": ["sea", "sunset"], ...}                               or a label, a number, {"sea": 1, "trees": 0}
    {"images": [...], "annotations": [...], "categories": [...]}    as COCO has it; an image has those of its boxes
    [{"annotation": {"filename": ..., "object": [{"name": ...}]}}]  as VOC has it, in JSON

Line numbers in messages are those of the entries, from 1.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vision_peft.data.annotations.list_lines import (
    LABEL_WORDS,
    PATH_WORDS,
    TARGET_END,
    ListForm,
    ListLines,
    build_lines,
)
from vision_peft.data.annotations.split_names import SPLIT_WORDS
from vision_peft.data.problems import quote
from vision_peft.printable import printable
from vision_peft.safe_files import read_file
from vision_peft.strict_json import parse_json

MAX_JSON = 2**28  # bytes; as Python objects it takes about ten times as much
_COCO = ("images", "annotations", "categories")
Entry = tuple[int, str, str]  # number, path, label


def read_json_lines(file: Path, problems: list[str], form: ListForm) -> ListLines:
    """Read the entries of a list in JSON, unchecked; malformed ones are appended to `problems`."""
    try:
        values = parse_json(read_file(file, MAX_JSON))
    except ValueError as error:  # UnicodeDecodeError is one
        problems.append(f"{file}: not a list in JSON: {printable(error, 200)}")
        values = []
    columns = form.target if len(form.target) > 1 else ()
    return build_lines(_read(file, values, problems, form), _count_parts(values, form), lambda: columns)


def _count_parts(values: Any, form: ListForm) -> Mapping[str, int]:
    """Count the entries by what they have under the first key that names splits."""
    entries = [entry for entry in values if isinstance(entry, dict)] if isinstance(values, list) else []
    word = next((word for word in SPLIT_WORDS if any(word in entry for entry in entries)), None)
    if word in form.target:
        return {}
    return Counter(part for entry in entries if isinstance(part := entry.get(word), str))


def _read(file: Path, values: Any, problems: list[str], form: ListForm) -> Iterator[Entry]:
    if isinstance(values, dict) and all(isinstance(values.get(key), list) for key in _COCO):
        yield from _read_coco(file, values, problems)
    elif isinstance(values, dict):
        for number, (path, label) in enumerate(values.items(), start=1):
            text = _to_text(label)
            if path and text is not None:
                yield number, path, text
            else:
                problems.append(f"{file}:{number}: wanted labels of {quote(path)}, got {_show(label)}")
    elif isinstance(values, list):
        for number, entry in enumerate(values, start=1):
            found = _read_entry(entry, form)
            if isinstance(found, str):
                problems.append(f"{file}:{number}: {found}")
            else:
                yield number, *found
    else:
        problems.append(f"{file}: wanted a list of entries or an object, got {_show(values)}")


def _read_entry(entry: Any, form: ListForm) -> tuple[str, str] | str:
    """Return path and label of one entry, or what is wrong with it."""
    if not isinstance(entry, dict):
        return f'wanted an object such as {{"path": ..., "labels": [...]}}, got {_show(entry)}'
    if isinstance(voc := entry.get("annotation"), dict):
        objects = voc.get("object", [])
        names = (
            [each.get("name") for each in objects if isinstance(each, dict)] if isinstance(objects, list) else [None]
        )
        entry = {"path": voc.get("filename"), "labels": names}
    path = next((entry[word] for word in PATH_WORDS if word in entry), None)
    if not isinstance(path, str) or not path:
        return f"wanted a path (path, file_name, image, ...), got {_show(entry)}"
    if absent := [name for name in form.target if name not in entry]:
        return f"data.target={absent[0]}: there is no such key in {_show(entry)}"
    if len(form.target) > 1:
        cells = [_to_text(entry[name]) for name in form.target]
        return (
            (path, "".join(cell + TARGET_END for cell in cells if cell is not None))
            if None not in cells
            else (f"wanted a number or a word for each of {', '.join(form.target)}, got {_show(entry)}")
        )
    word = next((word for word in form.target or LABEL_WORDS if word in entry), None)
    text = None if word is None else _to_text(entry[word])
    return (path, text) if text is not None else f"wanted labels (labels, label, value, ...), got {_show(entry)}"


def _read_coco(file: Path, values: Mapping[str, list[Any]], problems: list[str]) -> Iterator[Entry]:
    names = {each["id"]: each["name"] for each in values["categories"] if _has(each, id=int, name=str)}
    labels: dict[int, dict[str, None]] = {}
    paths: dict[int, str] = {}
    for number, image in enumerate(values["images"], start=1):
        if not _has(image, id=int, file_name=str):
            problems.append(f"{file}: images[{number}]: wanted id and file_name, got {_show(image)}")
        elif paths.setdefault(image["id"], image["file_name"]) != image["file_name"]:
            problems.append(f"{file}: images[{number}]: id {image['id']} is that of another image too")
    for number, each in enumerate(values["annotations"], start=1):
        if not _has(each, image_id=int, category_id=int):
            problems.append(f"{file}: annotations[{number}]: wanted image_id and category_id, got {_show(each)}")
        elif each["image_id"] not in paths:
            problems.append(f"{file}: annotations[{number}]: there is no image with the id {each['image_id']}")
        elif each["category_id"] not in names:
            problems.append(f"{file}: annotations[{number}]: there is no category with the id {each['category_id']}")
        else:
            labels.setdefault(each["image_id"], {})[names[each["category_id"]]] = None
    for number, (image, path) in enumerate(paths.items(), start=1):
        yield number, path, _join(sorted(labels.get(image, ())))


def _to_text(label: Any) -> str | None:
    """Return labels as a text, several with `TARGET_END` behind each; None where they are none."""
    if isinstance(label, str):
        return label.strip() if TARGET_END not in label else None
    if isinstance(label, dict):
        flags = [*label.values()]
        return _join([name for name in label if label[name]]) if all(flag in (0, 1) for flag in flags) else None
    if isinstance(label, list):
        cells = [_to_text(cell) if isinstance(cell, str | int | float) else None for cell in label]
        return None if None in cells or "" in cells else _join([cell for cell in cells if cell is not None])
    if isinstance(label, bool):
        return str(int(label))
    return str(label) if isinstance(label, int | float) else None


def _join(cells: list[str]) -> str:
    return "".join(cell + TARGET_END for cell in cells)


def _has(entry: Any, **kinds: type) -> bool:
    return isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in kinds.items())


def _show(value: Any) -> str:
    return printable(value, 80)
