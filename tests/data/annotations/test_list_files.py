"""List files: every problem at once, with file and line, and no way out of the root."""

from pathlib import Path

import pytest

from vision_peft.data.annotations.list_files import find_overlaps, read_list
from vision_peft.data.problems import raise_problems


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "images").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "with space.jpg"):
        (folder / "images" / name).touch()
    (tmp_path / "secret.jpg").touch()
    return folder


def read(root: Path, text: str | bytes, num_classes: int | None = None) -> tuple[list[tuple[str, int]], list[str]]:
    file = root / "list.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    problems: list[str] = []
    items = read_list(file, root, problems, num_classes)
    return [(str(path.relative_to(root)), label) for path, label in items], [p.replace(str(file), "") for p in problems]


def test_a_good_list_is_read_in_order(root: Path) -> None:
    items, problems = read(root, "images/b.jpg 1\nimages/a.jpg 0\n")
    assert items == [("images/b.jpg", 1), ("images/a.jpg", 0)]
    assert not problems


@pytest.mark.parametrize(
    "text", ["images/a.jpg 3", "\ufeffimages/a.jpg 3\r\n\r\n", "\n  images/a.jpg\t 3  \n\n", "./images/a.jpg 3\n"]
)
def test_blank_lines_and_foreign_line_ends_do_not_matter(root: Path, text: str) -> None:
    assert read(root, text) == ([("images/a.jpg", 3)], [])


def test_a_path_may_hold_spaces(root: Path) -> None:
    assert read(root, "images/with space.jpg 7\n") == ([("images/with space.jpg", 7)], [])


def test_every_problem_is_reported_with_its_line(root: Path, tmp_path: Path) -> None:
    (root / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "outside").symlink_to(tmp_path)
    lines = [
        "images/a.jpg 0",
        "images/missing.jpg 0",
        "images/a.jpg five",
        "images/a.jpg 2",
        "images/a.jpg -1",
        "images/a.jpg",
        "/etc/hostname 0",
        f"{root}/images/a.jpg 0",
        "../secret.jpg 0",
        "images/link.jpg 0",
        "outside/secret.jpg 0",
        "images 0",
        "images/\x00.jpg 0",
        f"images/{'x' * 300}.jpg 0",
        "images/missing.jpg 9.5",
        "images/b.jpg 1",
    ]
    items, problems = read(root, "\n".join(lines), num_classes=2)
    assert items == [("images/a.jpg", 0), ("images/b.jpg", 1)]
    wanted = [
        (2, "image 'images/missing.jpg' is missing"),
        (3, "label 'five' is not an integer"),
        (4, "label 2 is out of range: wanted 0 to 1"),
        (5, "label -1 is out of range: wanted 0 to 1"),
        (6, "wanted '<path> <label>', got 'images/a.jpg'"),
        (7, "path '/etc/hostname' is absolute"),
        (8, "is absolute"),
        (9, "path '../secret.jpg' leads out of"),
        (10, "path 'images/link.jpg' leads out of"),
        (11, "path 'outside/secret.jpg' leads out of"),
        (12, "image 'images' is missing"),
        (13, ".jpg'"),
        (14, "is missing"),
        (15, "label '9.5' is not an integer"),
        (15, "image 'images/missing.jpg' is missing"),
    ]
    assert len(problems) == len(wanted), problems
    for problem, (line, text) in zip(problems, wanted, strict=True):
        assert problem.startswith(f":{line}: ")
        assert text in problem


def test_dots_and_links_that_stay_below_the_root_are_fine(root: Path) -> None:
    (root / "images" / "again.jpg").symlink_to(root / "images" / "a.jpg")
    items, problems = read(root, "images/../images/a.jpg 0\nimages/again.jpg 0\n")
    assert len(items) == 2
    assert not problems


def test_a_folder_whose_name_starts_like_the_root_is_outside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "a.jpg").touch()
    assert "leads out of" in read(root, "../root2/a.jpg 0\n")[1][0]


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path / "link", "images/a.jpg 0\n") == ([("images/a.jpg", 0)], [])


def test_an_image_that_is_listed_twice_is_reported_however_it_is_spelt(root: Path) -> None:
    lines = ["images/a.jpg 1", "", "images/b.jpg 0", "images/a.jpg 1", "./images/../images/b.jpg 1"]
    items, problems = read(root, "\r\n".join(lines))
    assert items == [("images/a.jpg", 1), ("images/b.jpg", 0)]
    assert problems == [
        ":4: image 'images/a.jpg' is already on line 1",
        ":5: image './images/../images/b.jpg' is already on line 3 with label 0",
    ]


def test_lists_that_share_an_image_by_path_are_reported_with_both_files_and_lines(tmp_path: Path) -> None:
    texts = {
        "train": "images/a.jpg 0\nimages/b.jpg 1\n",
        "whole": "images/a.jpg 0\nimages/b.jpg 01\nimages/c.jpg 1\n",
        "test": "images/d.jpg 1\r\n\r\n./images/b.jpg 1\r\nmeaningless\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    lists = {name: tmp_path / f"{name}.txt" for name in (*texts, "absent")}
    problems: list[str] = []
    find_overlaps(lists, [("train", "whole")], problems)
    assert [problem.replace(str(tmp_path), "") for problem in problems] == [
        "/test.txt:3: image './images/b.jpg' is also in train.txt:2: train and test overlap",
        "/test.txt:3: image './images/b.jpg' is also in whole.txt:2: whole and test overlap",
    ]


def test_a_part_and_its_whole_may_share_images_but_not_disagree_about_the_label(tmp_path: Path) -> None:
    (tmp_path / "part.txt").write_text("a.jpg 0\n")
    (tmp_path / "whole.txt").write_text("b.jpg 0\na.jpg 2\n")
    problems: list[str] = []
    lists = {"whole": tmp_path / "whole.txt", "part": tmp_path / "part.txt"}
    find_overlaps(lists, [("part", "whole")], problems)
    assert problems == [f"{tmp_path / 'part.txt'}:1: image 'a.jpg' has label 0, in whole.txt:2 it has 2"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_a_problem(root: Path, text: str) -> None:
    assert read(root, text) == ([], [": the file is empty"])


def test_a_list_that_is_not_text_is_a_problem(root: Path) -> None:
    items, problems = read(root, b"images/\xff\xfe.jpg 0\n")
    assert not items
    assert "not UTF-8" in problems[0]


def test_an_absurd_label_is_out_of_range_even_where_the_class_count_is_unknown(root: Path) -> None:
    _, problems = read(root, f"images/a.jpg 999999999\nimages/a.jpg {'9' * 6000}\n")
    assert "out of range" in problems[0]
    assert "not an integer" in problems[1]
    assert len(problems[1]) < 400


def test_a_missing_list_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        read_list(root / "gone.txt", root, [])


def test_twenty_problems_are_shown_and_the_rest_counted() -> None:
    with pytest.raises(ValueError, match="split train: 23 problems") as caught:
        raise_problems("split train", [f"line {number}" for number in range(23)])
    lines = str(caught.value).split("\n")
    assert len(lines) == 22
    assert lines[20:] == ["  line 19", "  and 3 more"]
    raise_problems("split train", [])
