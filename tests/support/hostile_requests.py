"""Requests that nobody means well with: each has to be answered with an error, and harm nothing."""

import io
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from support.servers import JSON, as_text, form, picture, post


def bomb(side: int = 50_000) -> bytes:
    """A PNG of few bytes that decodes to ``side`` x ``side`` pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = file.getvalue()
    header = struct.pack(">II", side, side) + data[24:29]
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return data[:16] + header + crc + data[33:]


def deep_bomb() -> bytes:
    """A PNG whose header is small and whose one chunk of text inflates to 256 MB."""
    text = zlib.compressobj(9)
    packed = text.compress(b"\0" * 2**20) + b"".join(text.compress(b"\0" * 2**20) for _ in range(255)) + text.flush()
    chunk = b"zTXtk\0\0" + packed
    data = picture()
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + framed + data[33:]


def hostile_bodies(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of ``count`` requests to /predict, in turns of every kind."""
    generator = np.random.default_rng(seed)
    whole, kind = form([("image", picture()), ("task", b"a")])

    def cut(data: bytes) -> bytes:
        return data[: int(generator.integers(1, len(data) - 1))]

    def noise(length: int) -> bytes:
        return generator.bytes(length)

    def asked(**values: object) -> bytes:
        return json.dumps({"image": as_text(picture()), "task": "a", **values}).encode()

    kinds = [
        ("bomb", lambda: post(asked(image=as_text(bomb(int(generator.integers(20_000, 60_000))))))),
        ("bomb in a form", lambda: post(*form([("image", bomb()), ("task", b"a")]))),
        ("truncated image", lambda: post(asked(image=as_text(cut(picture(1, (200, 200))[:-1000]))))),
        ("truncated jpeg", lambda: post(*form([("image", cut(picture(2, kind="JPEG")[:-300])), ("task", b"a")]))),
        ("noise as image", lambda: post(asked(image=as_text(noise(500))))),
        ("image is a number", lambda: post(asked(image=7))),
        ("image is a list", lambda: post(asked(image=[as_text(picture())]))),
        ("not base64", lambda: post(asked(image="§" * 50))),
        ("empty image", lambda: post(asked(image=""))),
        ("task is an object", lambda: post(asked(task={"a": 1}))),
        ("unknown task", lambda: post(asked(task="../../etc/passwd"))),
        ("unknown field", lambda: post(asked(path="/etc/passwd"))),
        ("top is too large", lambda: post(asked(top=10**9))),
        ("top is true", lambda: post(asked(top=True))),
        ("truncated JSON", lambda: post(cut(asked()[:-1]))),
        ("noise as JSON", lambda: post(noise(300))),
        ("JSON nested deep", lambda: post(b"[" * 100_000)),
        ("JSON of many values", lambda: post(b"[" + b"[]," * 200_000 + b"[]]")),
        ("JSON is a list", lambda: post(b"[1]")),
        ("NaN", lambda: post(b'{"image": NaN}')),
        ("truncated form", lambda: post(cut(whole[:-6]), kind)),
        ("noise as form", lambda: post(noise(2000), kind)),
        ("form without boundary", lambda: post(whole, "multipart/form-data")),
        ("form with another boundary", lambda: post(whole, "multipart/form-data; boundary=x")),
        ("form of many parts", lambda: post(*form([("task", b"a")] * 5000))),
        ("form with another field", lambda: post(*form([("image", picture()), ("file", b"/etc/passwd")]))),
        ("no content type", lambda: post(asked(), "")),
        ("text", lambda: post(b"hello", "text/plain")),
        ("compressed", lambda: post(zlib.compress(asked()), JSON, more="Content-Encoding: deflate\r\n")),
        ("announces too much", lambda: post(b"x" * 1000, length=10**12)),
        ("sends too much", lambda: post(b"x" * 3_000_000)),
        ("length is no number", lambda: post(b"x").replace(b"Content-Length: 1", b"Content-Length: -1")),
        ("huge header", lambda: post(asked(), more=f"X-Much: {'x' * 1_000_000}\r\n")),
        ("many headers", lambda: post(asked(), more="".join(f"X-{i}: {i}\r\n" for i in range(5000)))),
        ("no HTTP", lambda: b"\x16\x03\x01" + noise(200) + b"\r\n\r\n"),
        ("another method", lambda: post(asked()).replace(b"POST", b"PUT", 1)),
        ("another host", lambda: post(asked()).replace(b"Host: localhost", b"Host: evil.example")),
        ("a page of another site", lambda: post(asked(), more="Origin: http://evil.example\r\n")),
        ("a path upwards", lambda: post(asked(), path="/../../../../etc/passwd")),
        ("a path upwards, quoted", lambda: post(asked(), path="/%2e%2e/%2e%2e/etc/passwd")),
    ]
    for number in range(count):
        name, make = kinds[number % len(kinds)]
        yield name, make()
