"""YAML from someone else is bounded before anything is made of it."""

import time

import pytest
import yaml

from vision_peft.strict_yaml import MAX_BYTES, MAX_DEPTH, MAX_EVENTS, MAX_TEXT, check_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12)
)
DEEP = f"nested more than {MAX_DEPTH} deep|nesting depth|line 1"  # libyaml has a limit of its own
BOMBS = {
    "a megabyte of brackets": ("[" * (MAX_BYTES - 1), DEEP),
    "a megabyte of braces": ("{" * (MAX_BYTES - 1), DEEP),
    "lists in lists in blocks": ("- " * (MAX_BYTES // 2), DEEP),
    "questions": ("? " * (MAX_BYTES // 2), DEEP),
    "keys by the hundred thousand": ("a: 1\n" * 200_000, f"more than {MAX_EVENTS:,} keys"),
    "one number by the square of its length": ("a: " + "1:" * 500_000 + "1", f"letters, wanted at most {MAX_TEXT:,}"),
    "one long text": ("a: " + "x" * 10**6, "a text of 1,000,000 letters"),
    "more than a megabyte": ("#" * (MAX_BYTES + 1), "wanted at most 1,048,576"),
    "laughs": (LAUGHS, "refers to parts of itself"),
    "not YAML": ("a: [1,\nb: }\n", "line 2"),
    "tabs": ("a:\n\t- b", "line 2"),
    "a control character": ("a: \x00", "."),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_no_time(name: str) -> None:
    text, reason = BOMBS[name]
    started = time.process_time()
    with pytest.raises(ValueError, match=reason) as refused:
        check_yaml(text)
    assert time.process_time() - started < 3
    assert "\n" not in str(refused.value)


def test_references_count_as_what_they_stand_for() -> None:
    check_yaml("a: &a [1, 2]\nb: [*a, *a]\nc: &c {x: *a}\nd: *c", references=True)
    with pytest.raises(ValueError, match="more than 100,000 keys"):
        check_yaml(LAUGHS, references=True)
    for text in ("a: &a [*a]", "a: *b", "a: &a {x: {y: *a}}"):
        with pytest.raises(ValueError, match="refers to itself or to nothing"):
            check_yaml(text, references=True)


def test_what_runs_write_is_accepted() -> None:
    weights = [0.123456789] * 21_981
    for value in (
        {"recipe": {"class_weights": weights}},
        {"a": {"b": [{"c": [1, [2, [3]]]}]}},
        [],
        "x",
        {"x" * 4096: 1},
    ):
        check_yaml(yaml.safe_dump(value))
