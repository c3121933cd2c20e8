"""Everything below a folder is listed once, whatever links lead to it."""

from pathlib import Path

import pytest

from vision_peft.data.annotations.walk_folders import Tree, is_hidden, walk_folder


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_folders_and_what_is_behind_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "b/x.png", root / "a.png", root / ".hidden/y", tmp_path / "far/deep/z.png")
    (root / "c").symlink_to(tmp_path / "far")
    (root / "d.png").symlink_to(tmp_path / "nowhere")
    wanted = Tree([".hidden/y", "a.png", "b/x.png", "d.png"], ["c/deep/z.png"], [".hidden", "b", "c", "c/deep"], ["c"])
    assert walk_folder(root) == wanted
    (tmp_path / "again").symlink_to(root)
    assert walk_folder(tmp_path / "again") == wanted
    assert [name for name in wanted.files if is_hidden(name)] == [".hidden/y"]
    assert is_hidden("b/.y")


def test_a_folder_that_several_links_lead_to_is_listed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "b/x.png", tmp_path / "far/deep/z.png")
    (root / "again").symlink_to(root / "b")
    (root / "c").symlink_to(tmp_path / "far")
    (root / "d").symlink_to(tmp_path / "far")
    (root / "e").symlink_to(tmp_path / "far/deep")
    (tmp_path / "far/back").symlink_to(root / "b")
    tree = walk_folder(root)
    assert (tree.files, tree.linked) == (["b/x.png"], ["c/deep/z.png"])
    assert tree.links == ["again", "c", "c/back", "d", "e"]


def test_a_link_to_a_folder_that_it_is_in_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "root/b/x.png", tmp_path / "other.png")
    (tmp_path / "root/b/up").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match=r"root/b/up: a link to a folder that it is in; what is there is not read"):
        assert walk_folder(tmp_path / "root")[:2] == (["b/x.png"], [])
