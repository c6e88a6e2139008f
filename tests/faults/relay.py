"""The process between a server and its store. :class:`tests.faults.link.Link` starts it and tells it what to do.

It needs nothing but the standard library. ``python relay.py FD SETTINGS`` listens on the address of SETTINGS (JSON:
a path, or host and port), says so on the socket FD, reads one JSON object per line from there, answers each with one,
and ends when the socket does, that is, with its parent. See :class:`Relay` for what can be asked.

All that comes from the store is cut into whole replies on its way, so single ones can be taken out, unless the line is
``raw``. A fault is in force
for the connections whose client's name holds its ``to`` ("" is in all names), and for the ways it names: ``up`` to the
store, ``down`` to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHUNK = 65536
"""Bytes that are read at once."""

QUEUED = 64
"""Chunks that wait in one way; nothing more is read then, as when a wire is full."""

_NAME = re.compile(rb"SETNAME\r\n\$\d+\r\n([^\r\n]*)\r\n", re.IGNORECASE)
_HARD = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset


class Replies:
    """Cuts bytes in RESP2 into whole replies."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The replies that are whole now, as the bytes they came in."""
        held = self._held
        held += data
        begin = 0
        while (end := self._end(begin)) > 0:
            yield bytes(held[begin:end])
            begin = end
        del held[:begin]

    def rest(self) -> bytes:
        """What is left of a reply that was broken off."""
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def _end(self, begin: int) -> int:
        """Where the reply at ``begin`` ends; 0 when it is not all there."""
        held, due = self._held, 1
        while due:
            line = held.find(b"\r\n", begin)
            if line < 0:
                return 0
            kind, due, after = held[begin], due - 1, line + 2
            if kind == ord("*"):
                due += max(int(held[begin + 1 : line]), 0)
            elif kind == ord("$"):
                after += int(held[begin + 1 : line]) + 2 if held[begin + 1] != ord("-") else 0  # -1 is none
            if after > len(held):
                return 0
            begin = after
        return begin


def words(reply: bytes) -> list[bytes]:
    """The kind of a push and its name: the first two strings of an array; none for any other reply."""
    parts = reply.split(b"\r\n", 5)
    return parts[2:5:2] if reply[:1] == b"*" and len(parts) == 6 and parts[1][:1] == b"$" else []


class Fault:
    """One fault in force, as it was asked for."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.kind: str = asked["kind"]
        self.ways: list[str] = asked["ways"]
        self.to: str = asked["to"]
        self.asked = asked
        self.seen: dict[Pass, int] = {}  # what it has counted, per connection
        self.done = 0


class Way:
    """One direction of one connection."""

    def __init__(self, passing: Pass, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.passing = passing
        self.relay = passing.relay
        self.name = name
        self.reader = reader
        self.writer = writer
        self.closed = False
        self._replies = Replies() if name == "down" and not self.relay.raw else None
        self._queue: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(QUEUED)
        self._due = 0.0

    def faults(self, kind: str) -> list[Fault]:
        """Those of one kind that are in force here."""
        return [
            fault
            for fault in self.relay.faults.values()
            if fault.kind == kind and self.name in fault.ways and fault.to in self.passing.client
        ]

    # From one end

    async def take(self, first: bytes) -> None:
        """Read until the end."""
        data = first or await self.reader.read(CHUNK)
        while data:
            await self._open()
            await self._queue.put((self._when(), self._sifted(data)))
            data = await self.reader.read(CHUNK)
        await self._open()
        if self._replies is not None:
            await self._queue.put((self._due, self._replies.rest()))
        await self._queue.put((self._due, None))

    async def _open(self) -> None:
        """Wait while there is a black hole."""
        while self.faults("hole"):
            await self.relay.change()

    def _when(self) -> float:
        delay = sum(
            max(0.0, fault.asked["latency"] + self.relay.chance.uniform(-1, 1) * fault.asked["jitter"])
            for fault in self.faults("slow")
        )
        self._due = max(self._due, self.relay.loop.time() + delay)
        return self._due

    def _sifted(self, data: bytes) -> bytes:
        if self._replies is None:
            return data
        return b"".join(reply for reply in self._replies.feed(data) if not self._is_swallowed(reply))

    def _is_swallowed(self, reply: bytes) -> bool:
        swallowing = self.faults("swallow")
        if not swallowing or not (found := words(reply)):
            return False
        kind, name = (word.decode(errors="replace") for word in found)
        for fault in swallowing:
            if kind in fault.asked["kinds"] and fault.asked["about"] in name:
                seen = fault.seen[self.passing] = fault.seen.get(self.passing, 0) + 1
                if seen % fault.asked["every"] == 0:
                    self.relay.counts["swallowed"] += 1
                    return True
        return False

    # To the other

    async def give(self) -> None:
        """Write until the end."""
        while True:
            due, data = await self._queue.get()
            while self.relay.loop.time() < due and self.faults("slow"):
                await self.relay.change(due - self.relay.loop.time())
            await self._open()
            if data is None:
                self.end()
                return
            await self._write(data)

    def end(self) -> None:
        """Say that nothing more comes."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):
                self.writer.write_eof()

    async def _write(self, data: bytes) -> None:
        for piece, pause in self._pieces(data):
            cut = self._cut(piece)
            piece = piece if cut is None else piece[: cut[0]]
            if piece and not self.closed:
                self.relay.counts[self.name] += len(piece)
                self.writer.write(piece)
                await self.writer.drain()
            if cut is not None:
                self.relay.counts["cut"] += 1
                self.passing.end(hard=cut[1])
                return
            if pause:
                await self.relay.change(pause)
            await self._open()

    def _pieces(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        """``data`` in the pieces in which it is written, each with the pause after it. Faults may change meanwhile."""
        begin = 0
        while begin < len(data):
            size, pause = CHUNK, 0.0
            for fault in self.faults("slice"):
                size, pause = min(size, fault.asked["size"]), pause + fault.asked["pause"]
            rates = [fault.asked["rate"] for fault in self.faults("narrow")]
            if rates:
                size = min(size, max(1, int(min(rates) / 20)))
            piece = data[begin : begin + size]
            yield piece, pause + (len(piece) / min(rates) if rates else 0.0)
            begin += size

    def _cut(self, piece: bytes) -> tuple[int, bool] | None:
        """Behind which byte of ``piece`` the connection is cut, and whether hard; None when it is not."""
        for fault in self.passing.cuts():
            asked, seen = fault.asked, fault.seen.get(self.passing)
            begin = 0
            if seen is None:
                text: bytes = asked["of"].encode()
                begin = piece.find(text) if self.name == "up" or not text else -1
                if begin < 0:
                    continue
                seen = fault.seen[self.passing] = 0
            if self.name not in fault.ways:
                continue
            left = asked["after"] - seen
            if len(piece) - begin >= left:
                fault.done += 1
                return begin + left, asked["hard"]
            fault.seen[self.passing] = seen + len(piece) - begin
        return None


class Pass:
    """One connection of the server, and the one to the store that belongs to it."""

    def __init__(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.relay = relay
        self.client = ""
        self._near = (reader, writer)
        self._writers = [writer]
        self.up: Way | None = None
        self.down: Way | None = None
        self._over = asyncio.Event()

    async def run(self) -> None:
        """From the first bytes, which tell who it is and so where it leads, to the end."""
        try:
            with contextlib.suppress(OSError):
                first = await self._near[0].read(CHUNK)
                if first:
                    named = _NAME.search(first)
                    self.client = named[1].decode(errors="replace") if named else ""
                    await self._run(first)
        finally:
            self.end(hard=False)
            self.relay.passes.discard(self)
            for fault in self.relay.faults.values():
                fault.seen.pop(self, None)

    async def _run(self, first: bytes) -> None:
        target = self.relay.target(self.client)
        if isinstance(target, str):
            far = await asyncio.open_unix_connection(target)
        else:
            far = await asyncio.open_connection(*target)
        self._writers.append(far[1])
        for writer in self._writers:
            writer.transport.set_write_buffer_limits(0)  # what is drained is with the kernel
        self.up = Way(self, "up", self._near[0], far[1])
        self.down = Way(self, "down", far[0], self._near[1])
        ends = [self.up.take(first), self.up.give(), self.down.take(b""), self.down.give()]
        both = asyncio.gather(*ends)
        over = asyncio.ensure_future(self._over.wait())
        waiting: list[asyncio.Future[Any]] = [both, over]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if both.done() and both.exception() is not None:
                self.end(hard=True)  # what broke on one side breaks on the other
        finally:
            over.cancel()
            both.cancel()
            await asyncio.gather(both, over, return_exceptions=True)

    def cuts(self) -> list[Fault]:
        """The cuts that may still happen to this connection."""
        return [
            fault
            for fault in self.relay.faults.values()
            if fault.kind == "cut"
            and fault.to in self.client
            and (not fault.asked["times"] or fault.done < fault.asked["times"])
        ]

    def end(self, *, hard: bool) -> None:
        """Close both sides, ``hard`` with a reset where the socket knows of that."""
        for writer in self._writers:
            there = writer.get_extra_info("socket")
            if hard and there is not None and there.family != socket.AF_UNIX and there.fileno() >= 0:
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HARD)
            writer.transport.abort()
        self._over.set()


class Relay:
    """What goes through, and what is asked.

    ``{"do": "point", "target": "/path" or ["host", port], "to": ""}``: where new connections lead.
    ``{"do": "unpoint", "to": ...}`` takes it back, for a ``to`` that is not "".
    ``{"do": "begin", "id": n, "kind": ..., "ways": [...], "to": ..., ...}`` and ``{"do": "end", "id": n}``: a fault.
    ``{"do": "reset" or "close", "to": ...}``: end connections; how many.
    ``{"do": "half", "ways": [...], "to": ...}``: say to the far end of a way that nothing more comes; how many.
    ``{"do": "refuse"}`` and ``{"do": "accept"}``: close the listening socket, open it again.
    ``{"do": "look"}``: the counts, and the names of the clients.
    """

    def __init__(self, listener: socket.socket, *, seed: int, raw: bool) -> None:
        self.raw = raw
        self.loop = asyncio.get_running_loop()
        self.chance = random.Random(seed)
        self.faults: dict[int, Fault] = {}
        self.passes: set[Pass] = set()
        self.counts = {"accepted": 0, "swallowed": 0, "cut": 0, "up": 0, "down": 0}
        self._targets: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = listener
        self.address: Any = listener.getsockname()
        self._server: asyncio.Server | None = None
        self._asked: dict[str, Callable[[dict[str, Any]], Any]] = {
            "point": self._point, "unpoint": self._unpoint, "begin": self._begin, "end": self._end,
            "reset": self._reset, "close": self._close, "half": self._half, "look": self._look,
        }  # fmt: skip

    def target(self, client: str) -> Any:
        """Where a client's connection leads: what was said last about a piece of its name."""
        return [target for to, target in self._targets.items() if to in client][-1]

    async def change(self, seconds: float | None = None) -> None:
        """Wait until a fault begins or ends, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # What is asked

    async def answer(self, asked: dict[str, Any]) -> Any:
        """Do it."""
        if asked["do"] == "refuse":
            assert self._server is not None
            self._server.close()
            self._server = None
        elif asked["do"] == "accept":
            await self.accept()
        else:
            return self._asked[asked["do"]](asked)
        return None

    async def accept(self) -> None:
        """Listen, on the same address as ever."""
        if self._listener.fileno() < 0:
            self._listener = listening(self.address)
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = Pass(self, reader, writer)
        self.counts["accepted"] += 1
        self.passes.add(passing)
        task = asyncio.ensure_future(passing.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _point(self, asked: dict[str, Any]) -> None:
        self._targets[asked["to"]] = asked["target"]  # "" comes first for ever

    def _unpoint(self, asked: dict[str, Any]) -> None:
        del self._targets[asked["to"]]

    def _begin(self, asked: dict[str, Any]) -> None:
        self.faults[asked["id"]] = Fault(asked)
        self._wake()

    def _end(self, asked: dict[str, Any]) -> None:
        del self.faults[asked["id"]]
        self._wake()

    def _of(self, asked: dict[str, Any]) -> list[Pass]:
        return [passing for passing in self.passes if asked["to"] in passing.client]

    def _reset(self, asked: dict[str, Any]) -> int:
        return self._finish(self._of(asked), hard=True)

    def _close(self, asked: dict[str, Any]) -> int:
        return self._finish(self._of(asked), hard=False)

    def _finish(self, passes: list[Pass], *, hard: bool) -> int:
        for passing in passes:
            passing.end(hard=hard)
        return len(passes)

    def _half(self, asked: dict[str, Any]) -> int:
        both = [way for passing in self._of(asked) for way in (passing.up, passing.down) if way is not None]
        meant = [way for way in both if way.name in asked["ways"]]
        for way in meant:
            way.end()
        return len(meant)

    def _look(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"counts": self.counts, "clients": sorted(passing.client for passing in self.passes)}


def listening(address: Any) -> socket.socket:
    """A socket that listens on a path, or a host and port."""
    made = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if isinstance(address, str):
        Path(address).unlink(missing_ok=True)
    made.bind(address if isinstance(address, str) else tuple(address))
    made.listen(1024)
    return made


async def main(fd: int, settings: dict[str, Any]) -> None:
    """Until the parent is gone."""
    relay = Relay(listening(settings["address"]), seed=settings["seed"], raw=settings["raw"])
    await relay.accept()
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    said: Any = relay.address
    while True:
        writer.write(json.dumps(said).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
        if not line:
            return
        said = await relay.answer(json.loads(line))


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):
        asyncio.run(main(int(sys.argv[1]), json.loads(sys.argv[2])))
