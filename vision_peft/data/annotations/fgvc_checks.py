"""Check what the metadata of a fine-grained dataset say: classes, gaps between them, images listed twice."""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from vision_peft.data.annotations.fgvc_lists import Archive, Sample, quote


def check_classes(
    folder: Path, archive: Archive, class_ids: Sequence[int], expected: int | None, problems: list[str]
) -> None:
    """Append classes that are out of range, have no image in train, or are not as many as `expected`."""
    known = set(class_ids)
    bottom, top = (1, expected or 10**18) if archive.from_one else (0, 10**18)
    for part, samples in archive.parts.items():
        if not samples:
            problems.append(f"{folder}: no image of {part}")
        for sample in samples:
            if not bottom <= sample.class_id <= top:
                wanted = f"1 to {expected}" if expected else "1 or more"
                problems.append(f"{sample.where}: class id {sample.class_id} is out of range: wanted {wanted}")
            elif known and sample.class_id not in known:
                problems.append(f"{sample.where}: class id {sample.class_id} of {part} has no image in train")
    if expected and known and len(known) != expected:
        empty = f" (none of class id {gaps})" if (gaps := list_gaps(archive, class_ids, expected)) else ""
        problems.append(f"{folder}: {len(known)} classes have images in train, wanted {expected}{empty}")


def list_gaps(archive: Archive, class_ids: Sequence[int], expected: int | None) -> str:
    """List the class ids that train lacks, as far as the metadata show; NABirds has gaps by design."""
    if archive.names:
        ids: Iterable[int] = sorted(archive.names) if len(archive.names) == expected else ()
    else:
        first = 1 if archive.from_one else class_ids[0]
        ids = range(first, first + expected if expected else class_ids[-1] + 1)
    known = set(class_ids)
    gaps = [str(class_id) for class_id in itertools.islice((k for k in ids if k not in known), 11)]
    return ", ".join(gaps[:10]) + " and more" * (len(gaps) > 10)


def check_repeated(parts: Mapping[str, Sequence[Sample]], problems: list[str]) -> None:
    """Append images that are listed twice, in one part or in two."""
    first: dict[str, tuple[str, Sample]] = {}
    for part, samples in parts.items():
        for sample in samples:
            earlier_part, earlier = first.setdefault(os.path.normpath(sample.path), (part, sample))
            if earlier is not sample:
                overlap = "" if part == earlier_part else f": {earlier_part} and {part} overlap"
                problems.append(f"{sample.where}: image {quote(sample.path)} is also in {earlier.where}{overlap}")


def name_classes(class_ids: Sequence[int], archive: Archive) -> list[str]:
    """Name classes as the archive does, else after the class folders if each has one of its own, else by their ids."""
    folders: dict[int, set[str]] = {class_id: set() for class_id in class_ids}
    for sample in archive.parts["train"]:
        folders[sample.class_id].add(PurePath(sample.path).parent.name)
    own = {class_id: min(names) for class_id, names in folders.items() if len(names) == 1}
    of_folder = own if len(set(own.values())) == len(class_ids) else {}
    names = {class_id: (archive.names or of_folder).get(class_id, str(class_id)) for class_id in class_ids}
    times = Counter(names.values())
    return [name if times[name] == 1 else f"{name} [{class_id}]" for class_id, name in names.items()]
