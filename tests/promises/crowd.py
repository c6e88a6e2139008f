"""A crowd: thousands of SDK-style clients in a process of their own, which come back all at once and count mistakes.

Run as ``python -m tests.promises.crowd PORT``; :class:`Crowd` does, and speaks to it over its standard input and
output, one JSON object per line. Each client follows one channel and is where it is by epoch and offset. What a record
per publication would cost here is spared: a client knows which offset comes next, so holes and repeats are counted on
the spot.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import msgspec
import uvloop

from tests.servers import ROOT

SOURCES = 4
"""Addresses of ours that connections come from, so that ports do not run out: 127.0.0.2 and up."""

BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of ip(7)."""

AT_ONCE = 200
"""Connections that are being opened while the crowd gathers."""

GATHER = 90.0
"""Seconds until a crowd must have gathered."""

RETRY = 1.0
"""Seconds, about, until a client that was turned away tries again."""

_REQUEST = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_decode = msgspec.json.Decoder().decode


def frame(payload: bytes) -> bytes:
    """A text frame of a client, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + payload


class Member(asyncio.Protocol):
    """One client. ``at`` is the offset that it has; ``whole`` is that it is subscribed and nothing is missing."""

    __slots__ = ("at", "began", "channel", "crowd", "epoch", "head", "inside", "node", "rest", "source", "transport")

    def __init__(self, crowd: Throng, channel: str, source: str) -> None:
        self.crowd = crowd
        self.channel = channel
        self.source = source
        self.epoch = ""
        self.at = -1
        self.node = ""
        self.inside = False
        self.head = False
        self.rest = b""
        self.began = 0.0
        self.transport: asyncio.Transport | None = None

    async def come(self) -> None:
        """Connect, until it is connected."""
        self.began = time.monotonic()
        loop = asyncio.get_running_loop()
        while True:
            made = socket.socket()
            made.setblocking(False)
            # The port is chosen with the connection: of those that bind() would choose, most may go to one worker.
            made.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            made.bind((self.source, 0))
            try:
                await loop.sock_connect(made, ("127.0.0.1", self.crowd.port))
                await loop.create_connection(lambda: self, sock=made)
                return
            except OSError:
                made.close()
                self.crowd.counts["connect errors"] += 1
                await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))

    def leave(self) -> None:
        """Go."""
        if self.transport is not None:
            transport, self.transport, self.inside = self.transport, None, False
            # With a reset, so that its port can be used again at once.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.head, self.rest = False, b""
        self.transport.write(_REQUEST)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is None:
            return
        self.transport = None
        self.crowd.counts["lost"] += 1
        was, self.inside = self.inside, False
        if self.crowd.returning:
            self.crowd.counts["cut again" if was else "turned away"] += 1
            self.crowd.later(RETRY * random.uniform(0.5, 1.5), self)

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        if not self.head:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self.rest = data
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.crowd.counts[f"status {head[9:12].decode()}"] += 1
                return  # the server closes
            self.head = True
            assert self.transport is not None
            self.transport.write(frame(b'{"id":1,"connect":{}}\n' + self.subscribe()))
            data = rest
        at = 0
        while len(data) - at >= 2 and self.transport is not None:
            length, start = data[at + 1], at + 2
            if length >= 126:
                start += 2 if length == 126 else 8
                if len(data) < start:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start + length:
                break
            if data[at] & 15 == 1:
                for line in data[start : start + length].split(b"\n"):
                    self.take(line)
            at = start + length
        self.rest = data[at:]

    def subscribe(self) -> bytes:
        """The command, from where it is."""
        asked: dict[str, Any] = {"channel": self.channel}
        if self.at >= 0:
            asked |= {"recover": True, "epoch": self.epoch, "offset": self.at}
        return json.dumps({"id": 2, "subscribe": asked}).encode()

    def take(self, line: bytes) -> None:
        """One reply or push."""
        message = _decode(line)
        counts = self.crowd.counts
        if not message:
            assert self.transport is not None
            self.transport.write(frame(b"{}"))
        elif "connect" in message:
            self.node = message["connect"]["node"]
        elif "subscribe" in message:
            self.subscribed(message["subscribe"])
        elif "error" in message:
            counts[f"error {message['error']['code']}"] += 1
            asyncio.get_running_loop().call_later(RETRY * random.uniform(0.1, 0.5), self.again)
        elif "pub" in message.get("push", {}):
            self.receive(message["push"]["pub"]["offset"])
        elif "unsubscribe" in message.get("push", {}):
            counts["unsubscribed"] += 1
            self.inside = False
            self.again()

    def again(self) -> None:
        """Subscribe once more."""
        if self.transport is not None:
            self.transport.write(frame(self.subscribe()))

    def subscribed(self, result: dict[str, Any]) -> None:
        """It is inside, with what it missed."""
        counts, offset = self.crowd.counts, result.get("offset", 0)
        if self.at < 0 or not result.get("recovered") or result["epoch"] != self.epoch:
            counts["fresh" if self.at < 0 else "gaps"] += 1
            self.epoch, self.at = result["epoch"], offset
        else:
            counts["recovered"] += 1
            counts["wrong start"] += offset != self.at
        for publication in result.get("publications", ()):
            self.receive(publication["offset"])
        self.inside = True
        self.crowd.inside(self)

    def receive(self, offset: int) -> None:
        """The next one, or something is wrong."""
        counts = self.crowd.counts
        counts["received"] += 1
        if offset != self.at + 1:
            counts["holes" if offset > self.at else "repeats"] += 1
        self.at = max(self.at, offset)


def peak(moments: Sequence[float], within: float = 1.0) -> int:
    """The most of the moments that lie within so many seconds."""
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > within:
            first += 1
        most = max(most, last - first + 1)
    return most


class Throng:
    """All members of this process."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.members: list[Member] = []
        self.counts: Counter[str] = Counter()
        self.returning = False
        self.back: list[tuple[float, float]] = []  # (when, seconds that it took) of those that are back
        self.tasks: set[asyncio.Task[None]] = set()

    def later(self, delay: float, member: Member) -> None:
        """Have it come, after a while."""
        asyncio.get_running_loop().call_later(delay, self.start, member)

    def start(self, member: Member) -> None:
        """Have it come."""
        task = asyncio.ensure_future(member.come())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def inside(self, member: Member) -> None:
        """It is subscribed."""
        now = time.monotonic()
        self.back.append((now, now - member.began))

    async def gather(self, count: int, channels: list[str], node: str) -> dict[str, Any]:
        """Bring so many inside, all on the worker ``node`` (empty: the first one's); the node."""
        deadline = time.monotonic() + GATHER
        names, sources = itertools.cycle(channels), itertools.cycle(f"127.0.0.{2 + n}" for n in range(SOURCES))
        while len(self.members) < count:
            assert time.monotonic() < deadline, f"{len(self.members)} of {count} after {GATHER:g} s"
            room = min(AT_ONCE, 2 * (count - len(self.members)))
            fresh = [Member(self, next(names), next(sources)) for _ in range(room)]
            await asyncio.gather(*(member.come() for member in fresh))
            while not all(member.inside for member in fresh):
                assert time.monotonic() < deadline, "not all are inside"
                await asyncio.sleep(0.005)
            node = node or fresh[0].node
            for member in fresh:
                if member.node == node and len(self.members) < count:
                    self.members.append(member)
                else:
                    member.leave()
        return {"node": node}

    def storm(self, within: float) -> dict[str, Any]:
        """Have everybody who is outside come back, at random moments of the next ``within`` seconds."""
        self.returning = True
        self.counts.clear()
        self.back.clear()
        outside = [member for member in self.members if not member.inside]
        for member in outside:
            self.later(random.uniform(0, within), member)
        return {"outside": len(outside), "began": time.monotonic()}

    def status(self, offset: int) -> dict[str, Any]:
        """How many are inside, and at ``offset``; and everything that was counted."""
        took = sorted(seconds for _, seconds in self.back)
        return {
            "inside": sum(member.inside for member in self.members),
            "there": sum(member.inside and member.at == offset for member in self.members),
            "counts": dict(self.counts),
            "peak": peak([at for at, _ in self.back]),
            "back_at": max((at for at, _ in self.back), default=0.0),
            "took": {str(part): took[int(part * (len(took) - 1))] for part in (0.5, 0.99, 1.0)} if took else {},
            "cpu": time.process_time(),
        }

    def scatter(self) -> dict[str, Any]:
        """Everybody leaves."""
        self.returning = False
        for member in self.members:
            member.leave()
        self.members.clear()
        return {}

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        match asked.pop("do"):
            case "gather":
                return await self.gather(**asked)
            case "storm":
                return self.storm(**asked)
            case "status":
                return self.status(**asked)
            case _:
                return self.scatter()


class Crowd:
    """The process, from outside: ``with Crowd(server.port) as crowd``."""

    def __init__(self, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.promises.crowd", str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, do: str, **fields: Any) -> Any:
        """One command, and its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the crowd has ended"
        return json.loads(line)

    def gather(self, count: int, channels: Sequence[str], node: str = "") -> str:
        """Bring so many inside on one worker; its name."""
        found: str = self.ask("gather", count=count, channels=list(channels), node=node)["node"]
        return found

    def storm(self, within: float) -> dict[str, Any]:
        """Everybody comes back; how many, and when it began."""
        found: dict[str, Any] = self.ask("storm", within=within)
        return found

    def status(self, offset: int) -> dict[str, Any]:
        """See :meth:`Throng.status`."""
        found: dict[str, Any] = self.ask("status", offset=offset)
        return found


async def main(port: int) -> None:
    """Until standard input ends."""
    throng = Throng(port)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), sys.stdin.buffer)
    while line := await reader.readline():
        answer = await throng.answer(json.loads(line))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
