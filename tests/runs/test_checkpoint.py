"""States: whole or not there, the newest whole one is found, the disk may be full."""

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from vision_peft.runs import checkpoint
from vision_peft.runs.checkpoint import SaveError, save_state, truncate_lines


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "tuned": {"w": torch.full((3,), float(step))},
        "best": None,
        "history": [{"epoch": 1, "a": 0.5}],
    }


def newest_state(folder: Path) -> dict[str, Any] | None:
    found = checkpoint.newest_state(folder)
    return None if found is None else found[0]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(tmp_path, 3, state(3))
    loaded = newest_state(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.pop("tuned")["w"], torch.full((3,), 3.0))
    assert loaded == {"step": 3, "best": None, "history": [{"epoch": 1, "a": 0.5}]}
    assert (tmp_path / "latest").read_text() == "step_3"


def test_the_last_two_are_kept_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save_state(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_10", "step_100"]
    assert (newest_state(tmp_path) or {})["step"] == 100


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    save_state(tmp_path, 3, state(3))
    save_state(tmp_path, 3, {**state(3), "best": "new"})
    assert (newest_state(tmp_path) or {})["best"] == "new"


def test_no_state_is_none(tmp_path: Path) -> None:
    assert newest_state(tmp_path) is None
    assert newest_state(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no checksum", "no file", "pickle"])
def test_a_damaged_newest_state_is_skipped_with_a_warning(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, 1, state(1))
    newest = save_state(tmp_path, 2, state(2))
    file, checksum = newest / "state.pt", newest / "sha256"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-100])
    elif damage == "flipped":
        file.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "no checksum":
        checksum.unlink()
    elif damage == "no file":
        file.unlink()
    else:
        file.write_bytes(pickle.dumps(Path("somewhere")))
        checksum.write_text(checkpoint._sha256(file))
    with pytest.warns(UserWarning, match=r"step_2 is damaged .*: trying the previous one"):
        loaded = newest_state(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder = save_state(tmp_path / "state", 1, state(1))
    torch.save({"evil": Touch()}, folder / "state.pt")
    (folder / "sha256").write_text(checkpoint._sha256(folder / "state.pt"))
    with pytest.warns(UserWarning, match="damaged"):
        assert newest_state(tmp_path / "state") is None
    assert not (tmp_path / "ran").exists()


def test_what_an_interrupted_save_left_is_no_state_and_is_cleaned_up(tmp_path: Path) -> None:
    save_state(tmp_path, 1, state(1))
    (tmp_path / "step_2.tmp").mkdir()
    torch.save(state(2), tmp_path / "step_2.tmp" / "state.pt")
    (tmp_path / "latest.tmp").write_text("step_2")
    assert (newest_state(tmp_path) or {})["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_1"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at x]")]
)
def test_a_full_disk_keeps_the_state_before_and_leaves_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save_state(tmp_path, 1, state(1))

    def fail(_: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        SaveError, match=r"could not write .*step_2: .*; \d+ bytes were free; older states are kept"
    ) as caught:
        save_state(tmp_path, 2, state(2))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_1"]
    assert (newest_state(tmp_path) or {})["step"] == 1


def test_lines_after_the_resumed_state_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_lines(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    truncate_lines(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()
