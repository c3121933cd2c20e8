"""Files that a user asked for are whole or not there, and what was there stays."""

from pathlib import Path

import pytest

from vision_peft.inference.make_files import check_absent, make_files


def test_files_are_put_in_place_together_readable_by_all(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with make_files(folder, ["one", "two"]) as made:
        (made / "one").write_text("1")
        (made / "two").write_text("2")
        (made / "two").chmod(0o600)
        assert not (folder / "one").exists()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"one": "1", "two": "2"}
    (tmp_path / "plain").touch()
    assert (folder / "two").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), make_files(tmp_path / "a" / "b", ["one", "two"]) as made:
        (made / "one").write_text("1")  # two was not made
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError), make_files(tmp_path, ["one", "two"]) as made:
        (made / "one").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    with pytest.raises(FileExistsError, match=r"already there: .*one; nothing was written, --overwrite replaces them"):
        check_absent(tmp_path, ["one"])
    with pytest.raises(FileExistsError), make_files(tmp_path, ["one"]):
        pass
    with make_files(tmp_path, ["one"], overwrite=True) as made:
        (made / "one").write_text("new")
    assert (tmp_path / "one").read_text() == "new"


def test_other_things_in_the_place_of_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder, wanted a file"):
        check_absent(tmp_path, ["folder"], overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, wanted a folder for x"):
        check_absent(tmp_path / "file", ["x"])
