"""A stand-in for the HTTP interface of the Hugging Face hub, as its client uses it: repositories in memory, no network.

It takes what a client uploads (small files in the commit, large ones by Git LFS) and gives it back by name.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 34


@dataclass
class Hub:
    """What the stand-in holds, and what it was asked."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)  # repository -> newest
    visibility: dict[str, str | None] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of Git LFS, by sha256
    tokens: set[str] = field(default_factory=set)  # that were sent


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._give()

    def do_GET(self) -> None:
        self._give()

    def do_PUT(self) -> None:
        content = self._body()
        self.hub.objects[hashlib.sha256(content).hexdigest()] = content
        self._answer(200)

    def do_POST(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            taken = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {})
            self.hub.visibility.setdefault(
                name, asked.get("visibility") or ("private" if asked.get("private") else None)
            )
            self._answer(409 if taken else 200, {"url": f"{self.hub.address}/{name}"})
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[-2:-1] == ["preupload"]:
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        elif parts[-2:] == ["objects", "batch"]:
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif parts[-2:-1] == ["commit"]:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.hub.commits[name] = commit
        self._answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})

    def _give(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == [""]:
            return self._answer(200)
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            known = name in self.hub.repositories
            return (
                self._answer(200, {"id": name, "sha": self.hub.commits.get(name)}) if known else self._missing("Repo")
            )
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        if name not in self.hub.repositories:
            return self._missing("Repo")
        content = self.hub.repositories[name].get(file)
        if content is None:
            return self._missing("Entry")
        headers = {"X-Repo-Commit": self.hub.commits[name], "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return self._answer(200, content, headers)

    def _missing(self, what: str) -> None:
        self._answer(404, {"error": "not found"}, {"X-Error-Code": f"{what}NotFound"})

    def _body(self) -> bytes:
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: Any = None, headers: Any = None) -> None:
        sent = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(sent))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
