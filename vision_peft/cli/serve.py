"""Serve predictions for images over HTTP: one backbone, one task per adapter.

    vision-peft serve --task flowers=RUN                                   http://127.0.0.1:8000
    vision-peft serve --task flowers=RUN --task cars=ADAPTER --port 8080   several tasks on one frozen backbone

All adapters must have the backbone of the first one. Open the address in a browser and drop an image on it, or

    curl -F image=@photo.jpg -F task=flowers http://127.0.0.1:8000/predict

Also JSON: {"image": base64, "tasks": ["flowers", "cars"], "top": 5}. GET /tasks, /healthz, /metrics (Prometheus).
Images that arrive at the same time share one forward pass, whatever their tasks. On SIGTERM it answers what it
accepted, then stops. With --admin-token-file tasks can change while it runs: PUT /tasks/NAME {"source": ADAPTER},
DELETE /tasks/NAME.
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vision_peft.cli._adapter import check_adapter
from vision_peft.cli._numbers import parse_positive
from vision_peft.cli._verb import announce_loading, make_parser
from vision_peft.inference.serve.limits import Limits
from vision_peft.printable import for_shell, printable, show
from vision_peft.safe_files import read_file

_SHORTEST_TOKEN = 16
_HELP = {
    "max_batch": "images per forward pass",
    "max_wait_ms": "longest wait of an image for others to share its batch",
    "max_body_mb": "size of a request",
    "max_pixels": "width x height of an image",
    "max_queue": "answers that may wait; others get status 503",
    "timeout_s": "time from the first byte of a request to its answer",
    "header_s": "time for the headers of a request",
    "max_connections": "connections open at a time",
    "bodies_mb": "size of all requests in memory",
    "decoders": "images decoded at a time",
}


def main(argv: Sequence[str]) -> int:
    """Load the backbone and the adapters, listen, answer until a signal comes."""
    options = _parse(argv)
    tasks = _read_tasks(options.task)
    limits = Limits(**{name: getattr(options, name) for name in _HELP})
    for source in tasks.values():
        check_adapter(source)
    for name in options.allowed_host:
        _check_host(name)
    token = None if options.admin_token_file is None else _read_token(options.admin_token_file)
    _check_extra()
    announce_loading()
    import torch

    from vision_peft.inference.bank.bank import Bank
    from vision_peft.inference.serve.server import Server, listen
    from vision_peft.inference.serve.service import Service

    if options.threads:
        torch.set_num_threads(options.threads)
    first = next(iter(tasks.values()))
    given = {"backbone": options.backbone, "checkpoint": options.checkpoint}
    bank = Bank.load(first, options.device, most=options.most, bits=options.bits, **given)
    for name, source in tasks.items():
        task = bank.add(name, source)
        lost = f", one-bit error {task.error:.3f}" if task.error else ""
        classes = f"{task.info.num_classes} classes"
        show(f"{printable(name)}: {', '.join(task.methods)}, {classes}, {task.bytes:,} bytes{lost}")
    service = Service(bank, limits)
    server = Server(service, options.host, hosts=options.allowed_host, token=token)
    socket = listen(options.host, options.port)
    address = f"[{options.host}]" if ":" in options.host else options.host
    show(f"listening on http://{address}:{socket.getsockname()[1]}; Ctrl-C or SIGTERM stops it")
    server.run([socket])
    answered = int(sum(service.images.values.values()))
    show(f"stopped: {answered} answers, {service.pending} left open")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("serve", __doc__)
    parser.add_argument(
        "--task",
        metavar="NAME=ADAPTER",
        action="append",
        required=True,
        help="run folder, adapter folder or hf-hub:OWNER/NAME",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0: any free one (%(default)s)")
    parser.add_argument(
        "--allowed-host", metavar="NAME", action="append", default=[], help="accept requests for this host name too"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (%(default)s)")
    parser.add_argument("--threads", type=parse_positive, metavar="N", help="CPU threads of a forward pass")
    parser.add_argument("--backbone", metavar="NAME", help="another name of the backbone, with the same weights")
    parser.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="weight file of a backbone that came from a file"
    )
    parser.add_argument("--most", type=int, metavar="N", help="adapters kept in memory; others are read when needed")
    parser.add_argument("--bits", type=int, choices=(1,), help="keep adapter matrices at one bit per number")
    parser.add_argument(
        "--admin-token-file", metavar="FILE", type=Path, help="file with the token that lets clients change tasks"
    )
    for field in dataclasses.fields(Limits):
        kind: Any = type(field.default)
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            name, type=kind, default=field.default, metavar="N", help=f"{_HELP[field.name]} (%(default)s)"
        )
    return parser.parse_args(argv)


def _read_tasks(given: Sequence[str]) -> dict[str, str]:
    tasks: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if not (name and equals and source):
            raise ValueError(f"--task {printable(text)}: wanted NAME=ADAPTER, as in --task flowers=runs/flowers")
        if name in tasks:
            raise ValueError(f"--task {printable(name)} is given twice")
        tasks[name] = source
    return tasks


def _check_host(name: str) -> None:
    """Raise ValueError where a request cannot be for a host of this name."""
    try:
        host = urlsplit(f"//[{name}]" if name.count(":") > 1 else f"//{name}").hostname
    except ValueError:
        host = None
    if host != name.lower() or not name.isascii():
        raise ValueError(
            f"--allowed-host {printable(name)}: wanted the name or address alone, without http://, port or path, "
            "and in ASCII (xn--...), as browsers send it"
        )


def _read_token(path: Path) -> str:
    token = read_file(path, 4096).decode("utf-8", errors="replace").strip()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"{path} must hold a token of at least {_SHORTEST_TOKEN} printable ASCII letters: make one with "
            f"{for_shell(['openssl', 'rand', '-hex', '32'])} > {for_shell([os.fspath(path)])}"
        )
    return token


def _check_extra() -> None:
    """Raise ImportError, with the command that installs it, where a package of the extra is missing."""
    from importlib.util import find_spec

    if missing := [name for name in ("starlette", "uvicorn", "python_multipart") if find_spec(name) is None]:
        raise ImportError(f"serve needs {', '.join(missing)}: pip install 'vision_peft[serve]'")
