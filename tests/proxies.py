"""A proxy between a server and its store, with faults as switches and ``with`` blocks."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis

_MORE = object()


class Proxy:
    """Passes a store's connections through: ``async with Proxy(store.socket) as proxy: ... proxy.url``."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._made = tempfile.TemporaryDirectory(prefix="rt-proxy-")
        self._socket = Path(self._made.name) / "proxy.sock"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._swallow: tuple[bytes, ...] = ()
        self._open = asyncio.Event()
        self.swallowed = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self._socket}"

    async def __aenter__(self) -> Self:
        self._open.set()
        self._server = await asyncio.start_unix_server(self._accept, str(self._socket))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._made.cleanup()

    # Faults

    @contextlib.contextmanager
    def swallowing(self, *kinds: bytes) -> Iterator[None]:
        """Replies that are arrays beginning with one of ``kinds`` (``message``, ``subscribe``, ...) do not come
        through."""
        self._swallow = kinds
        try:
            yield
        finally:
            self._swallow = ()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The store's bytes wait; nothing shows an error."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    # Passing through

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there = await asyncio.open_unix_connection(str(self.target))
            with contextlib.closing(there[1]):
                ways = [
                    asyncio.create_task(self._up(reader, there[1])),
                    asyncio.create_task(self._down(there[0], writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader(notEnoughData=_MORE)
        while data := await reader.read(65536):
            await self._open.wait()
            if self._swallow:
                parser.feed(data)
                data = b"".join(_packed(value) for value in iter(parser.gets, _MORE) if not self._is_swallowed(value))
            writer.write(data)
            await writer.drain()

    def _is_swallowed(self, value: Any) -> bool:
        taken = isinstance(value, list) and bool(value) and value[0] in self._swallow
        self.swallowed += taken
        return taken


def _packed(value: Any) -> bytes:
    """RESP2 of a reply."""
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(_packed, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, Exception):
        return b"-%s\r\n" % str(value).encode()
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
