"""A stand-in for the Hugging Face hub on this machine, which answers what huggingface_hub asks for a file.

It says the file's commit, checksum and size, and gives its bytes, also from a place on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "c" * 40


@dataclass
class StandIn:
    """What a running stand-in has and was asked.

    Attributes:
        files: ``owner/name/file`` -> content.
        cut: how many more answers break off in the middle.
        endpoint: its address, for ``HF_ENDPOINT``.
        asked: method and path of each request; of bytes from a place on, that place too.
    """

    files: Mapping[str, bytes]
    cut: int = 0
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def hub_stand_in(files: Mapping[str, bytes], *, cut: int = 0) -> Iterator[StandIn]:
    """A stand-in that serves these files until the block ends."""
    hub = StandIn(files, cut)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_about: object) -> None:
        """Write nothing to stderr."""

    def _answer(self, *, body: bool) -> None:
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        self.hub.asked.append(f"{self.command} {self.path}{f' from {start[1]}' if start else ''}")
        address = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        content = None if address is None else self.hub.files.get(f"{address[1]}/{address[2]}")
        if content is None:
            self._head(404, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"})
            return
        first = int(start[1]) if start else 0
        self._head(206 if start else 200, self._about(content, first))
        rest = content[first:]
        if body and self.hub.cut > 0:
            self.hub.cut -= 1
            rest = rest[: len(rest) // 2]
        if body:
            self.wfile.write(rest)

    def _about(self, content: bytes, first: int) -> dict[str, str]:
        """The headers of a file, of which the bytes from the first on are given."""
        return {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}",
            "Content-Length": str(len(content) - first),
        }

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
