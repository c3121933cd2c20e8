"""Servers of tiny models in a thread of the test, and clients that are not polite."""

import base64
import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

import vision_peft as vp
from vision_peft.inference.serve.limits import Limits
from vision_peft.inference.serve.server import Server, listen
from vision_peft.inference.serve.service import Service

JSON = "application/json"


def request(port: int, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any]:
    """One request on a connection of its own: its status, and the JSON or text of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, given = json.dumps(body), {"content-type": JSON, **given}
        connection.request(method or ("GET" if body is None else "POST"), path, body, given)
        reply = connection.getresponse()
        text = reply.read().decode()
        return reply.status, json.loads(text) if reply.headers.get_content_type() == JSON else text


class Running:
    """A server that answers on ``port``."""

    def __init__(self, bank: vp.Bank, limits: Limits, **options: Any) -> None:
        self.service = Service(bank, limits)
        self.server = Server(self.service, "127.0.0.1", **options)
        listening = listen("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, args=([listening],))
        self.thread.start()

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any]:
        """One request on a connection of its own, see ``request``."""
        return request(self.port, path, body, method, **headers)

    def send(self, data: bytes, timeout: float = 10) -> bytes:
        """All that the server answers to bytes on a socket, until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(data)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer

    def stop(self) -> None:
        """Stop as a signal does, and wait for the end."""
        self.server.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running(bank: vp.Bank, token: str | None = None, **limits: Any) -> Iterator[Running]:
    """A server of ``bank`` that is stopped in the end, with nothing left open."""
    server = Running(bank, Limits(**limits), token=token)
    try:
        yield server
    finally:
        server.stop()
    assert (server.service.pending, server.service.held) == (0, 0)


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """The file of a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def as_text(image: bytes) -> str:
    """The base64 of a picture."""
    return base64.b64encode(image).decode()


def form(parts: Sequence[tuple[str, bytes]], boundary: str = "b0undary") -> tuple[bytes, str]:
    """A form with these parts, those called image as files, and its content type."""
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (b'; filename="a.png"\r\nContent-Type: image/png' if name.startswith("image") else b"")
        + b"\r\n\r\n"
        + data
        + b"\r\n"
        for name, data in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def post(body: bytes, kind: str = JSON, path: str = "/predict", length: int | None = None, more: str = "") -> bytes:
    """The bytes of a POST, of a wrong length if one is given."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
