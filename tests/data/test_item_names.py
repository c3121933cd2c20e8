"""Names of items do not tell where the data is mounted, nor how a file system spells them."""

import unicodedata

import pytest

from vision_peft.data.item_names import name_below


@pytest.mark.parametrize(
    ("path", "base", "name"),
    [
        ("/data/photos/a/1.png", "/data/photos", "a/1.png"),
        ("/data/photos/./a//b/../1.png", "/data/photos", "a/1.png"),
        ("/data/photos2/1.png", "/data/photos", "/data/photos2/1.png"),
        ("/photos/1.png", "/", "photos/1.png"),
        ("/data/photos/1.png", None, "/data/photos/1.png"),
        ("digits[3]", "/data", "digits[3]"),
    ],
)
def test_a_name_is_the_path_below_the_root_in_one_spelling(path: str, base: str | None, name: str) -> None:
    assert name_below(path, base) == name


def test_both_forms_of_an_accent_are_one_name_and_other_bytes_stay() -> None:
    composed, decomposed = (unicodedata.normalize(form, "/data/café/é.png") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert name_below(decomposed, "/data") == name_below(composed, "/data") == "café/é.png"
    assert name_below("/data/\udce9.png", "/data") == "\udce9.png"
