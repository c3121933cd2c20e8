"""Bodies of requests: what is understood, and what each mistake is answered with."""

import base64
import json
from typing import Any

import pytest
from support.servers import form

from vision_peft.inference.serve.limits import Limits, Refusal
from vision_peft.inference.serve.query import Query, read_query

TEXT = base64.b64encode(b"pixels").decode()


def asked(**values):
    return "application/json; charset=utf-8", json.dumps(values).encode()


def filled(*parts):
    body, kind = form(parts)
    return kind, body


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked(image=TEXT), Query([b"pixels"], [], 5)),
        (asked(images=[TEXT] * 2, tasks=["a", "b", "a"], top=1), Query([b"pixels"] * 2, ["a", "b"], 1)),
        (asked(image=f"data:image/png;base64,{TEXT}", task="ü"), Query([b"pixels"], ["ü"], 5)),
        (filled(("image", b"a\r\n--b"), ("task", "ü".encode()), ("top", b"2")), Query([b"a\r\n--b"], ["ü"], 2)),
        (filled(("images", b"x"), ("image", b"y"), ("tasks", b"a")), Query([b"x", b"y"], ["a"], 5)),
    ],
)
def test_json_and_forms_say_the_same(request_, expected):
    assert read_query(*request_) == expected


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (("application/json", b"[" + b"[]," * 2000 + b"[]]"), 400, "the JSON holds more than 1000 values"),
        (("application/json", b"{"), 400, "the body is not JSON"),
        (("text/plain", b"x"), 415, "wanted application/json or multipart/form-data, got text/plain"),
        (("", b"x"), 415, "got no content type"),
        (asked(image=TEXT, images=[TEXT]), 400, "give image or images, not both"),
        (asked(image=TEXT, path="/etc/passwd"), 400, "unknown field path: there are image, images, task, tasks, top"),
        (asked(image="x"), 400, "an image is not base64"),
        (asked(task="a"), 400, "no image"),
        (asked(image=TEXT, top=0), 400, "top must be a whole number from 1 to 10000"),
        (filled(*[("task", b"a")] * 1001), 400, "the form holds more than 1000 parts"),
        (filled(("image", b"x"), ("top", b"two")), 400, "top must be one whole number"),
        (filled(("image", b"x"), ("task", b"\xff")), 400, "a field of the form is not UTF-8"),
    ],
)
def test_a_mistake_is_named(request_, status, message):
    with pytest.raises(Refusal, match=message) as refused:
        read_query(*request_)
    assert refused.value.status == status


def test_limits_are_above_zero_and_hold_one_body():
    assert Limits(max_wait_ms=0).max_wait_ms == 0
    wrongs: list[Any] = [{"max_batch": 0}, {"timeout_s": -1.0}, {"max_wait_ms": float("nan")}, {"max_body_mb": 500.0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="--"):
            Limits(**wrong)
