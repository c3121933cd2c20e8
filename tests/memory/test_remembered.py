"""What is remembered of batches that were too large: safe against damage, and against several writers."""

import json
import multiprocessing
from pathlib import Path

import pytest

from vision_peft.memory import remembered
from vision_peft.memory.remembered import FILE, memory_key, recall, remember


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISION_PEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FILE


def test_the_smallest_that_was_too_many_is_kept(cache: Path) -> None:
    assert recall("a") is None
    for items in (32, 8, 16):
        remember("a", items)
    remember("b", 4)
    assert (recall("a"), recall("b"), recall("c")) == (8, 4, None)
    assert sorted(path.name for path in cache.parent.iterdir()) == [FILE, f"{FILE}.lock"]
    assert memory_key("vit", 8) == memory_key("vit", 8) != memory_key("vit", 9)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": "many", "b": -1, "c": 1.5}', b"\xff\xfe", b" " * 300_000])
def test_a_damaged_file_holds_nothing_and_is_written_anew(cache: Path, damage: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(damage)
    assert recall("a") is None
    remember("a", 8)
    assert json.loads(cache.read_text()) == {"a": 8}


def test_old_entries_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 3)
    for key in "abcd":
        remember(key, 8)
    assert list(json.loads(cache.read_text())) == ["b", "c", "d"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VISION_PEFT_CACHE", str(tmp_path / "file"))
    remember("a", 8)
    assert recall("a") is None


def _write(name: str) -> None:
    for number in range(10):
        remember(f"{name}{number}", 8)


def test_several_writers_lose_nothing() -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(_write, "abc")
    assert all(recall(f"{name}{number}") == 8 for name in "abc" for number in range(10))
