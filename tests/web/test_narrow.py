"""The demo's slow network: as much as the line is wide, in order, and whoever writes learns when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from rt.web import narrow
from rt.web.narrow import FIRST, Narrow


class Wide:
    """A sink that takes everything."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.calls: list[str] = []
        self.send: Callable[[bytes], int] = self.take

    def take(self, data: bytes) -> int:
        """As a socket."""
        self.taken += data
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)


def walk(test: Callable[[Wide, Narrow], Any], rate: int = 10_000) -> None:
    """Run a test on a running loop."""

    async def run() -> None:
        wide = Wide()
        line = Narrow(cast("Any", wide), rate)
        async with asyncio.timeout(10):
            await test(wide, line)
        line.close()

    asyncio.run(run())


def test_what_is_more_than_the_line_takes_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """First what a beginning needs, then so much a second, until all is out and nobody is called any more."""
    monkeypatch.setattr(narrow, "STEP", 0.01)

    async def test(wide: Wide, line: Narrow) -> None:
        loop = asyncio.get_running_loop()
        data, out = bytes(range(256)) * 20, asyncio.Event()
        begun = loop.time()
        sent = line.send(data)
        assert FIRST <= sent < FIRST + 500

        def drain() -> None:
            nonlocal sent
            try:
                sent += line.send(data[sent:])
            except BlockingIOError:
                return
            if sent == len(data):
                line.unwatch()
                out.set()

        line.watch(drain)
        await out.wait()
        assert bytes(wide.taken) == data
        assert loop.time() - begun >= (len(data) - FIRST) / 10_000 * 0.9

    walk(test)


def test_a_full_line_takes_nothing() -> None:
    """As a socket that would block."""

    async def test(wide: Wide, line: Narrow) -> None:
        assert line.send(b"x" * FIRST) == FIRST
        with pytest.raises(BlockingIOError):
            line.send(b"x")

    walk(test, rate=100)


def test_the_rest_is_the_sinks_own() -> None:
    """Reading, ending and closing."""

    async def test(wide: Wide, line: Narrow) -> None:
        line.start(cast("Any", None))
        line.pause()
        line.resume()
        line.end()
        line.watch(lambda: None)
        line.close()
        assert wide.calls == ["start", "pause", "resume", "end", "close"]

    walk(test)
