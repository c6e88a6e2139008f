"""How many connections there are: on this worker, from one address, of one user, and over all workers.

Those of this worker and of an address are counted here, and looked at before a handshake is answered. How many other
workers have is known from what each says of itself every few seconds.

Those of a user are counted in the store, where ``per_user`` limits them: each that has begun takes a seat in a room of
the user's, as on a channel with presence (:mod:`rt.delivery.presence`), and hears how many there are. What a killed
worker had ends there by itself. While the store is away nobody is counted, and nobody is sent away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from rt.config import Namespace
from rt.delivery.presence import Presence
from rt.errors import CONNECTION_LIMIT, Closing
from rt.protocol import control
from rt.protocol.address import subject
from rt.protocol.control import DisconnectUser

if TYPE_CHECKING:
    from rt.delivery.connection import Connection
    from rt.delivery.hub import Hub

_ROOM = Namespace(presence=True)


class _Seat(msgspec.Struct):
    """What the store keeps of one of a user's connections: when it came, in microseconds since 1970."""

    chan_info: int = 0


_seat = msgspec.json.Decoder(_Seat).decode


class Crowd:
    """The count of one tenant's connections. ``elsewhere`` is how many other workers have, as last heard; ``all_here``
    counts those of all tenants of this worker, who may have ``most`` together."""

    __slots__ = ("_addresses", "_counted", "_hub", "_prefix", "_seats", "all_here", "elsewhere", "most")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._prefix = hub.config.limits.ipv6_prefix
        self._addresses: dict[str, int] = {}
        self._seats = Presence(hub)
        self._counted: set[str] = set()  # connections that have a seat
        self.all_here: Callable[[], int] = lambda: len(hub.connections)
        self.most = hub.config.limits.connections.per_worker
        self.elsewhere = 0

    @property
    def full(self) -> bool:
        """Whether there is room for nobody more."""
        limits, here = self._hub.config.limits.connections, len(self._hub.connections)
        if here >= limits.per_worker or (limits.total and here + self.elsewhere >= limits.total):
            return True
        return self.all_here() >= self.most

    def reload(self) -> None:
        """Take the hub's new config."""
        prefix = self._hub.config.limits.ipv6_prefix
        if prefix != self._prefix:
            self._prefix = prefix
            self._addresses = {}
            for connection in self._hub.connections:
                self._count(connection.address, 1)

    # Of an address

    @property
    def addresses(self) -> int:
        """Different addresses that somebody is connected from here."""
        return len(self._addresses)

    def of(self, address: str) -> int:
        """Connections from an address here, and those that wait for their turn."""
        return self._addresses.get(subject(address, self._prefix), 0)

    def came(self, connection: Connection) -> None:
        """A connection was made."""
        self._count(connection.address, 1)

    def waits(self, address: str, more: int) -> None:
        """One more, or one less (-1), from an address waits for its turn."""
        self._count(address, more)

    def went(self, connection: Connection) -> None:
        """It is no more, or another tenant's."""
        self._count(connection.address, -1)
        if connection.id in self._counted:
            self._counted.discard(connection.id)
            self._seats.leave(_room(connection.user), connection)

    def _count(self, address: str, more: int) -> None:
        if not address:
            return
        key = subject(address, self._prefix)
        count = self._addresses.get(key, 0) + more
        if count > 0:
            self._addresses[key] = count
        else:
            self._addresses.pop(key, None)

    # Of a user

    def admit(self, user: str) -> None:
        """Whether the user may have one more, as far as is known here. Raises Closing (3504)."""
        limits = self._hub.config.limits.connections
        counts = user and limits.per_user and limits.kick == "newest"
        if counts and len(self._hub.users.get(user, ())) >= limits.per_user:
            self._hub.tally.refusals["per_user"] += 1
            raise Closing(CONNECTION_LIMIT)

    def begun(self, connection: Connection) -> None:
        """The connection is live, and one of its user's."""
        if not self._hub.config.limits.connections.per_user or not connection.user or connection.closed:
            return
        self._counted.add(connection.id)
        came = b"%d" % (time.time_ns() // 1000)
        present = self._seats.enter(_room(connection.user), _ROOM, connection, came)
        if present is not None:
            present.add_done_callback(partial(self._heard, connection))

    def _heard(self, connection: Connection, present: asyncio.Future[int]) -> None:
        limits = self._hub.config.limits.connections
        if present.cancelled() or present.exception() is not None or connection.closed or not limits.per_user:
            return
        over = present.result() - limits.per_user
        if over <= 0:
            return
        self._hub.tally.refusals["per_user"] += 1
        if limits.kick == "newest":
            connection.close(CONNECTION_LIMIT)
        else:
            members = self._hub.broker.presence(_room(connection.user))
            members.add_done_callback(partial(self._kick, connection.user, limits.per_user))

    def _kick(self, user: str, most: int, members: asyncio.Future[dict[str, bytes]]) -> None:
        """Send away those that came first, wherever they are."""
        if members.cancelled() or members.exception() is not None:
            return
        there = sorted((_came(info), client) for client, info in members.result().items())
        for _, client in there[: max(len(there) - most, 0)]:
            close = CONNECTION_LIMIT
            message = DisconnectUser(user, client=client, code=close.code, reason=close.reason)
            self._hub.broker.command(control.encode(message)).add_done_callback(_seen)


def _room(user: str) -> str:
    """A name that no channel can have, since it has a space; the user's own may hold anything."""
    return f"connections of {quote(user, safe='')}"


def _came(info: bytes) -> int:
    try:
        return _seat(info).chan_info
    except (ValueError, RecursionError):
        return 0


def _seen(future: asyncio.Future[None]) -> None:
    """The store's trouble is told by its own log; here it only must not go unseen."""
    if not future.cancelled():
        future.exception()
