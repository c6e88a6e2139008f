"""Who of this worker is present in which channel: said to the store, renewed while they are here, taken back.

What the store knows of a worker that was killed ends by itself. What it forgot (an empty restart, an eviction) comes
back with the next renewal, since it is renewed from the living connections and not from memory of having said it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any

from rt.broker import Member
from rt.delivery.buckets import Bucket
from rt.errors import StoreError
from rt.protocol import replies
from rt.protocol.publication import Change

if TYPE_CHECKING:
    from rt.config import Namespace
    from rt.delivery.connection import Connection
    from rt.delivery.hub import Hub

AT_ONCE = 500  # members renewed by one call


class Seat:
    """One connection in one channel. ``kept``: the store keeps it, as presence; ``announces``: others are told.
    ``said`` is false while its coming has not got through."""

    __slots__ = ("announces", "connection", "info", "kept", "said")

    def __init__(self, connection: Connection, info: bytes, *, kept: bool, announces: bool) -> None:
        self.connection = connection
        self.info = info
        self.kept = kept
        self.announces = announces
        self.said = True

    def member(self) -> Member:
        """As the store keeps it."""
        connection = self.connection
        info = replies.client_info(connection.user, connection.id, connection.info, self.info)
        return Member(connection.id, connection.user, info)


class Room:
    """The seats of one channel, by the connection's id."""

    __slots__ = ("bucket", "name", "seats")

    def __init__(self, name: str, bucket: Bucket) -> None:
        self.name = name
        self.bucket = bucket
        self.seats: dict[str, Seat] = {}


class Presence:
    """The rooms of this worker. One that is empty goes with its next renewal, so that its bucket is not refilled by
    leaving."""

    __slots__ = ("_hub", "_rooms")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._rooms: dict[str, Room] = {}

    def enter(
        self, name: str, namespace: Namespace, connection: Connection, chan_info: bytes = b"", *, tell: bool = True
    ) -> asyncio.Future[int] | None:
        """The connection follows the channel ``name`` now. With presence on, the future says how many are there;
        without presence and without join/leave nothing is done. Unless ``tell``, that it came is left to
        :meth:`tell`."""
        if not namespace.presence and not namespace.join_leave:
            return None
        room = self._rooms.get(name) or self._open(name)
        seat = Seat(connection, chan_info, kept=namespace.presence, announces=namespace.join_leave)
        room.seats[connection.id] = seat
        if not seat.kept:
            if tell:
                self._announce(room, seat)
            return None
        announce = seat.announces and (not tell or self._may_tell(room))
        future = self._hub.broker.enter(name, [seat.member()], announce=announce, refresh=not tell)
        future.add_done_callback(partial(self._entered, seat, announce))
        return future

    def tell(self, name: str, connection: Connection) -> None:
        """Tell the others in the channel that the connection, which entered in silence, has come."""
        room = self._rooms.get(name)
        seat = room.seats.get(connection.id) if room is not None else None
        if room is not None and seat is not None and seat.said:
            self._announce(room, seat)

    def leave(self, name: str, connection: Connection) -> asyncio.Future[None] | None:
        """It follows the channel no more. The future is done when nobody can see it there any more."""
        room = self._rooms.get(name)
        seat = room.seats.pop(connection.id, None) if room is not None else None
        if room is None or seat is None:
            return None
        announce = seat.announces and self._may_tell(room)
        if seat.kept:
            future = self._hub.broker.leave(name, connection.id, announce=announce)
            future.add_done_callback(_seen)
            return future
        if announce:
            self._say(name, Change("leave", seat.member().info))
        return None

    def changed(self, connection: Connection) -> None:
        """What others may see of the connection is another."""
        for name in connection.channels:
            room = self._rooms.get(name)
            seat = room.seats.get(connection.id) if room is not None else None
            if seat is not None and seat.kept:
                future = self._hub.broker.enter(name, [seat.member()], announce=seat.announces, refresh=True)
                future.add_done_callback(_seen)

    def count(self) -> int:
        """Seats taken."""
        return sum(len(room.seats) for room in self._rooms.values())

    # Telling

    def _may_tell(self, room: Room) -> bool:
        """A crowd that comes and goes is not told to itself one by one: that would grow with its square."""
        if room.bucket.take(self._hub.now()):
            return True
        self._hub.tally.drops["join_leave"] += 1
        return False

    def _announce(self, room: Room, seat: Seat) -> None:
        if seat.announces and self._may_tell(room):
            self._say(room.name, Change("join", seat.member().info))

    def _say(self, name: str, change: Change) -> None:
        self._hub.broker.announce(name, change).add_done_callback(_seen)

    @staticmethod
    def _entered(seat: Seat, announce: bool, future: asyncio.Future[int]) -> None:
        if _seen(future) and announce:
            seat.said = False

    # Renewing

    def _open(self, name: str) -> Room:
        hub = self._hub
        room = self._rooms[name] = Room(name, Bucket(hub.delivery.join_leave_rate, hub.now()))
        # The first time at a moment of its own, so that not all are renewed at once.
        hub.wheel.at(hub.now() + self._interval * (0.5 + random() / 2), partial(self._due, room))
        return room

    @property
    def _interval(self) -> float:
        return self._hub.config.client.presence_update_interval

    def _due(self, room: Room, now: float) -> None:
        if not room.seats:
            del self._rooms[room.name]
            return
        if self._hub.stopped:
            return  # the seats are taken back one by one
        room.bucket.rate = self._hub.delivery.join_leave_rate
        self._hub.wheel.at(now + self._interval, partial(self._due, room))
        self._hub.spawn(self._renew(room))

    async def _renew(self, room: Room) -> None:
        """Say again who is here. What does not get through is made up for by the next renewal."""
        kept = [seat for seat in room.seats.values() if seat.kept]
        groups = [
            ([seat for seat in kept if not seat.said], True, False),
            ([seat for seat in kept if seat.said and seat.announces], True, True),
            ([seat for seat in kept if seat.said and not seat.announces], False, True),
        ]
        try:
            for seats, announce, refresh in groups:
                for first in range(0, len(seats), AT_ONCE):
                    # Some may have left while the ones before were renewed, and must not be put back.
                    here = [s for s in seats[first : first + AT_ONCE] if room.seats.get(s.connection.id) is s]
                    if here:
                        members = [seat.member() for seat in here]
                        await self._hub.broker.enter(room.name, members, announce=announce, refresh=refresh)
                    for seat in here:
                        seat.said = True
        except StoreError:
            pass


def _seen(future: asyncio.Future[Any]) -> bool:
    """Whether it failed. The store's trouble is told by the store's own log; here it only must not go unseen."""
    return not future.cancelled() and future.exception() is not None
