"""An app of one answer: whatever is asked, it says what it was given, and it can be asked to hang or to crash.

The file named in FAKE_FAULT holds a word that makes the start fail: ``raise``, ``config``, ``exit`` or ``never``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

from rt.config import Config, ConfigError, Problem


class App:
    """Answers HTTP/1.0 requests, one per connection."""

    def __init__(self, config: Config, index: int, name: str, lineage: str | None, store: str) -> None:
        self._config = config
        self._facts = {"index": index, "name": name, "lineage": lineage, "store": store, "pid": os.getpid()}
        self._listeners: list[socket.socket] = []
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, public: list[socket.socket], internal: list[socket.socket]) -> None:
        """Begin to accept."""
        fault = _fault()
        if fault == "raise":
            raise RuntimeError("told to fail")
        if fault == "config":
            raise ConfigError([Problem("a.yaml", 3, "server.demo", "true", "false")])
        if fault == "exit":
            os._exit(3)
        if fault == "never":
            await asyncio.Event().wait()
        self._listeners = [*public, *internal]
        for listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def part(self) -> None:
        """Nothing: each connection ends behind its answer."""

    async def stop(self, deadline: float) -> None:
        """Accept what has come, answer it, and close the sockets; ``/slow`` holds this up until the deadline."""
        for listener in self._listeners:
            self._accept(listener)
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        if self._open:
            await asyncio.wait(self._open, timeout=deadline)

    def reload(self, config: Config) -> None:
        """Use another config; one with the key ``refuse`` is refused."""
        if config.http_api.key == "refuse" and self._facts["index"] == 1:
            raise ValueError("told to refuse")
        self._config = config

    def set_lineage(self, text: str) -> None:
        """Use another lineage."""
        self._facts["lineage"] = text

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._serve(sock))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            request = b""
            while b"\r\n\r\n" not in request:
                data = await loop.sock_recv(sock, 65536)
                if not data:
                    return
                request += data
            path = request.split()[1]
            if path == b"/hang":
                while True:
                    pass
            if path == b"/crash":
                os._exit(1)
            if path == b"/slow":
                await asyncio.sleep(60)
            await loop.sock_sendall(sock, b"HTTP/1.0 200 OK\r\n\r\n" + self._answer())

    def _answer(self) -> bytes:
        config = {"url": self._config.redis.url, "key": self._config.http_api.key, "port": self._config.server.port}
        metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        return json.dumps({**self._facts, **config, "metrics_dir": metrics_dir}).encode()


def _fault() -> str:
    path = os.environ.get("FAKE_FAULT")
    return Path(path).read_text() if path and os.path.exists(path) else ""
