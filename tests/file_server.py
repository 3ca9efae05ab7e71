"""A web server for tests: a folder on a port of this machine, with faults."""

from __future__ import annotations

import threading
from collections import Counter
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        requests: number of requests by method and path.
        breaks: how many downloads of a path end in the middle; -1 for all.
        refuses: the status of every reply to a path.
        heads: whether it answers HEAD.
        hangs: the method of requests that it never answers.
        token: the header `Authorization` without which it replies 403; None: none is needed.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.requests: Counter[tuple[str, str]] = Counter()
        self.breaks: dict[str, int] = {}
        self.refuses: dict[str, int] = {}
        self.heads = True
        self.hangs = ""
        self.token: str | None = None
        self._closed = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def url(self, name: str = "", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}/{name}"

    def downloads(self) -> dict[str, int]:
        """How often each path was downloaded."""
        return {path: count for (method, path), count in self.requests.items() if method == "GET"}

    def __enter__(self) -> FileServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(SimpleHTTPRequestHandler):
    server: FileServer

    def __init__(self, request: Any, address: Any, server: FileServer) -> None:
        super().__init__(request, address, server, directory=str(server.folder))

    def log_message(self, *_: object) -> None:
        pass

    def _counts(self) -> str | None:
        path = self.path.partition("?")[0]
        self.server.requests[self.command, path] += 1
        if self.command == self.server.hangs:
            self.server._closed.wait()
            return None
        is_known = self.server.token in (None, self.headers["Authorization"])
        if path in self.server.refuses or not is_known:
            self.send_error(self.server.refuses.get(path, HTTPStatus.FORBIDDEN))
            return None
        return path

    def do_HEAD(self) -> None:
        if not self.server.heads:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif self._counts() is not None:
            super().do_HEAD()

    def do_GET(self) -> None:
        path = self._counts()
        if path is None:
            return
        if self.server.breaks.get(path):
            self.server.breaks[path] -= 1
            content = (self.server.folder / path[1:]).read_bytes()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        super().do_GET()
