"""How many bytes an item of the data takes where it is stored, however many files it lies in."""

import os
import stat

from vision_peft.data import ImageDataset
from vision_peft.data.decoding.frame_folders import list_frames
from vision_peft.data.decoding.video_dataset import VideoFiles


def measure_item(dataset: ImageDataset, item: int) -> int | None:
    """Return the bytes of all files of an item, of a folder those of the frames that were announced; None: no file."""
    try:
        if isinstance(dataset, VideoFiles) and dataset.frame_counts is not None:
            source = dataset.source_of(item)
            return _measure_frames(dataset.paths[source], dataset.frame_counts[source])
        stored = dataset.stored_size(item)
    except OSError:
        return None
    return measure_file(dataset, item) if stored is None else stored


def measure_file(dataset: ImageDataset, item: int) -> int | None:
    """Return the bytes of the file that an item is named after, as data.json of version 1 has them; None: none."""
    if (file := dataset.file(item)) is None:
        return dataset.stored_size(item)
    try:
        status = os.stat(file)  # noqa: PTH116  a Path a file would take longer than the question
    except OSError:
        return None
    return None if stat.S_ISDIR(status.st_mode) else status.st_size


def has_several_files(dataset: ImageDataset) -> bool:
    """Whether an item may be measured otherwise than by the file that it is named after."""
    if isinstance(dataset, VideoFiles):
        return dataset.frame_counts is not None
    return bool(len(dataset)) and dataset.file(0) is not None and dataset.stored_size(0) is not None


def _measure_frames(folder: str, count: int) -> int:
    paths = (os.path.join(folder, name) for name in list_frames(folder)[:count])  # noqa: PTH118
    return sum(os.stat(path).st_size for path in paths)  # noqa: PTH116
