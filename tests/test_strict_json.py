"""JSON is what the standard says, with numbers that fit into 64 bits."""

import json

import pytest

from vision_peft.strict_json import parse_json


@pytest.mark.parametrize("value", [{"a": [1, -2.5, None, True, "é\u2028"]}, [2**64 - 1, -(2**63)], 1e308, "x", {}])
def test_it_is_what_json_gives(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1" + "0" * 400, "has 401 digits, wanted less than 2"),
        ("[" + "9" * 10_000 + "]", "has 10000 digits"),
        (str(2**64), "has 20 digits"),
        (f"-{2**64}", "digits"),
        ("1e400", "the number 1e400 is too large"),
        ("-1e400", "too large"),
        ("NaN", "NaN is not a number"),
        ("-Infinity", "-Infinity is not a number"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        (b"\xff\xfe", "utf-8"),
        ("", "Expecting value"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_what_no_field_holds_is_one_error(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_a_key_that_stands_twice_can_be_seen() -> None:
    assert parse_json('{"a": 1, "a": {"b": 2}}', pairs=tuple) == (("a", 1), ("a", (("b", 2),)))
