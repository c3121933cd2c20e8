"""What is said of a path in a list that is not there: which folder was searched, and how to write a path of Windows."""

from pathlib import Path

import pytest

from vision_peft.data.annotations.path_check import PathCheck
from vision_peft.data.annotations.video_paths import VideoCheck
from vision_peft.data.root import find_root

ON_WINDOWS = "on Windows \\ is as good as /"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("kind", [PathCheck, VideoCheck])
def test_a_folder_that_is_not_there_is_named_with_where_it_was_looked_for(root: Path, kind: type[PathCheck]) -> None:
    found = kind(root).find_problem("photos/cats/0.jpg")
    assert found == f"{kind.what} 'photos/cats/0.jpg' is missing: there is no folder 'photos/cats' in {root}"


def test_a_file_alone_is_missing_where_its_folder_is_there(root: Path) -> None:
    assert PathCheck(root).find_problem("images/1.jpg") == "image 'images/1.jpg' is missing"
    assert PathCheck(root).find_problem("1.jpg") == "image '1.jpg' is missing"
    assert PathCheck(root).find_problem("images/0.jpg") is None


@pytest.mark.skipif(str(Path("a/b")) != "a/b", reason=ON_WINDOWS)
@pytest.mark.parametrize("path", ["images\\0.jpg", "C:\\photos\\0.jpg"])
def test_a_path_of_windows_is_answered_with_how_to_write_it(root: Path, path: str) -> None:
    wanted = f"image {path!r} is missing: write / in place of \\ in paths, which are looked for in {root}"
    assert PathCheck(root).find_problem(path) == wanted


@pytest.mark.skipif(str(Path("a/b")) != "a/b", reason=ON_WINDOWS)
def test_a_file_whose_name_has_a_backslash_is_itself(root: Path) -> None:
    (root / "images\\1.jpg").write_bytes(b"x")
    assert PathCheck(root).find_problem("images\\1.jpg") is None


@pytest.mark.skipif(str(Path("a/b")) != "a/b", reason=ON_WINDOWS)
def test_a_root_of_windows_is_answered_with_how_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"^data\.root=C:\\Users\\me\\photos is not a folder: .*; write / in place"
    ):
        find_root("C:\\Users\\me\\photos", "folder")
