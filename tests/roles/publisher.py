"""Publishers: each calls the server API at a steady rate, and repeats what it does not know the outcome of.

Run as ``python -m tests.roles.publisher SETTINGS``; tests/roles/cast.py does. Records: ``publish`` before the first
try, then one ``unknown`` per try whose outcome was not learned, and at last ``published`` or ``refused``, or neither
when the role was stopped before. A timeout, a broken connection and error 100 are unknown, never a refusal; and a
refusal that comes after an unknown try says nothing about that one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from tests import processes
from tests.roles.journal import Command, Journal, payload, perform, tag
from tests.waiting import eventually

ANSWER = 5.0
"""Seconds until a call without an answer is given up."""

BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between tries of one publication, about."""

GIVE_UP = 60.0
"""Seconds until a publication is left unknown: far less than an idempotency key is kept."""

INTERNAL = 100
"""The only error of the API that does not say that nothing was done."""

IDLE = 20.0
"""How often per second a publisher without a rate looks whether it has one."""

TRIES = 100
"""Connections to open before giving up on a certain worker."""

DEPTH = 200
"""Levels of nesting that are refused."""

_decode = msgspec.json.Decoder().decode


class Unknown(Exception):
    """It may have been done."""


class NotSent(Exception):
    """Nothing was sent, so nothing was done."""


class Call:
    """One kept connection to the API of any worker, or of the one with the process id ``worker``."""

    def __init__(self, stage: Stage, dice: random.Random, worker: int = 0) -> None:
        self.stage = stage
        self.dice = dice
        self.worker = worker
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def publish(self, body: bytes) -> dict[str, Any]:
        """The answer; :class:`NotSent`, or :class:`Unknown` for everything that is no answer."""
        try:
            async with asyncio.timeout(ANSWER):
                reader, writer = self.streams or await self.connect()
        except OSError as error:
            self.drop()
            raise NotSent from error
        try:
            async with asyncio.timeout(ANSWER):
                return await self.exchange(reader, writer, body)
        except (OSError, EOFError, ValueError) as error:
            self.drop()
            raise Unknown(repr(error)) from error

    async def outcome(self, body: bytes) -> tuple[int | None, dict[str, Any]]:
        """0 with the result, the code of an error, or None when nothing was sent."""
        try:
            answer = await self.publish(body)
        except NotSent:
            return None, {}
        except Unknown:
            return INTERNAL, {}
        return answer.get("error", {}).get("code", 0), answer.get("result", {})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, to the wanted worker."""
        for _ in range(TRIES):
            port = self.dice.choice(self.stage.ports)
            self.streams = await asyncio.open_connection("127.0.0.1", port)
            if not self.worker or await self.is_wanted(port):
                return self.streams
            self.drop()
        raise OSError(f"no connection to worker {self.worker} in {TRIES} tries")

    async def is_wanted(self, port: int) -> bool:
        """Whether the wanted worker took this connection; the kernel answers before anybody takes it."""
        assert self.streams is not None
        mine = self.streams[1].get_extra_info("sockname")[1]

        def taken() -> bool:
            return any(local == port and remote == mine for local, remote, _ in processes.connections())

        await eventually(taken, ANSWER, "a worker takes the connection")
        inodes = {inode for local, remote, inode in processes.connections() if (local, remote) == (port, mine)}
        return bool(processes.sockets(self.worker) & inodes)

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> dict[str, Any]:
        """One request and its answer."""
        writer.write(self.stage.head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        answer = await reader.readexactly(length)
        status = int(head.split(b" ", 2)[1])
        if b"connection: close" in head:
            self.drop()
        if status != 200:
            return {"error": {"code": status if status < 500 else INTERNAL}}
        found = _decode(answer)
        assert isinstance(found, dict)
        return found

    def drop(self) -> None:
        """The next call uses another connection, perhaps to another worker."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


class Publisher:
    """One after the other, as fast as ``rate`` says and answers come."""

    def __init__(self, stage: Stage, name: str, channels: list[str], dice: random.Random, worker: int) -> None:
        self.stage = stage
        self.name = name
        self.channels = channels
        self.dice = dice
        self.call = Call(stage, dice, worker)
        self.numbers = itertools.count(1)

    async def live(self) -> None:
        """Publish until the stage is over; the last publication is brought to its end."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self.stage.over.is_set():
            # Time lost in a fault is not made up for: that would be another fault.
            due = max(due + self.dice.uniform(0.5, 1.5) / (self.stage.rate or IDLE), loop.time() - 1.0)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self.stage.over.wait()
                    return
            if self.stage.rate:
                await self.publish(self.dice.choice(self.channels), GIVE_UP)
            if self.dice.random() < self.stage.move:
                self.call.drop()

    async def publish(self, channel: str, within: float, kind: str = "publish") -> str | None:
        """Publish something new, until its outcome is known; its id, or None when it was not published."""
        one = f"{self.name}-{next(self.numbers)}"
        body = "x" * self.dice.randrange(1, self.stage.size)
        data = payload(one, self.stage.tags[channel], body)
        note = self.stage.journal.note
        note(kind, channel=channel, id=one, sha=data["sha"], tag=data["tag"])
        if kind == "publish" and self.dice.random() < self.stage.refusals:
            data["more"] = msgspec.Raw(b"[" * DEPTH + b"]" * DEPTH)
        text = msgspec.json.encode({"channel": channel, "data": data, "idempotency_key": one})
        return one if await self.settle(text, channel, one, within) else None

    async def settle(self, text: bytes, channel: str, one: str, within: float) -> bool:
        """Try until the outcome is known, or time is up; whether it is published."""
        note = self.stage.journal.note
        deadline = asyncio.get_running_loop().time() + within
        unsure = False
        for number in itertools.count():
            code, result = await self.call.outcome(text)
            if code == 0:
                note("published", channel=channel, id=one, epoch=result["epoch"], offset=result["offset"])
                return True
            if code == INTERNAL:
                unsure = True
                note("unknown", channel=channel, id=one)
            elif code is not None:
                if not unsure:
                    note("refused", channel=channel, id=one, code=code)
                return False
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(self.dice.uniform(0.5, 1.5) * BACKOFF[min(number, len(BACKOFF) - 1)])
        return False


class Stage:
    """What the publishers of one process share."""

    def __init__(self, settings: dict[str, Any], journal: Journal) -> None:
        self.journal = journal
        self.ports: list[int] = settings["ports"]
        self.rate: float = settings["rate"]
        self.size: int = settings["size"]
        self.move: float = settings["move"]
        self.refusals: float = settings["refusals"]
        self.tags = {channel: tag(settings["secret"], settings["prefix"], channel) for channel in settings["channels"]}
        self.head = (
            f"POST {settings['prefix']}/api/publish HTTP/1.1\r\nHost: localhost\r\n"
            f"X-API-Key: {settings['api_key']}\r\nContent-Type: application/json\r\n"
        ).encode()
        self.over = asyncio.Event()
        self.probing = Publisher(self, f"{settings['name']}-probe", [], random.Random(os.getpid()), 0)
        self.publishers = [
            Publisher(self, one["name"], settings["channels"], random.Random(one["seed"]), one["worker"])
            for one in settings["publishers"]
        ]
        self.tasks = [asyncio.create_task(publisher.live()) for publisher in self.publishers]

    async def answer(self, command: Command) -> Any:
        """One command of the cast."""
        if command["do"] == "rate":
            self.rate = command["rate"]
        if command["do"] == "probe":
            return await self.probe(command["channels"], command["within"])
        if command["do"] in ("over", "finish", "stop"):
            self.over.set()
        if command["do"] == "finish":
            await asyncio.wait(self.tasks, timeout=command["within"]) if self.tasks else None
        if command["do"] == "stop":
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()
        return {name: self.journal.counts.get(name, 0) for name in ("publish", "published", "refused", "unknown")}

    async def probe(self, channels: list[str], within: float) -> dict[str, str]:
        """Publish one more to each channel; the ids by channel, of those that were."""
        ids = await asyncio.gather(*(self.one_probe(channel, within) for channel in channels))
        return {channel: one for channel, one in zip(channels, ids, strict=True) if one is not None}

    async def one_probe(self, channel: str, within: float) -> str | None:
        """Over a connection of its own."""
        probing = Publisher(self, f"{self.probing.name}-{next(self.probing.numbers)}", [], self.probing.dice, 0)
        try:
            return await probing.publish(channel, within, "probe")
        finally:
            probing.call.drop()


async def role(settings: dict[str, Any], journal: Journal) -> Callable[[Command], Awaitable[Any]]:
    """Begin."""
    return Stage(settings, journal).answer


if __name__ == "__main__":
    perform(role)
