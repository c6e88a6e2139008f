"""What the backend says to connections, on whichever worker they are: carried out here for those of this worker.

Everything is idempotent, so that a message that is heard twice, or that says what a session has said already, changes
nothing. A connection that is still on its way in gets it when it is live.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from rt import errors
from rt.delivery import inspection
from rt.protocol import control, pattern
from rt.protocol.control import (
    DisconnectUser,
    ListChannels,
    RefreshUser,
    ShowChannel,
    ShowConnection,
    ShowConnections,
    ShowLimits,
    SubscribeUser,
    Target,
    UnsubscribeUser,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rt.delivery.connection import Connection
    from rt.delivery.hub import Hub

CLAIM_AGAIN = 5.0  # seconds after which a claim that did not get through is made again

NOTHING = b""
"""The answer to a message that asks for none."""

_OWN = {(close.code, close.reason): close for close in (errors.FORCE_DISCONNECT, errors.CONNECTION_LIMIT)}


def obey(hub: Hub, body: bytes) -> bytes | asyncio.Future[bytes]:
    """Carry out one message; the answer goes back to who sent it. What is not understood is somebody else's, of another
    version, and no error."""
    try:
        return _obey(hub, control.decode(body))
    except errors.Refused:
        return NOTHING  # the worker that sent it knows something that this one does not


def _obey(hub: Hub, message: control.Message | None) -> bytes | asyncio.Future[bytes]:
    if isinstance(message, Target):
        hub.sessions.heard(message)
    match message:
        case SubscribeUser():
            return _subscribe(hub, message)
        case UnsubscribeUser():
            for connection in _meant(hub, message):
                unsubscribe = partial(connection.unsubscribe_by_server, message.channel, errors.SERVER_UNSUBSCRIBE)
                connection.when_live(unsubscribe)
        case DisconnectUser():
            _disconnect(hub, message)
        case RefreshUser():
            _refresh(hub, message)
        case ListChannels():
            return _channels(hub, message)
        case ShowLimits():
            return inspection.limits(hub)
        case ShowConnection():
            return inspection.connection(hub, message.client)
        case ShowConnections():
            return inspection.connections(hub, message)
        case ShowChannel():
            return inspection.channel(hub, message.channel)
    return NOTHING


def _meant(hub: Hub, target: Target) -> Iterator[Connection]:
    """The connections here that a message is for. Who is on the way in and has read the session must read it again."""
    for reading in hub.readings.get(target.user, ()):
        reading.stale = True
    for connection in list(hub.users.get(target.user, ())):
        if target.reaches(connection.id, connection.session):
            yield connection


def _subscribe(hub: Hub, message: SubscribeUser) -> bytes | asyncio.Future[bytes]:
    waiting = []
    for connection in _meant(hub, message):
        subscribe = partial(connection.subscribe_by_server, message.channel, message.terms, message.since)
        future = connection.when_live(subscribe)
        if isinstance(future, asyncio.Future):
            waiting.append(future)
    return hub.spawn(_all(waiting)) if waiting else NOTHING


async def _all(futures: list[asyncio.Future[None]]) -> bytes:
    """Each of them is bounded, and what fails is told to its own connection."""
    await asyncio.gather(*futures, return_exceptions=True)
    return NOTHING


def claim(connection: Connection, present: asyncio.Future[int] | None) -> None:
    """The connection is to be the only one of its user: all others, on whichever worker, leave for good. ``present``
    says how many there are, where that is known.

    Messages have an order, and the last one to claim stays. One that has not heard its own claim yet is not moved by
    those of others, which came before its own; should it have seen no reason to claim, it has heard one now.
    """
    if connection.closed:
        return
    connection.hub.claiming.setdefault(connection.id, False)
    if present is not None:
        present.add_done_callback(partial(_claim, connection))
    else:
        _claim(connection)


def _claim(connection: Connection, present: asyncio.Future[int] | None = None) -> None:
    hub = connection.hub
    if connection.closed:
        return
    counted = present is not None and not present.cancelled() and present.exception() is None
    if counted and present is not None and present.result() == 1 and not hub.claiming.get(connection.id):
        hub.claiming.pop(connection.id, None)
        return
    hub.claiming[connection.id] = False
    close = errors.CONNECTION_LIMIT
    message = DisconnectUser(connection.user, whitelist=(connection.id,), code=close.code, reason=close.reason)
    hub.broker.command(control.encode(message)).add_done_callback(partial(_claimed, connection))


def _claimed(connection: Connection, future: asyncio.Future[None]) -> None:
    """What did not get through is said again; meanwhile it is one among others."""
    if future.cancelled() or future.exception() is None or connection.closed:
        return
    hub = connection.hub
    if hub.claiming.pop(connection.id, None) is not None:
        hub.wheel.at(hub.now() + CLAIM_AGAIN, lambda now: _claim(connection))


def _disconnect(hub: Hub, message: DisconnectUser) -> None:
    close = _OWN.get((message.code, message.reason)) or errors.custom(message.code, message.reason)
    claimed = close is errors.CONNECTION_LIMIT
    for id in message.whitelist if claimed else ():
        hub.claiming.pop(id, None)
    for connection in _meant(hub, message):
        if connection.id in message.whitelist:
            continue
        if claimed and (connection.id in hub.claiming or not connection.is_live):
            hub.claiming[connection.id] = True  # one that is on its way in will claim when it is live
        else:
            connection.close(close)


def _refresh(hub: Hub, message: RefreshUser) -> None:
    over = message.expired or (message.expire_at is not None and message.expire_at <= hub.wall())
    for connection in _meant(hub, message):
        if over:
            connection.close(errors.CONNECTION_EXPIRED)
        else:
            connection.when_live(partial(connection.refreshed, message.expire_at, message.info))


def _channels(hub: Hub, message: ListChannels) -> bytes:
    fits = pattern.compile(message.pattern)
    counts = {name: sum(feed.count for feed in channel.claims) for name, channel in hub.channels.items() if fits(name)}
    return control.answer({name: count for name, count in counts.items() if count})
