"""`~` is the home folder, and a user that is not there is no traceback."""

from pathlib import Path

import pytest

from vision_peft.data.datasets.list import ImageLists
from vision_peft.data.root import find_root
from vision_peft.home_paths import expand_home
from vision_peft.inference.find_inputs import find_inputs

NOBODY = "~there-is-no-such-user"


def test_the_home_folder_takes_the_place_of_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [expand_home(path) for path in ("~", "~/a", Path("~/a"))] == [
        Path("/home/me"),
        Path("/home/me/a"),
        Path("/home/me/a"),
    ]
    assert [str(expand_home(path)) for path in ("a~", "/a/~", NOBODY, f"{NOBODY}/a")] == [
        "a~",
        "/a/~",
        NOBODY,
        f"{NOBODY}/a",
    ]


def test_a_user_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data\.root=~there.* is not a folder: .*; there is no user there-is"):
        find_root(f"{NOBODY}/data", "folder")
    assert ImageLists(root=f"{NOBODY}/data", train="train.csv").base() == tmp_path / NOBODY / "data"
    with pytest.raises(FileNotFoundError, match=f"data.train={NOBODY}: there is no file"):
        ImageLists(root=str(tmp_path), train=NOBODY).open_splits()
    assert [*find_inputs([f"{NOBODY}/a.png"], False, ()).absent] == [f"{NOBODY}/a.png"]
    (tmp_path / "~$draft.png").write_bytes(b"-")
    assert find_inputs(["~$draft.png"], False, ()).paths == ["~$draft.png"]


def test_the_package_expands_it_in_no_other_way(repository: Path) -> None:
    package = repository / "vision_peft"
    ways = [path.relative_to(package) for path in package.rglob("*.py") if "expanduser(" in path.read_text("utf-8")]
    assert [str(path) for path in ways] == ["home_paths.py"]
