"""Files are written whole or not at all, and what lies in their place is neither followed nor waited for."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vision_peft.safe_files import (
    check_folder,
    check_regular,
    open_to_append,
    read_file,
    replacing,
    write_file,
    write_together,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, links and sockets are those of POSIX")


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


TRAPS: dict[str, Callable[[Path], None]] = {
    "a link": lambda path: path.symlink_to("precious"),
    "a pipe": os.mkfifo,
    "a socket": listen,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    (tmp_path / "precious").write_text("precious")
    return Path("file")


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize("name", ["file", "file.tmp"])
def test_what_lies_in_the_way_is_replaced_and_not_followed(place: Path, kind: str, name: str) -> None:
    TRAPS[kind](Path(name))
    write_file(place, "new")
    write_together(Path(), {"file": b"newer", "other": b"2"})
    assert (place.read_text(), place.is_symlink()) == ("newer", False)
    assert Path("precious").read_text() == "precious"
    assert sorted(path.name for path in Path().iterdir()) == ["file", "other", "precious"]


def test_a_link_that_comes_back_while_its_place_is_taken_is_not_followed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_in_vain(self: Path, missing_ok: bool = False) -> None:
        if not self.is_symlink():
            self.symlink_to("precious")

    monkeypatch.setattr(Path, "unlink", remove_in_vain)
    with pytest.raises(FileExistsError):
        write_file(place, "new")
    assert Path("precious").read_text() == "precious"


@pytest.mark.parametrize("kind", TRAPS)
def test_nothing_is_appended_to_what_is_no_file(place: Path, kind: str) -> None:
    TRAPS[kind](place)
    with pytest.raises((ValueError, OSError), match="file"):
        open_to_append(place)
    assert Path("precious").read_text() == "precious"


def test_a_pipe_that_someone_reads_is_no_file_either(place: Path) -> None:
    os.mkfifo(place)
    reader = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ValueError, match="file is a pipe, wanted a file"):
        open_to_append(place)
    os.close(reader)


def test_the_other_name_of_a_file_does_not_grow(place: Path) -> None:
    os.link("precious", place)
    with pytest.raises(ValueError, match="file is a hard link"):
        open_to_append(place)
    write_file(place, "new")
    assert Path("precious").read_text() == "precious"


def test_a_pipe_is_not_read_but_a_link_to_a_file_is(place: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="pipe is a pipe, wanted a file"):
        read_file(Path("pipe"), 100)
    with pytest.raises(ValueError, match="/dev/zero is a device"):
        read_file(Path("/dev/zero"), 100)
    place.symlink_to("precious")
    assert read_file(place, 8) == b"precious"
    with pytest.raises(ValueError, match="file has 8 bytes, wanted at most 7"):
        read_file(place, 7)


def test_a_link_is_regular_only_where_it_is_followed(place: Path) -> None:
    place.symlink_to("precious")
    check_regular(place)
    check_regular(Path("nothing"), follow=False)
    with pytest.raises(ValueError, match="file is a link, wanted a file"):
        check_regular(place, follow=False)


def test_a_writer_that_fails_leaves_the_old_file_alone(place: Path) -> None:
    place.write_text("old")

    def fail() -> None:
        with replacing(place) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert place.read_text() == "old"
    assert not Path("file.tmp").exists()


def test_files_that_belong_together_are_all_on_the_disk_before_the_first_is_renamed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = Path.replace

    def note(self: Path, target: Path) -> Path:
        seen.append(sorted(path.read_text() for path in Path().glob("*.tmp")))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", note)
    write_together(Path(), {"file": b"1", "other": b"2"})
    assert seen == [["1", "2"], ["2"]]


@pytest.mark.parametrize("kind", TRAPS)
def test_a_walk_names_what_is_neither_file_nor_folder(tmp_path: Path, place: Path, kind: str) -> None:
    Path("a/b/c").mkdir(parents=True)
    Path("a/file").write_text("")
    check_folder(Path())
    TRAPS[kind](Path("a/b/c/trap"))
    with pytest.raises(ValueError, match=rf"trap is {kind}: only files and folders belong there, remove it"):
        check_folder(tmp_path)


def test_a_folder_of_which_nothing_is_opened_is_left_out_but_must_be_one(place: Path) -> None:
    Path("tool").mkdir()
    Path("tool/latest").symlink_to("/etc")
    check_folder(Path(), unread=("tool",))
    with pytest.raises(ValueError, match="latest is a link"):
        check_folder(Path())
    Path("inner").mkdir()
    Path("tool").rename("inner/tool")
    with pytest.raises(ValueError, match="latest is a link"):
        check_folder(Path(), unread=("tool",))
    Path("away").symlink_to("/etc")
    with pytest.raises(ValueError, match="away is a link"):
        check_folder(Path(), unread=("inner", "away"))
