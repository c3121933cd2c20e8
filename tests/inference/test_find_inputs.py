"""Files, folders, patterns, lists and stdin become paths, in order, with the classes that are known."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.video_files import write_video

from vision_peft.data.problems import DataProblems
from vision_peft.inference.find_inputs import Inputs, find_inputs

CLASSES = ["cat", "dog", "Ærø"]
Find = Callable[..., Inputs]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of class folders beside loose files, which is the current one."""
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    for name in ("photos/cat/1.png", "photos/cat/more/2.jpg", "photos/dog/3.png", "photos/4.png", "5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "photos" / "notes.md").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*words: str, clips: bool = False, stdin: tuple[str, ...] = ()) -> Inputs:
    return find_inputs(words, clips, CLASSES, stdin)


def test_a_folder_is_read_at_any_depth_and_the_innermost_folder_named_as_a_class_counts(tree: Path) -> None:
    found = find("photos", "5.png")
    names = ["photos/4.png", "photos/cat/1.png", "photos/cat/more/2.jpg", "photos/dog/3.png", "5.png"]
    assert (found.paths, found.labels) == (names, [None, 0, 0, 1, None])
    assert dict(found.left_out) == {".md": 1}
    assert find("photos/dog").labels == [1], "the folder itself is named as a class"
    assert find("photos/dog/3.png").labels == [1]


def test_patterns_are_sorted_and_one_that_fits_nothing_is_absent(tree: Path) -> None:
    found = find("photos/**/*.png", "*.gif")
    assert found.paths == ["photos/4.png", "photos/cat/1.png", "photos/dog/3.png"]
    assert found.absent == {"*.gif": "no file matches this pattern"}
    (tree / "a[1].png").write_bytes((tree / "5.png").read_bytes())
    assert find("a[1].png").paths == ["a[1].png"], "a file whose name looks like a pattern"


def test_a_list_has_labels_by_number_or_by_name_and_paths_from_its_folder_or_from_here(tree: Path) -> None:
    (tree / "photos" / "list.txt").write_text("cat/1.png 1\ndog/3.png 2\n5.png 0\n")
    found = find("photos/list.txt")
    assert (found.paths, found.labels) == (["photos/cat/1.png", "photos/dog/3.png", "5.png"], [1, 2, 0])
    (tree / "list.csv").write_text("filename,class\nphotos/cat/1.png,Ærø\nnowhere.png,dog\n")
    found = find("list.csv")
    assert (found.paths, found.labels) == (["photos/cat/1.png"], [2])
    assert found.absent == {"nowhere.png": "there is no such file, list.csv names it"}


def test_a_list_of_paths_alone_is_taken_as_stdin_is(tree: Path) -> None:
    (tree / "a b.png").write_bytes((tree / "5.png").read_bytes())
    (tree / "list.txt").write_text("a b.png\n5.png\nphotos/dog/3.png\n")
    found = find("list.txt")
    assert (found.paths, found.labels) == (["a b.png", "5.png", "photos/dog/3.png"], [None, None, 1])
    (tree / "list.csv").write_text("path\n5.png\n")
    assert find("list.csv").paths == ["5.png"]
    found = find("-", "5.png", stdin=("a b.png\n", "\n", "gone.png\n"))
    assert (found.paths, found.absent) == (["a b.png", "5.png"], {"gone.png": "there is no such file"})


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("empty.txt", b"", "empty.txt: the file is empty"),
        ("blank.csv", b" \n\n\t\n", "blank.csv: the file is empty"),
        ("latin.txt", b"\xe6.png\n", "latin.txt: not UTF-8 text (invalid continuation byte at byte 0)"),
        ("head.csv", b"path\n", "head.csv: no line names a file: wanted a path, or a path and a label, a line"),
    ],
)
@pytest.mark.parametrize("classes", [CLASSES, None, ()], ids=["known", "any", "none"])
def test_a_list_that_names_nothing_is_an_error_of_its_own(
    tree: Path, name: str, text: bytes, problem: str, classes: Sequence[str] | None
) -> None:
    (tree / name).write_bytes(text)
    with pytest.raises(DataProblems) as caught:
        find_inputs(["photos", name], False, classes)
    assert caught.value.problems == [problem]


def test_labels_that_are_no_class_are_named_all_at_once(tree: Path) -> None:
    (tree / "list.txt").write_text("5.png dgo\nphotos/4.png 7\nphotos/cat/1.png cat\nmalformed\n")
    with pytest.raises(ValueError, match="3 problems") as caught:
        find("list.txt")
    text = str(caught.value)
    assert "list.txt: 'dgo' is not one of the 3 classes (did you mean dog?)" in text
    assert "list.txt: '7' is not one of the 3 classes" in text
    assert "list.txt:4: wanted '<path> <label>', got 'malformed'" in text


def test_a_file_of_unknown_kind_is_an_input_when_it_is_named_and_not_when_its_folder_is(tree: Path) -> None:
    assert find("photos/notes.md").paths == ["photos/notes.md"]
    assert "photos/notes.md" not in find("photos").paths
    (tree / "photos" / "broken.png").symlink_to("nothing")
    found = find("photos")
    assert found.absent == {"photos/broken.png": "a broken link, or not a regular file"}


def test_for_a_model_of_clips_videos_are_found_and_folders_of_frames_are_videos(tree: Path) -> None:
    write_video(tree / "films" / "dog" / "a.mp4", frames=2)
    found = find("films", "photos", clips=True)
    assert found.paths == ["films/dog/a.mp4", "photos", "photos/cat", "photos/cat/more", "photos/dog"]
    assert found.labels == [1, None, None, 0, None], "a folder of frames is no class of its own"


def test_what_is_done_already_is_left_out(tree: Path) -> None:
    found = find("photos")
    assert found.leave_out(["photos/cat/1.png", "elsewhere.png"]) == 1
    assert (found.paths[:2], found.labels[:2]) == (["photos/4.png", "photos/cat/more/2.jpg"], [None, 0])


def test_without_classes_they_are_the_names_that_occur(tree: Path) -> None:
    (tree / "list.csv").write_text("path,label,coarse\nphotos/cat/1.png,7,x\n5.png,dog,x\nphotos/4.png,7,y\n")
    found = find_inputs(["photos", "5.png", "list.csv", "photos/cat/*.png"], False, None)
    assert found.classes == ["cat", "dog", "7"]
    labels = {
        path: found.classes[label]
        for path, label in zip(found.paths[:4], found.labels, strict=False)
        if label is not None
    }
    assert labels == {"photos/cat/1.png": "cat", "photos/cat/more/2.jpg": "cat", "photos/dog/3.png": "dog"}
    assert found.labels[4:] == [None, 2, 1, 2, None], "a file or a pattern alone tells no class"


def test_frame_folders_behind_links_are_videos_and_other_images_are_counted(tmp_path: Path) -> None:
    for name in ("data/a/0.png", "data/a/1.png", "far/deep/0.png", "data/mixed/0.png", "data/mixed/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "deep" / "up").symlink_to(tmp_path / "far")
    found = find_inputs([str(tmp_path / "data")], True, ())
    below = [str(tmp_path / "data" / name) for name in ("a", "b/deep", "mixed/x.mp4")]
    assert found.paths == below
    assert dict(found.left_out) == {".png": 1}
    assert [*found.absent] == [str(tmp_path / "data" / "b" / "deep" / "up")]
