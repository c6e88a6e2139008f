"""Methods of the server API about the connections of a user: subscribe, unsubscribe, disconnect, refresh.

A call is carried out by all workers, each for the connections it has. What must outlive a connection (a subscription,
its end, a replaced info) is written into the user's session first: who connects meanwhile finds it there, and who is
connected hears the command. It is no part of a session when only some connections are meant, nor for the anonymous.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial

import msgspec

from rt import errors
from rt.broker import Broker
from rt.config import Namespace
from rt.protocol import control, options, session
from rt.protocol.channels import Namespaces
from rt.protocol.commands import Int32, Since
from rt.protocol.options import Options, Override
from rt.protocol.publication import Position
from rt.web.answers import EMPTY, Done, answer, proceed

COMMAND_BYTES = 64 << 10
"""Bytes of one command to the workers."""


class _Target(msgspec.Struct, frozen=True, gc=False):
    """Whose connections are meant: of ``user`` (empty: the anonymous), narrowed by ``client`` and ``session``."""

    user: str | None = None
    client: str | None = None
    session: str | None = None


class _Subscribe(_Target, frozen=True, gc=False):
    channel: str | None = None
    info: msgspec.Raw = msgspec.Raw()
    b64info: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    override: Override | None = None
    expire_at: int | float | None = None
    recover_since: Since | None = None


class _Unsubscribe(_Target, frozen=True, gc=False):
    channel: str | None = None


class _Disconnect(msgspec.Struct, frozen=True, gc=False):
    code: Int32 | None = None
    reason: str | None = None


class _DisconnectUser(_Target, frozen=True, gc=False):
    whitelist: list[str] | None = None
    disconnect: _Disconnect | None = None


class _Refresh(_Target, frozen=True, gc=False):
    expired: bool | None = None
    expire_at: int | float | None = None
    info: msgspec.Raw = msgspec.Raw()


_SUBSCRIBE = msgspec.json.Decoder(_Subscribe)
_UNSUBSCRIBE = msgspec.json.Decoder(_Unsubscribe)
_DISCONNECT = msgspec.json.Decoder(_DisconnectUser)
_REFRESH = msgspec.json.Decoder(_Refresh)


class Users:
    """Commands to the workers, and sessions in the store. ``namespaces`` and ``session_ttl`` (seconds; 0: there are no
    sessions) may be exchanged at any time."""

    __slots__ = ("_broker", "namespaces", "session_ttl")

    def __init__(self, broker: Broker, namespaces: Namespaces[Namespace], session_ttl: float) -> None:
        self._broker = broker
        self.namespaces = namespaces
        self.session_ttl = session_ttl

    def subscribe(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Subscribe the user's connections to a channel, now and when they come back: ``{}``."""
        request = _SUBSCRIBE.decode(params)
        channel, since = request.channel or "", request.recover_since
        self.namespaces.find(channel)
        terms = options.terms(
            Options(
                request.info,
                request.b64info or "",
                request.data,
                request.b64data or "",
                request.override,
                request.expire_at,
            )
        )
        user, client, session_id = _target(request)
        position = None if since is None else Position(since.epoch, since.offset)
        body = _command(control.SubscribeUser(user, client, session_id, channel, terms, position))
        self._keep_and_send(request, session.subscribed(channel, terms), body, done)

    def unsubscribe(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """End the user's subscriptions to a channel, or to all: ``{}``."""
        request = _UNSUBSCRIBE.decode(params)
        channel, now = request.channel or "", time.time()
        if channel:
            self.namespaces.find(channel)
        body = _command(control.UnsubscribeUser(*_target(request), channel, now))
        if channel:
            self._keep_and_send(request, session.unsubscribed(channel, now), body, done)
        elif self._has_session(request):
            # Which channels the session has must be asked, for their fields to be removed.
            ended = partial(self._end_all, request, now, body, done)
            proceed(self._broker.session(request.user or ""), done, ended)
        else:
            self._send(body, done)

    def _end_all(self, request: _Unsubscribe, now: float, body: bytes, done: Done, fields: Mapping[str, bytes]) -> None:
        self._keep_and_send(request, session.unsubscribed_all(session.decode(fields, now).channels, now), body, done)

    def disconnect(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Close the user's connections, with the caller's code and reason if it gives them: ``{}``."""
        request = _DISCONNECT.decode(params)
        wanted = request.disconnect
        close = errors.FORCE_DISCONNECT if wanted is None else errors.custom(wanted.code or 0, wanted.reason or "")
        kept = tuple(request.whitelist or ())
        self._send(_command(control.DisconnectUser(*_target(request), kept, close.code, close.reason)), done)

    def refresh(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Give the user's connections another end, or another info, or end them as expired: ``{}``."""
        request = _REFRESH.decode(params)
        expire_at = options.seconds(request.expire_at) if request.expire_at else None
        info = options.terms(Options(info=request.info)).info or None
        expired = bool(request.expired)
        now = time.time()
        body = _command(control.RefreshUser(*_target(request), expired, expire_at, info, now))
        if info is None or expired:
            self._send(body, done)
        else:
            self._keep_and_send(request, session.informed(info, now), body, done)

    def _has_session(self, request: _Target) -> bool:
        return bool(self.session_ttl and request.user and not request.client and not request.session)

    def _keep_and_send(self, request: _Target, changes: session.Changes, body: bytes, done: Done) -> None:
        if not self._has_session(request):
            self._send(body, done)
            return
        written = self._write(request.user or "", changes)
        written.add_done_callback(partial(self._kept, request.user or "", changes, body, done))

    def _write(self, user: str, changes: session.Changes) -> asyncio.Future[None]:
        return self._broker.update_session(user, changes.set, changes.remove, self.session_ttl)

    def _kept(
        self, user: str, changes: session.Changes, body: bytes, done: Done, written: asyncio.Future[None]
    ) -> None:
        if _is_full(written):
            make_room = partial(self._keep_with_room, user, changes, body, done)
            proceed(self._broker.session(user), done, make_room)
        else:
            proceed(written, done, lambda _: self._send(body, done))

    def _keep_with_room(
        self, user: str, changes: session.Changes, body: bytes, done: Done, fields: Mapping[str, bytes]
    ) -> None:
        room = session.room(fields, time.time())
        remove = [field for field in room.remove if field not in changes.set]
        changes = session.Changes(room.set | changes.set, remove + changes.remove)
        proceed(self._write(user, changes), done, lambda _: self._send(body, done))

    def _send(self, body: bytes, done: Done) -> None:
        answer(self._broker.command(body), done, lambda _: EMPTY)


def _is_full(written: asyncio.Future[None]) -> bool:
    error = None if written.cancelled() else written.exception()
    return isinstance(error, errors.Refused) and error.error == errors.LIMIT_EXCEEDED


def _target(request: _Target) -> tuple[str, str, str]:
    return request.user or "", request.client or "", request.session or ""


def _command(message: control.Message) -> bytes:
    body = control.encode(message)
    if len(body) > COMMAND_BYTES:
        raise errors.Refused(errors.BAD_REQUEST, f"a command of more than {COMMAND_BYTES} bytes")
    return body
