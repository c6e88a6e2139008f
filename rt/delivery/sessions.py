"""What the sessions of those who are connected here hold, as it was read and heard: a store that lost them gets them
back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rt.broker.sessions import MAX_FIELDS
from rt.errors import StoreError
from rt.protocol import session
from rt.protocol.control import RefreshUser, SubscribeUser, Target, UnsubscribeUser
from rt.protocol.session import Changes

if TYPE_CHECKING:
    from rt.delivery.hub import Hub

log = logging.getLogger("rt.delivery")

AT_ONCE = 100  # sessions given back in one go


class Sessions:
    """By user. Only of users who have a session, and only as long as they are connected here."""

    __slots__ = ("_hub", "_known")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._known: dict[str, dict[str, bytes]] = {}

    def read(self, user: str, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The store says that these are the fields of the user's session. Gives them with what it has lost of those
        that are known here; no call ends a field without a word of a rival."""
        lost = {
            field: value
            for field, value in self._known.get(user, {}).items()
            if fields.keys().isdisjoint((field, *session.rivals(field)))
        }
        whole = {**lost, **fields}
        if whole:
            self._known[user] = whole
        if lost and self._hub.keeps_sessions:
            self._hub.spawn(self._give([user]))
        return whole

    def heard(self, message: Target) -> None:
        """The backend said something to a user; what it says to single connections is in no session."""
        hub = self._hub
        if not hub.keeps_sessions or message.client or message.session or message.user not in hub.users:
            return
        changes = self._changes(message)
        if message.user and changes is not None:
            fields = self._known.setdefault(message.user, {})
            _change(fields, changes)
            if len(fields) > MAX_FIELDS:  # then the store's was full too, and made room
                _change(fields, session.room(fields, hub.wall()))

    def _changes(self, message: Target) -> Changes | None:
        now = self._hub.wall()
        if isinstance(message, SubscribeUser):
            return session.subscribed(message.channel, message.terms)
        if isinstance(message, UnsubscribeUser):
            at = message.at or now  # it may be heard long after; a token made between is newer
            if message.channel:
                return session.unsubscribed(message.channel, at)
            known = session.decode(self._known.get(message.user, {}), now)
            return session.unsubscribed_all(known.channels, at)
        if isinstance(message, RefreshUser) and message.info is not None and not message.expired:
            return session.informed(message.info, message.at or now)
        return None

    def forget(self, user: str) -> None:
        """Nobody of the user is here any more, so what is said to the user is no longer noted."""
        self._known.pop(user, None)

    def sweep(self) -> None:
        """Forget who has left, or never came in."""
        for user in self._known.keys() - self._hub.users.keys():
            del self._known[user]

    async def restore(self) -> None:
        """Give the store what it may have lost. What it has by now, and so is newer, stays."""
        self.sweep()
        if self._hub.keeps_sessions:
            await self._give(list(self._known))

    async def _give(self, users: list[str]) -> None:
        """One that cannot be given back is not in the way of the others, and comes again with the next touch."""
        ttl = self._hub.config.client.session_ttl
        for first in range(0, len(users), AT_ONCE):
            calls = [
                self._hub.broker.restore_session(
                    user, [(field, value, session.rivals(field)) for field, value in self._known[user].items()], ttl
                )
                for user in users[first : first + AT_ONCE]
                if user in self._known
            ]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, StoreError):
                    log.error("a session could not be given back", exc_info=outcome)


def _change(fields: dict[str, bytes], changes: Changes) -> None:
    fields.update(changes.set)
    for field in changes.remove:
        fields.pop(field, None)
