"""Rows come back from memory and from files as they were written; a file leaves nothing behind."""

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from vision_peft.data.loading.kept_rows import LEFT_FREE, RowsInFile, RowsInMemory, create_file

Usage = namedtuple("Usage", "total used free")


def rows(kind: str, folder: Path, items: int, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    if kind == "memory":
        return RowsInMemory(items, shape, dtype)
    return RowsInFile(create_file(folder, 1000), items, shape, dtype)


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_rows_come_back_as_written(tmp_path: Path, kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.randn(7, *shape).to(dtype)
    kept = rows(kind, tmp_path, 7, shape, dtype)
    for items in ([5, 1, 2], [], [0, 6], [3, 4]):
        kept.write(torch.tensor(items, dtype=torch.int64), values[items])
    whole = kept.finish()
    assert (whole.shape, whole.dtype) == (values.shape, dtype)
    assert torch.equal(whole, values)
    kept.close()
    assert torch.equal(whole[[6, 2]], values[[6, 2]])  # as long as the tensor is there
    assert list(tmp_path.iterdir()) == []


def test_rows_that_lie_otherwise_in_memory_are_written_in_order(tmp_path: Path) -> None:
    values = torch.randn(4, 3, 2).transpose(1, 2)
    kept = rows("file", tmp_path, 4, (2, 3), torch.float32)
    kept.write(torch.arange(4), values)
    assert torch.equal(kept.finish(), values)


def test_a_row_that_the_system_takes_in_parts_is_written_whole(tmp_path: Path) -> None:
    kept, values = rows("file", tmp_path, 2, (50,), torch.float32), torch.randn(2, 50)
    real = kept._file

    class InParts:
        def write(self, data: Any) -> int:
            return real.write(data[:70])

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    kept._file = InParts()
    kept.write(torch.arange(2), values)
    assert torch.equal(kept.finish(), values)


def test_a_second_reader_of_a_file_without_a_name_sees_what_the_first_writes(tmp_path: Path) -> None:
    path = create_file(tmp_path, 24)
    first, second = (RowsInFile(path, 3, (2,), torch.float32) for _ in range(2))
    first.take_out_of_folder()
    second.take_out_of_folder()
    if os.name == "posix":
        assert not path.exists()
    values = torch.randn(3, 2)
    first.write(torch.arange(3), values)
    assert torch.equal(second.finish(), values)


def test_a_change_of_what_was_read_does_not_reach_the_file(tmp_path: Path) -> None:
    kept = rows("file", tmp_path, 2, (3,), torch.float32)
    kept.write(torch.arange(2), torch.ones(2, 3))
    kept.finish().zero_()
    assert torch.equal(kept.finish(), torch.ones(2, 3))


@pytest.mark.parametrize(("free", "fits"), [(LEFT_FREE + 999, False), (LEFT_FREE + 1000, True)])
def test_no_file_is_made_where_the_disk_would_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    if fits:
        create_file(tmp_path, 1000)
    else:
        with pytest.raises(OSError, match=r"0 MB would leave too little of the 268 MB that .* has free"):
            create_file(tmp_path, 1000)
    assert len(list(tmp_path.iterdir())) == fits
