"""Lines that a full disk refuses wait in memory and are never written in part."""

import errno
from pathlib import Path
from typing import Any

import pytest

from vision_peft.runs.append_log import Journal


class SmallDisk:
    """A file on a disk of `size` bytes, of which the last write takes what fits."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size = file, size

    def write(self, content: Any) -> int:
        room = self.size - self.file.seek(0, 2)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content[:room])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_lines_are_in_the_file_as_soon_as_they_are_added(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("earlier\n")
    journal = Journal(tmp_path / "log.txt")
    journal.add("élan\n")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "earlier\nélan\n"
    journal.close()


def test_a_full_disk_holds_whole_lines_only_and_gets_the_others_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "log.txt")
    disk = SmallDisk(journal._file, size=10)
    monkeypatch.setattr(journal, "_file", disk)
    for line in ("first\n", "second\n", "third\n"):
        journal.add(line)
    assert (tmp_path / "log.txt").read_text() == "first\n"
    with pytest.raises(OSError, match="No space left on device"):
        journal.write_out()
    disk.size = 100
    journal.write_out()
    journal.add("fourth\n")
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\nthird\nfourth\n"
    journal.close()
