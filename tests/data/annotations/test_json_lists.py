"""Lists in JSON, and whatever may be wrong with them; what they say is tested with the lists of images."""

from pathlib import Path

import pytest

from vision_peft.data.annotations.json_lists import read_json_lines
from vision_peft.data.annotations.list_lines import ListForm


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[1, 2", ["train.json: not a list in JSON: Expecting ',' delimiter: line 1 column 6 (char 5)"]),
        ("3", ["train.json: wanted a list of entries or an object, got 3"]),
        ('[{"path": "a.png"}]', ["train.json:1: wanted labels (labels, label, value, ...), got {'path': 'a.png'}"]),
        ('[{"labels": ["x"]}, 7]', [
            "train.json:1: wanted a path (path, file_name, image, ...), got {'labels': ['x']}",
            "train.json:2: wanted an object such as {\"path\": ..., \"labels\": [...]}, got 7",
        ]),
        ('{"a.png": [null]}', ["train.json:1: wanted labels of 'a.png', got [None]"]),
        ('{"a.png": ["x\\u001fy"]}', ["train.json:1: wanted labels of 'a.png', got ['x\\x1fy']"]),
        ('{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}, {}], "categories": [], '
         '"annotations": [{"image_id": 5, "category_id": 1}, {"image_id": 1, "category_id": 4}, {"image_id": "1"}]}', [
            "train.json: images[2]: id 1 is that of another image too",
            "train.json: images[3]: wanted id and file_name, got {}",
            "train.json: annotations[1]: there is no image with the id 5",
            "train.json: annotations[2]: there is no category with the id 4",
            "train.json: annotations[3]: wanted image_id and category_id, got {'image_id': '1'}",
        ]),
        ("[" * 100_000, ["train.json: not a list in JSON: nested too deep"]),
    ],
)  # fmt: skip
def test_what_is_wrong_in_json_is_named_with_its_entry(tmp_path: Path, text: str, wanted: list[str]) -> None:
    file, problems = tmp_path / "train.json", list[str]()
    file.write_text(text)
    read_json_lines(file, problems, ListForm())
    assert [problem.replace(f"{tmp_path}/", "") for problem in problems] == wanted
