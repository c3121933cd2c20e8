"""What a request asks for: pictures, tasks and how many labels, as JSON with base64 or as a form with files."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from vision_peft.inference.serve.limits import Refusal
from vision_peft.printable import printable
from vision_peft.strict_json import parse_json

MOST_VALUES = 1000  # of a request: its pictures are text, so that no more than that is anything true
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100};base64,")
_FIELDS = {"image", "images", "task", "tasks", "top"}


@dataclass(frozen=True)
class Query:
    """Pictures as the bytes of their files, the tasks each is asked under, and the number of labels wanted."""

    images: list[bytes]
    tasks: list[str]
    top: int


def read_query(content_type: str, body: bytes) -> Query:
    """Parse the body of a request.

    Raises:
        Refusal: another type of content (415), or a body that is not what its type says (400), with what is wrong.
    """
    kind, _, _ = content_type.partition(";")
    match kind.strip().lower():
        case "application/json":
            return _from_json(body)
        case "multipart/form-data":
            return _from_form(content_type, body)
    raise Refusal(
        415, f"wanted application/json or multipart/form-data, got {printable(content_type, 100) or 'no content type'}"
    )


def _from_json(body: bytes) -> Query:
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:  # parsed, such text takes fifty times its size
        raise Refusal(400, f"the JSON holds more than {MOST_VALUES} values")
    try:
        values = parse_json(body)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {printable(error)}") from None
    if not isinstance(values, dict):
        raise Refusal(400, f"wanted an object with image and task, got {type(values).__name__}")
    if unknown := sorted(set(values) - _FIELDS):
        raise Refusal(400, f"unknown field {printable(unknown[0])}: there are {', '.join(sorted(_FIELDS))}")
    images = [_decode(text) for text in _texts(values, "image")]
    return _check(images, _texts(values, "task"), values.get("top", 5))


def _texts(values: dict[str, Any], name: str) -> list[str]:
    """Return the texts under ``name``, or in the list under its plural."""
    if name in values and f"{name}s" in values:
        raise Refusal(400, f"give {name} or {name}s, not both")
    found = values.get(f"{name}s", [values[name]] if name in values else [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise Refusal(400, f"{name} must be a string, {name}s a list of strings")
    return found


def _decode(text: str) -> bytes:
    if start := _DATA_URL.match(text):
        text = text[start.end() :]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"an image is not base64: {printable(error)}") from None


def _from_form(content_type: str, body: bytes) -> Query:
    from python_multipart import MultipartParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Refusal(400, "multipart/form-data without a boundary")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())  # pyright: ignore[reportArgumentType]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, f"the form is damaged: {printable(error)}") from None
    if not form.ended:
        raise Refusal(400, "the form is damaged: it is incomplete")
    if unknown := sorted({name for name, _ in form.parts} - _FIELDS):
        raise Refusal(400, f"unknown field {printable(unknown[0])}: there are {', '.join(sorted(_FIELDS))}")
    images = [data for name, data in form.parts if name in ("image", "images")]
    tasks = [_text(data) for name, data in form.parts if name in ("task", "tasks")]
    tops = [_text(data) for name, data in form.parts if name == "top"]
    if len(tops) > 1 or not all(text.isascii() and text.isdecimal() and len(text) < 10 for text in tops):
        raise Refusal(400, "top must be one whole number")
    return _check(images, tasks, int(tops[0]) if tops else 5)


class _Form:
    """The parts of a form, as python-multipart finds them: name and content."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self.ended = False
        self._field, self._value, self._name = bytearray(), bytearray(), ""
        self._data: list[bytes] = []

    def callbacks(self) -> dict[str, Any]:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": lambda: self.parts.append((self._name, b"".join(self._data))),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= MOST_VALUES:
            raise Refusal(400, f"the form holds more than {MOST_VALUES} parts")
        self._name, self._data = "", []

    def _end_header(self) -> None:
        from python_multipart.multipart import parse_options_header

        if bytes(self._field).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value[:1000]))
            self._name = _text(options.get(b"name", b""))
        self._field, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        self.ended = True


def _text(data: bytes) -> str:
    try:
        return data[:1000].decode()
    except UnicodeDecodeError:
        raise Refusal(400, "a field of the form is not UTF-8") from None


def _check(images: list[bytes], tasks: list[str], top: Any) -> Query:
    if not images or not all(images):
        raise Refusal(400, "no image: send an image file in the field image")
    if type(top) is not int or not 1 <= top <= 10_000:
        raise Refusal(400, "top must be a whole number from 1 to 10000")
    return Query(images, list(dict.fromkeys(tasks)), top)
