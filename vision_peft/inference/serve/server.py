"""The process: uvicorn with a bound on slow headers, and a stop that answers what was accepted."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vision_peft.inference.serve.app import choose_hosts, make_app
from vision_peft.inference.serve.service import Service
from vision_peft.printable import printable

DRAIN_S = 0.5  # between the wish to stop and the end of listening: clients learn that their connections close
_LAST_WORDS_S = 0.2  # between the end of listening and that of connections without a request
_HEADER_BYTES = 16_384
_KEEP_ALIVE_S = 15
_LINGER_S = 1.0  # for which a refused client may go on sending: closed at once, it would get a reset and no answer
_LATE, _TOO_LONG = (
    f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
    for status in ("408 Request Timeout", "431 Request Header Fields Too Large")
)


class _Protocol(H11Protocol):
    """Closes a connection whose headers are too long or do not come in time, for which uvicorn itself has no bound.

    h11's bound is of headers that are incomplete: those that come at once pass it at any length.
    """

    header_s: float
    _waits: asyncio.TimerHandle | None = None
    _is_refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waits = self.loop.call_later(self.header_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_idle():
            head = self.conn.trailing_data[0] + data
            end = head.find(b"\r\n\r\n")
            if (len(head) if end < 0 else end) > _HEADER_BYTES:
                self._end(_TOO_LONG)
                return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if not self._is_idle():
            self._stop_waiting()
        elif self._waits is None and self.conn.trailing_data[0]:
            self._waits = self.loop.call_later(self.header_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _give_up(self) -> None:
        self._end(_LATE if self.conn.trailing_data[0] else b"")

    def _end(self, answer: bytes) -> None:
        self._stop_waiting()
        if not answer:
            self.transport.close()
        elif not self.transport.is_closing() and not self._is_refused:
            self._is_refused = True
            self.transport.write(answer)
            self.transport.write_eof()
            self.loop.call_later(_LINGER_S, self.transport.close)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket; what connects waits there until a server runs.

    Args:
        host: an address, or a name.
        port: 0: a free one.

    Raises:
        OSError: there is no such address, or the port is taken.
        ValueError: no number of a port.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"cannot listen on port {port}: wanted 0 to {2**16 - 1}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {printable(host)} port {port}: {error}") from None


class Server(uvicorn.Server):
    """uvicorn's, which after SIGTERM or SIGINT goes on for ``DRAIN_S`` and then answers what it has.

    Args:
        service: is closed at the end.
        host: of the socket that ``run([socket])`` gets.
        hosts: further names under which requests may come, beside those of loopback and `host`, whatever the case of
            their letters; (): on loopback none, else any.
        token: of the admin; None: nobody is.
    """

    def __init__(self, service: Service, host: str, *, hosts: Sequence[str] = (), token: str | None = None) -> None:
        limits = service.limits
        allowed = choose_hosts(host, hosts)
        protocol: Any = type("Protocol", (_Protocol,), {"header_s": limits.header_s})
        super().__init__(
            uvicorn.Config(
                make_app(service, hosts=allowed, token=token),
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=limits.max_connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(limits.timeout_s + limits.header_s),
                h11_max_incomplete_event_size=_HEADER_BYTES,
            )
        )
        self.service = service
        self._stops_at: float | None = None
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    def stop(self) -> None:
        """Ask it to stop."""
        self.service.draining = True
        self._stops_at = self._stops_at or time.monotonic() + DRAIN_S

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second Ctrl-C stops at once."""
        if sig == signal.SIGINT and self._stops_at is not None:
            self.should_exit = self.force_exit = True
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        """Tell uvicorn's loop whether it is time to end."""
        ends = await super().on_tick(counter)
        return ends or (self._stops_at is not None and time.monotonic() >= self._stops_at)

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop listening, answer what has connected already, end as uvicorn does, then close the service."""
        waiting = [connection for listening in sockets or [] for connection in _accept_all(listening)]
        for server in self.servers:
            server.close()
        make: Any = self.config.http_protocol_class
        for connection in waiting:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state),
                    connection,
                )
        await asyncio.sleep(_LAST_WORDS_S)  # uvicorn closes connections of which no request has been read
        await super().shutdown(sockets)
        await asyncio.to_thread(self.service.close)


def _accept_all(listening: socket.socket) -> list[socket.socket]:
    """Take the connections that the system holds for us; it resets them when we stop listening."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            found.append(connection)
    return found
