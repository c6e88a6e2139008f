"""Readers: each follows some channels for ever, over one of three doors, and comes back from where it is.

Run as ``python -m tests.roles.reader SETTINGS``; tests/roles/cast.py does. Many readers live in one process. What a
reader is told it writes down as it is told; it never explains anything away. Records: ``follow`` once per channel, then
``subscribed``, ``recv``, ``gap``, ``left`` and ``closed`` as tests/checker.py reads them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec

from tests.roles.journal import Command, Journal, perform, seen
from tests.roles.wire import Turned, Wire, stream, upgrade

BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts to come back, about; the last one again and again."""

ANSWER = 5.0
"""Seconds after which a command without an answer is given up, and the connection with it."""

STAY = 2500
"""From this code on an unsubscribe invites to subscribe again."""

_decode = msgspec.json.Decoder().decode


class Reader:
    """One client. ``places`` is where it is in each channel, ``inside`` the channels it is subscribed to now."""

    def __init__(self, stage: Stage, name: str, channels: list[str], dice: random.Random) -> None:
        self.stage = stage
        self.name = name
        self.channels = channels
        self.dice = dice
        self.places: dict[str, tuple[str, int]] = {}
        self.inside: set[str] = set()
        self.newest: dict[str, Any] = {}
        self.tries = 0
        self.wire: Wire | None = None
        for channel in channels:
            self.note("follow", channel)

    # Notes

    def note(self, do: str, channel: str, **fields: Any) -> None:
        """A record about a channel."""
        self.stage.journal.note(do, client=self.name, channel=channel, **fields)

    def take_place(self, do: str, channel: str, told: dict[str, Any], **fields: Any) -> None:
        """Subscribed, or a gap: from this position on everything is owed."""
        self.places[channel] = place = (told.get("epoch", ""), told.get("offset", 0))
        self.inside.add(channel)
        self.tries = 0
        self.note(do, channel, epoch=place[0], offset=place[1], **fields)

    def take_subscribed(self, channel: str, told: dict[str, Any]) -> None:
        """A granted subscription, with what was recovered."""
        flags = {name: bool(told.get(name)) for name in ("recovered", "was_recovering")}
        self.take_place("subscribed", channel, told, **flags)
        for publication in told.get("publications", ()):
            self.take_publication(channel, publication, self.places[channel][0])

    def take_publication(self, channel: str, publication: dict[str, Any], epoch: str, **more: Any) -> None:
        """One publication, in the epoch that the reader is told or last was."""
        offset = publication.get("offset", 0)
        what = seen(publication.get("data"))
        self.places[channel] = (epoch, offset)
        self.newest[channel] = what["id"]
        self.note("recv", channel, epoch=epoch, offset=offset, **what, **more)

    def take_left(self, channel: str, code: int) -> None:
        """Nothing more is owed until it is subscribed again."""
        if channel in self.inside:
            self.inside.remove(channel)
            self.note("left", channel, code=code)

    # Life

    async def live(self) -> None:
        """Connect again and again, until the stage is cancelled."""
        await asyncio.sleep(self.dice.random() * self.stage.ramp)
        while True:
            code = await self.visit()
            for channel in self.channels:
                self.take_left(channel, 0)
            if code is not None:
                self.stage.journal.note("closed", client=self.name, code=code)
            await asyncio.sleep(self.dice.uniform(0.5, 1.5) * BACKOFF[min(self.tries, len(BACKOFF) - 1)])
            self.tries += 1

    async def visit(self) -> int | None:
        """One connection, until the server or this reader ends it; the close code, or status, of the server."""
        self.wire = wire = self.make_wire()
        try:
            await wire.open(self.dice.choice(self.stage.ports), self.stage.receive_buffer)
            self.greet()
            async with asyncio.timeout(self.patience()):
                return await self.stay(wire)
        except Turned as turned:
            return turned.status or None
        except TimeoutError:
            wire.leave(politely=self.dice.random() < 0.5)
            return None
        finally:
            wire.leave()

    def patience(self) -> float | None:
        """How long this reader bears one connection: it is restless at random."""
        mean = self.stage.reconnect_every
        return self.dice.expovariate(1 / mean) if mean else None

    async def stay(self, wire: Wire) -> int | None:
        """Until the connection ends; now and then without reading."""
        while self.stage.pause_every and not wire.ended.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.dice.expovariate(1 / self.stage.pause_every)):
                    await asyncio.shield(wire.ended)
                    break
            wire.pause()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.dice.random() * self.stage.pause):
                    await self.stage.calm.wait()
            wire.resume()
        return self.told(await wire.ended)

    # The door

    def make_wire(self) -> Wire:
        """The request with which this reader comes (back)."""
        raise AssertionError("each door has its own")

    def greet(self) -> None:
        """The first words, where the request does not say it all."""

    def told(self, code: int | None) -> int | None:
        """The code with which the server ended it, when it said one elsewhere than in a close frame."""
        return code


class Sdk(Reader):
    """The protocol of the SDKs, as they do it: recovery from the own position, and again after 2500."""

    def make_wire(self) -> Wire:
        self.ids = 0
        self.asked: dict[int, str] = {}
        return Wire(upgrade(f"{self.stage.prefix}/connection/websocket"), self.take)

    def greet(self) -> None:
        self.command("connect", "", {"token": self.stage.token} if self.stage.token else {})

    def command(self, method: str, channel: str, fields: dict[str, Any]) -> None:
        """Send one; the connection is given up when no answer comes in time."""
        assert self.wire is not None
        self.ids += 1
        self.asked[self.ids] = channel
        self.wire.send(msgspec.json.encode({"id": self.ids, method: fields}))
        asyncio.get_running_loop().call_later(ANSWER, self.miss, self.wire, self.ids)

    def miss(self, wire: Wire, number: int) -> None:
        """No answer came: what became of the command is unknown, so this connection is of no use."""
        if wire is self.wire and number in self.asked:
            wire.leave()

    def subscribe(self, channel: str) -> None:
        """From where this reader is."""
        fields: dict[str, Any] = {"channel": channel}
        if channel in self.places:
            epoch, offset = self.places[channel]
            fields |= {"recover": True, "epoch": epoch, "offset": offset}
        self.command("subscribe", channel, fields)

    def again(self, wire: Wire, channel: str) -> None:
        """Subscribe once more, unless it is another connection by now."""
        if wire is self.wire and not wire.ended.done():
            self.subscribe(channel)

    def take(self, message: bytes) -> None:
        """One message: a reply, push or ping per line."""
        for line in message.splitlines():
            told = _decode(line)
            if "push" in told:
                self.take_push(told["push"])
            elif "id" in told:
                self.take_reply(told)
            elif self.wire is not None:
                self.wire.send(b"{}")

    def take_push(self, push: dict[str, Any]) -> None:
        """A publication, or the end of a subscription."""
        channel = push.get("channel", "")
        if "pub" in push:
            self.take_publication(channel, push["pub"], self.places.get(channel, ("", 0))[0])
        elif "unsubscribe" in push:
            code = push["unsubscribe"]["code"]
            self.take_left(channel, code)
            if code >= STAY:
                self.subscribe(channel)

    def take_reply(self, reply: dict[str, Any]) -> None:
        """Of connect or subscribe. A temporary error is asked again, another one ends the connection."""
        channel = self.asked.pop(reply["id"])
        error = reply.get("error")
        assert self.wire is not None
        if error is None and channel:
            self.take_subscribed(channel, reply["subscribe"])
        elif error is None:
            for name in self.channels:
                self.subscribe(name)
        else:
            self.stage.journal.note("error", client=self.name, channel=channel, code=error["code"])
            if channel and error.get("temporary"):
                delay = self.dice.uniform(0.1, 0.5)
                asyncio.get_running_loop().call_later(delay, self.again, self.wire, channel)
            else:
                self.wire.leave()


class Plain(Reader):
    """``/ws``: one message per thing, each with the cursor to come back with."""

    door = "/ws"

    def __init__(self, stage: Stage, name: str, channels: list[str], dice: random.Random) -> None:
        super().__init__(stage, name, channels, dice)
        self.cursor = ""
        self.farewell: int | None = None
        names = "&".join(f"channel={quote(channel, safe='')}" for channel in channels)
        self.path = f"{stage.prefix}{self.door}?{names}" + (f"&token={stage.token}" if stage.token else "")

    def make_wire(self) -> Wire:
        since = f"&since={quote(self.cursor, safe='')}" if self.cursor else ""
        return Wire(upgrade(self.path + since), self.take)

    def take(self, message: bytes) -> None:
        """One message."""
        told = _decode(message)
        self.cursor = told.get("cursor", self.cursor)
        if "pub" in told:
            self.take_pub(told["channel"], told["pub"])
        elif "connect" in told:
            self.take_connect(told["connect"])
        elif "gap" in told:
            self.take_place("gap", told["channel"], told["gap"])

    def take_connect(self, told: dict[str, Any]) -> None:
        """The first thing said: where each channel begins."""
        for channel, subscribed in told["subs"].items():
            self.take_subscribed(channel, subscribed)

    def take_pub(self, channel: str, publication: dict[str, Any]) -> None:
        """A publication beside a cursor, which must name its position; the epoch stands nowhere else."""
        epoch, _, offset = self.cursor.split(",")[self.channels.index(channel)].partition(".")
        wrong = {} if offset == str(publication.get("offset")) else {"cursor": self.cursor}
        self.take_publication(channel, publication, epoch, **wrong)


class Sse(Plain):
    """``/sse``: the same as events, and back with Last-Event-ID."""

    door = "/sse"

    def make_wire(self) -> Wire:
        self.farewell = None
        return Wire(stream(self.path, self.cursor), self.take)

    def take(self, message: bytes) -> None:
        """One block of lines; comments are heartbeats."""
        kind, data = b"", b""
        for line in message.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"event":
                kind = value
            elif name == b"data":
                data = value
            elif name == b"id":
                self.cursor = value.decode()
        if not data:
            return
        told = _decode(data)
        if kind == b"":
            self.take_pub(told["channel"], told["pub"])
        elif kind == b"connect":
            self.take_connect(told)
        elif kind == b"gap":
            self.take_place("gap", told["channel"], told)
        elif kind == b"disconnect":
            self.farewell = told["code"]

    def told(self, code: int | None) -> int | None:
        return self.farewell


KINDS: dict[str, type[Reader]] = {"sdk": Sdk, "ws": Plain, "sse": Sse}


class Stage:
    """What the readers of one process share."""

    def __init__(self, settings: dict[str, Any], journal: Journal) -> None:
        self.journal = journal
        self.calm = asyncio.Event()
        self.ports: list[int] = settings["ports"]
        self.prefix: str = settings["prefix"]
        self.token: str = settings["token"]
        self.ramp: float = settings["ramp"]
        self.reconnect_every: float = settings["reconnect_every"]
        self.pause_every: float = settings["pause_every"]
        self.pause: float = settings["pause"]
        self.receive_buffer: int = settings["receive_buffer"]
        self.readers = [
            KINDS[one["kind"]](self, one["name"], one["channels"], random.Random(one["seed"]))
            for one in settings["readers"]
        ]
        self.tasks = [asyncio.create_task(reader.live()) for reader in self.readers]

    async def answer(self, command: Command) -> Any:
        """One command of the cast."""
        if command["do"] == "until":
            return await self.until(command)
        if command["do"] == "calm":
            self.reconnect_every = self.pause_every = 0.0
            self.calm.set()
        if command["do"] == "stop":
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
        self.raise_failures()
        return self.status()

    def raise_failures(self) -> None:
        """A reader never ends by itself: what ended it is a mistake in here, and must not look like a dead server."""
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    def status(self) -> dict[str, Any]:
        """How many receives there were, and how many of all subscriptions stand."""
        return {
            "receives": self.journal.counts.get("recv", 0),
            "inside": sum(len(reader.inside) for reader in self.readers),
            "follows": sum(len(reader.channels) for reader in self.readers),
        }

    async def until(self, command: Command) -> dict[str, Any]:
        """Wait, with a bound, until all have been subscribed, ``receives`` came, and the newest of each channel is in
        ``ids``.

        The status says in ``missing`` whom that is not true of.
        """
        ids: dict[str, list[str]] = command.get("ids", {})
        deadline = asyncio.get_running_loop().time() + command["within"]
        while True:
            self.raise_failures()
            status = self.status()
            missing = [
                [reader.name, channel]
                for reader in self.readers
                for channel in reader.channels
                if (channel in ids and reader.newest.get(channel) not in ids[channel])
                or (command.get("all") and channel not in reader.places)
            ]
            enough = status["receives"] >= command.get("receives", 0)
            if (enough and not missing) or asyncio.get_running_loop().time() > deadline:
                return {**status, "missing": missing}
            await asyncio.sleep(0.02)


async def role(settings: dict[str, Any], journal: Journal) -> Callable[[Command], Awaitable[Any]]:
    """Begin."""
    return Stage(settings, journal).answer


if __name__ == "__main__":
    perform(role)
