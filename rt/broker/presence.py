"""Who is there: members of channels, for as long as their workers say so, by the store's clock.

A member is a connection on a channel. Whoever asks about a channel, or enters or leaves it, first sweeps out those
whose time is over, and their leave is told then, once, by whoever sweeps. So a worker that dies is known to be gone
within the ttl, although nobody is in charge of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.scripts import PRESENCE
from rt.broker.streams import nothing
from rt.broker.together import together

BATCH = 500
"""Members in one call of the script: the store does nothing else meanwhile."""


class Member(NamedTuple):
    """A connection that is on a channel: its id, its user, and the ClientInfo that others see (a JSON object)."""

    client: str
    user: str
    info: bytes


class Stats(NamedTuple):
    """How many connections are on a channel, and how many different users they have."""

    clients: int
    users: int


class Presence:
    """The calls about presence; :class:`rt.broker.Broker` says what each promises."""

    __slots__ = ("_keys", "_loop", "_pipeline", "_ttl")

    def __init__(self, pipeline: Pipeline, keys: Keys, ttl: float) -> None:
        """``ttl`` is how long a member is there after it was last entered, in seconds."""
        self._loop = asyncio.get_running_loop()
        self._pipeline = pipeline
        self._keys = keys
        self._ttl = max(int(ttl * 1000), 1)

    def enter(self, channel: str, members: Sequence[Member], *, announce: bool, refresh: bool) -> asyncio.Future[int]:
        """See :meth:`rt.broker.Broker.enter`."""
        flags = (int(announce), int(announce and not refresh))
        calls = []
        for start in range(0, len(members) or 1, BATCH):
            args: list[str | bytes | int] = [*flags]
            for member in members[start : start + BATCH]:
                args += member
            calls.append(self._run("enter", channel, args, int))
        return together(calls)

    def leave(self, channel: str, client: str, *, announce: bool) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.leave`."""
        return self._run("leave", channel, (int(announce), client), nothing)

    def presence(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        """See :meth:`rt.broker.Broker.presence`."""
        return self._run("list", channel, (), _infos)

    def stats(self, channel: str) -> asyncio.Future[Stats]:
        """See :meth:`rt.broker.Broker.presence_stats`."""
        return self._run("count", channel, (), _stats)

    def _run(self, verb: str, channel: str, args: Sequence[str | bytes | int], parse: Any) -> asyncio.Future[Any]:
        name = self._keys.channel(channel)
        keys = (f"{name}:presence", f"{name}:presence:due", f"{name}:presence:users")
        # Each of them may be carried out again: a member that is there is not told to come, one that left not to go.
        return self._pipeline.run(PRESENCE, keys, (verb, name, self._ttl, *args), parse, repeatable=True)


def _infos(reply: Any) -> dict[str, bytes]:
    return {client.decode(): info for client, info in zip(reply[::2], reply[1::2], strict=True)}


def _stats(reply: Any) -> Stats:
    clients, users = reply
    return Stats(clients, users)
