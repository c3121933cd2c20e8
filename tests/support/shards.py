"""Small tar shards in WebDataset's layout."""

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Files = Callable[[int], Mapping[str, bytes]]  # of the sample with a number, by extension


def png(grey: int, width: int = 12) -> bytes:
    """A picture of one grey, `width` x 10 pixels."""
    content = io.BytesIO()
    Image.fromarray(np.full((10, width, 3), grey, np.uint8)).save(content, "PNG")
    return content.getvalue()


def write_shard(
    path: Path,
    numbers: Iterable[int],
    labels: Files = lambda number: {"cls": str(number % 3).encode()},
    files: Files | None = None,
    damaged: Sequence[int] = (),
) -> Path:
    """Write a shard whose samples are pictures of their number, with what `labels` gives; or all files by `files`."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            picture = png(number)[:50] if number in damaged else png(number)
            for extension, content in (files(number) if files else {"png": picture, **labels(number)}).items():
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def write_shards(root: Path) -> None:
    """Write three shards of train, one of val and one of test, four samples each, numbered through."""
    names = [*(f"train-{number:03d}" for number in range(3)), "val-000", "test-000"]
    for place, name in enumerate(names):
        write_shard(root / f"{name}.tar", range(4 * place, 4 * place + 4))
