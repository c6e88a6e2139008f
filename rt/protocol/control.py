"""What workers say to one another: commands about the connections of a user, and questions to all.

A message is one JSON object with its ``kind`` and the version ``v`` of the format. Unknown fields are ignored and
unknown kinds or versions are nobody's, so that workers of two releases can run side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from rt.protocol import options
from rt.protocol.options import Terms
from rt.protocol.publication import Position


class _Message(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind"):
    v: Literal[1] = 1


class Target(_Message, frozen=True, gc=False):
    """Whom a command is for: the connections of ``user`` (empty: the anonymous ones), all of them or those that
    ``client`` (the id of a connection) and ``session`` narrow it to."""

    user: str
    client: str = ""
    session: str = ""

    def reaches(self, client: str, session: str) -> bool:
        """Whether the user's connection with this id and session is meant."""
        return self.client in ("", client) and self.session in ("", session)


class SubscribeUser(Target, frozen=True, gc=False, tag="subscribe"):
    """Subscribe the connections to ``channel``, recovering from ``since`` unless that is None."""

    channel: str = ""
    terms: Terms = Terms()
    since: Position | None = None


class UnsubscribeUser(Target, frozen=True, gc=False, tag="unsubscribe"):
    """End the connections' subscriptions to ``channel``, or to all channels when it is empty. ``at`` is when that was
    said, in seconds since 1970; 0 when a worker of another version does not tell."""

    channel: str = ""
    at: float = 0.0


class DisconnectUser(Target, frozen=True, gc=False, tag="disconnect"):
    """Close the connections, but not those whose ids are in ``whitelist``, with ``code`` and ``reason``."""

    whitelist: tuple[str, ...] = ()
    code: int = 0
    reason: str = ""


class RefreshUser(Target, frozen=True, gc=False, tag="refresh"):
    """Close the connections as ``expired``, or let them live until ``expire_at`` (seconds since 1970; None: for ever).

    ``info`` replaces what others see of the connection: compact JSON, empty for nothing; None leaves it as it is.
    ``at`` is as for :class:`UnsubscribeUser`.
    """

    expired: bool = False
    expire_at: float | None = None
    info: bytes | None = None
    at: float = 0.0


class ListChannels(_Message, frozen=True, gc=False, tag="channels"):
    """The question which channels that match ``pattern`` have subscribers; answered by :func:`answer`."""

    pattern: str = ""


class ShowLimits(_Message, frozen=True, gc=False, tag="limits"):
    """The question how the rate limits stand; answered by :class:`rt.protocol.inspection.LimitsState`."""


class ShowConnection(_Message, frozen=True, gc=False, tag="connection"):
    """The question how the connection with the id ``client`` stands; answered by who has it, with a
    :class:`rt.protocol.inspection.ConnectionState`."""

    client: str


class ShowConnections(_Message, frozen=True, gc=False, tag="connections"):
    """The question which connections there are: those of ``user`` (None: of anybody) that follow ``channel``, come from
    ``ip`` (an address, or a range of them) and are ``slow``, as far as these say something. Answered by a
    :class:`rt.protocol.inspection.ConnectionsState` with ``limit`` of them at most."""

    user: str | None = None
    channel: str = ""
    ip: str = ""
    slow: bool = False
    limit: int = 100


class ShowChannel(_Message, frozen=True, gc=False, tag="channel"):
    """The question how ``channel`` stands; answered by who follows it, with a
    :class:`rt.protocol.inspection.ChannelState`."""

    channel: str


_Asked = ListChannels | ShowLimits | ShowConnection | ShowConnections | ShowChannel
Message = SubscribeUser | UnsubscribeUser | DisconnectUser | RefreshUser | _Asked


class _SubscribeUser(Target, frozen=True, gc=False, tag="subscribe"):
    """A SubscribeUser as it travels: its terms in their own format, which may gain fields."""

    channel: str = ""
    terms: msgspec.Raw = msgspec.Raw(b"{}")
    since: Position | None = None


_Wired = _SubscribeUser | UnsubscribeUser | DisconnectUser | RefreshUser | _Asked

_encode = msgspec.json.Encoder().encode
_message = msgspec.json.Decoder(_Wired).decode
_counts = msgspec.json.Decoder(dict[str, int]).decode


def encode(message: Message) -> bytes:
    """The message as bytes for the other workers, without a line break."""
    if isinstance(message, SubscribeUser):
        terms = msgspec.Raw(options.encode(message.terms))
        return _encode(
            _SubscribeUser(message.user, message.client, message.session, message.channel, terms, message.since)
        )
    return _encode(message)


def decode(body: bytes) -> Message | None:
    """The message in ``body``, or None when it is of a kind or version that is unknown here, or nonsense."""
    try:
        wired: _Wired = _message(body)
        if isinstance(wired, _SubscribeUser):
            terms = options.decode(bytes(wired.terms))
            return SubscribeUser(wired.user, wired.client, wired.session, wired.channel, terms, wired.since)
        return wired
    except (ValueError, RecursionError):
        return None


def answer(counts: dict[str, int]) -> bytes:
    """A worker's answer to :class:`ListChannels`: how many subscriptions each channel has there."""
    return _encode(counts)


def total(answers: Iterable[bytes]) -> dict[str, int]:
    """The answers of all workers in one; one that is nonsense counts for nothing."""
    counts: Counter[str] = Counter()
    for body in answers:
        try:
            counts.update(_counts(body))
        except (ValueError, RecursionError):
            continue
    return dict(counts)
