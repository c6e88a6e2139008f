"""Which channels a connection follows because the backend says so: by its token, by a call of the server API that was
kept in the session, or because they are the user's own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rt.errors import CHANNEL_LIMIT, Closing, Refused
from rt.logs import Limited
from rt.protocol import channels, session
from rt.protocol.options import Terms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rt.config import PersonalChannel
    from rt.delivery.hub import Hub
    from rt.protocol.tokens import Identity

log = Limited(logging.getLogger("rt.delivery"))

_PLAIN = Terms()

AGAIN = 3
"""How often a session is read again at most, because of what was said meanwhile."""


class Reading:
    """A session being read. ``stale`` is set when the backend says something to its user meanwhile."""

    __slots__ = ("stale",)

    def __init__(self) -> None:
        self.stale = False


def known(hub: Hub, identity: Identity) -> Identity | None:
    """``identity`` with all channels in its ``subs``, where nothing must be waited for; else None, and :func:`wanted`
    is for it. Raises as that."""
    if identity.user and hub.keeps_sessions and hub.broker.sessions_used:
        return None
    if not identity.subs and not hub.config.client.subscribe_to_user_personal_channel.enabled:
        return identity
    return _whole(hub, identity, {})


async def wanted(hub: Hub, identity: Identity) -> Identity:
    """``identity`` with all channels in its ``subs``, and the info the backend has replaced. What the session says is
    merged in.

    Raises Refused (102, 107) for a channel of the token that cannot be, Closing (3505) for too many of them, StoreError
    when the session cannot be read.
    """
    complete = known(hub, identity)
    if complete is not None:
        return complete
    return _whole(hub, identity, await _session(hub, identity.user))


async def _session(hub: Hub, user: str) -> Mapping[str, bytes]:
    """The user's session, with all that was said to the user up to now. Who reads may not be among the user's
    connections yet, so what is said while the answer is on its way would reach it in no other way."""
    reading = Reading()
    readings = hub.readings.setdefault(user, [])
    readings.append(reading)
    try:
        fields = await hub.broker.session(user)
        for _ in range(AGAIN):
            if not reading.stale:
                break
            reading.stale = False
            fields = await hub.broker.session(user)
        return hub.sessions.read(user, fields)
    finally:
        readings.remove(reading)
        if not readings:
            del hub.readings[user]


def _whole(hub: Hub, identity: Identity, fields: Mapping[str, bytes]) -> Identity:
    for name in identity.subs:
        hub.namespaces.find(name)
    now = hub.wall()
    # A right that the token gives may have ended before the token does: the client that comes back is without it.
    given = {name: terms for name, terms in identity.subs.items() if not hub.verifier.over(terms.expire_at, now)}
    kept = session.decode(fields, now)
    subs = kept.merged(given, identity.issued_at)
    for name in [name for name in subs if name not in identity.subs and not _possible(hub, name)]:
        del subs[name]
    personal = hub.config.client.subscribe_to_user_personal_channel
    if personal.enabled and identity.user:
        subs.setdefault(_personal(personal, identity.user), _PLAIN)
    if len(subs) > hub.config.client.channel_limit:
        raise Closing(CHANNEL_LIMIT, "more server-side subscriptions than a connection may have")
    return identity._replace(subs=subs, info=kept.conn_info(identity.info, identity.issued_at))


def only_channel(hub: Hub, user: str) -> str:
    """The personal channel, where its follower must be the only connection of ``user``; else nothing."""
    personal = hub.config.client.subscribe_to_user_personal_channel
    return _personal(personal, user) if personal.enabled and personal.single_connection and user else ""


def _personal(settings: PersonalChannel, user: str) -> str:
    try:
        return channels.personal(user, settings.personal_channel_namespace)
    except Refused:
        # To the client it is an error like others; who chose the names of users must hear why.
        log.warning("personal", "a user cannot connect: a name with # or , cannot have a personal channel")
        raise


def _possible(hub: Hub, name: str) -> bool:
    """A channel of the session was possible when it was written; by another config it may not be."""
    try:
        hub.namespaces.find(name)
    except Refused:
        log.warning("session", "a session names a channel that this config does not have")
        return False
    return True
