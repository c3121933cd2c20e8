"""Measure how long reading a large tree of class folders, or lists of it, takes, beside torchvision's ImageFolder.

    python .ci/measure_reading.py FOLDER [--files 1200000] [--classes 1000]

Makes FOLDER/{train,val,test}/<class>/*.jpg of hard links to one small JPEG a class, and lists of them, unless they are
there; every measurement is a process of its own. Columns: seconds, those of computing, MB at the peak beyond those
before, and of readers the MB of 4 loader workers (sum of PSS) after an epoch over paths and labels, beyond those over
numbers.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARES = {"train": 0.95, "val": 0.025, "test": 0.025}
WORKERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1_200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--only", choices=MEASURED, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.only:
        print(json.dumps(measure(MEASURED[arguments.only], folder)))
        return
    make_tree(folder, arguments.files, arguments.classes)
    print(f"{arguments.files:,} files in {arguments.classes:,} classes; the first line fills the caches of the disk")
    print(f"{'':44} {'seconds':>8} {'CPU s':>8} {'peak MB':>8} {'workers MB':>10}")
    for name in ("torchvision", *MEASURED):
        command = [sys.executable, __file__, str(folder), "--only", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        workers = f"{found['workers_mb']:10.0f}" if found["workers_mb"] is not None else ""
        figures = f"{found['seconds']:8.1f} {found['cpu_s']:8.1f} {found['peak_mb']:8.0f} {workers}"
        print(f"{MEASURED[name].__doc__:44} {figures}", flush=True)


def make_tree(folder: Path, files: int, classes: int) -> None:
    """Make the tree and the lists."""
    from PIL import Image

    if folder.exists():
        return
    lists = {split: io.StringIO() for split in SHARES}
    for label in range(classes):
        original = folder / "originals" / f"{label}.jpg"
        original.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (label % 256, 0, 0)).save(original)
        for split, share in SHARES.items():
            below = f"{split}/n{label:08d}"
            (folder / below).mkdir(parents=True)
            for number in range(round(files / classes * share)):
                name = f"{below}/n{label:08d}_{number}.JPEG"
                os.link(original, f"{folder}/{name}")
                lists[split].write(f"{name} {label}\n")
    for split, text in lists.items():
        (folder / f"{split}.txt").write_text(text.getvalue())
    original = folder / "originals"
    original.rename(folder / ".originals")  # hidden, so that it is no class


def measure(read: Callable[[Path], Any], folder: Path) -> dict[str, float | None]:
    """Measure one reader; what it returns as a list are the items of its training split."""
    import torch  # noqa: F401  not part of what is measured
    import torchvision  # noqa: F401

    import vision_peft.data.datasets
    import vision_peft.data.loading.find_bad_files
    import vision_peft.runs.data_record  # noqa: F401

    prepared = PREPARED.get(read, lambda folder: folder)(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, start, computed = read_memory("VmRSS"), time.perf_counter(), time.process_time()
    items = read(prepared)
    seconds, computed = time.perf_counter() - start, time.process_time() - computed
    peak = read_memory("VmHWM") - before
    workers = None if items is None else measure_workers(items) - measure_workers(range(len(items)))
    return {"seconds": seconds, "cpu_s": computed, "peak_mb": peak, "workers_mb": workers}


def read_memory(what: str, file: str = "/proc/self/status") -> float:
    """Read a figure of a process in MB."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def measure_workers(items: Any) -> float:
    """Return the PSS in MB of 4 workers after an epoch over `items` in random order."""
    from torch.utils.data import DataLoader

    loader = DataLoader(items, 1024, shuffle=True, num_workers=WORKERS, persistent_workers=True, collate_fn=len)
    for _ in loader:
        pass
    iterator: Any = loader._iterator
    return sum(read_memory("Pss", f"/proc/{worker.pid}/smaps_rollup") for worker in iterator._workers)


class Labelled:
    """Paths and labels of a dataset of this package, as a dataset."""

    def __init__(self, dataset: Any) -> None:
        self.paths, self.labels = dataset.paths, dataset.labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[str, int]:
        return self.paths[item], self.labels[item]


def load_all(config: Any) -> dict[str, Any]:
    load = config.open_splits()
    return {split: load(split) for split in SHARES}


def read_torchvision(folder: Path) -> Any:
    """torchvision ImageFolder, three folders"""
    from torchvision.datasets import ImageFolder

    kept = [ImageFolder(str(folder / split)) for split in SHARES]
    return kept[0].samples


def read_folder(folder: Path) -> Any:
    """data=folder, three folders"""
    from vision_peft.data.datasets.folder import Folder

    return Labelled(load_all(Folder(root=str(folder)))["train"])


def read_drawn(folder: Path) -> Any:
    """data=folder, splits drawn by name"""
    from vision_peft.data.datasets.folder import Folder

    return Labelled(load_all(Folder(root=str(folder / "train")))["train"])


def read_lists(folder: Path) -> Any:
    """data=list, three lists"""
    from vision_peft.data.datasets.list import ImageLists

    lists = {split: f"{split}.txt" for split in SHARES}
    return Labelled(load_all(ImageLists(root=str(folder), **lists))["train"])


def open_folder(folder: Path) -> tuple[Any, dict[str, Any], Path]:
    from vision_peft.data.datasets.folder import Folder

    config = Folder(root=str(folder))
    return config, load_all(config), folder


def write_record(opened: tuple[Any, dict[str, Any], Path]) -> None:
    """data.json: sizes, digests, written"""
    from vision_peft.runs.data_record import DataRecord

    config, splits, folder = opened
    record = DataRecord(splits, config)
    record.write(folder / "data.json")


def look_at_files(opened: tuple[Any, dict[str, Any], Path]) -> None:
    """check_files=headers, before training"""
    from vision_peft.data.loading.find_bad_files import find_bad_files

    assert not any(find_bad_files(opened[1], []).values())


MEASURED = {
    "torchvision": read_torchvision,
    "folder": read_folder,
    "drawn": read_drawn,
    "lists": read_lists,
    "record": write_record,
    "files": look_at_files,
}
PREPARED = {write_record: open_folder, look_at_files: open_folder}  # what is not measured


if __name__ == "__main__":
    main()
