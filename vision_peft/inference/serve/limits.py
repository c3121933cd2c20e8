"""What a server takes from whoever sends something, and when it gives up. Nothing here imports torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; the defaults are for one machine and pictures from a camera.

    Args:
        max_batch: images in one forward.
        max_wait_ms: how long the first image of a batch waits for others.
        max_body_mb: 10^6 bytes of one request.
        max_pixels: width x height of a picture, by its header.
        max_queue: answers (an image under a task each) that are accepted and not given yet.
        timeout_s: from the first byte of a request to its answer.
        header_s: for the headers of a request.
        max_connections: open at a time.
        bodies_mb: 10^6 bytes of all requests that are being read or answered.
        decoders: pictures that are decoded at a time.

    Raises:
        ValueError: one of them is not above zero, or no request could be answered under them.
    """

    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_body_mb: float = 20.0
    max_pixels: int = 50_000_000
    max_queue: int = 256
    timeout_s: float = 30.0
    header_s: float = 10.0
    max_connections: int = 512
    bodies_mb: float = 200.0
    decoders: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf") or (value == 0 and name != "max_wait_ms"):
                raise ValueError(f"--{name.replace('_', '-')} must be a number above 0; got {value}")
        if self.bodies_mb < self.max_body_mb:
            raise ValueError(f"--bodies-mb {self.bodies_mb:g} does not hold one body of {self.max_body_mb:g} MB")


class Refusal(Exception):
    """What a request is answered with in place of what it asked for: a status of HTTP and one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text
