"""What outlives a connection: the session of a user, fields of a hash in the store.

``sub:<channel>`` holds the :class:`Terms` of a subscription that the server API gave; ``off:<channel>`` says when the
API took one away, and ``off:`` alone when it took all; ``info`` is what replaced the information of the connection.
A token that was issued before such a call is overruled by it, one issued later is not. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from rt.protocol import options
from rt.protocol.options import Terms

_SUB = "sub:"
_OFF = "off:"
_INFO = "info"


class Changes(NamedTuple):
    """What to write into a session's hash and what to remove from it; the two never share a field."""

    set: dict[str, bytes]
    remove: list[str]


class _Info(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    at: float
    info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode
_info = msgspec.json.Decoder(_Info).decode
_time = msgspec.json.Decoder(float).decode


def subscribed(channel: str, terms: Terms) -> Changes:
    """The user is to be subscribed to ``channel``, now and when connecting again."""
    return Changes({_SUB + channel: options.encode(terms)}, [_OFF + channel])


def unsubscribed(channel: str, now: float) -> Changes:
    """The user is not to be subscribed to ``channel`` any more, whatever tokens issued before ``now`` say."""
    return Changes({_OFF + channel: _encode(now)}, [_SUB + channel])


def unsubscribed_all(channels: Iterable[str], now: float) -> Changes:
    """As :func:`unsubscribed`, for all channels; ``channels`` are those that the session is known to name."""
    return Changes({_OFF: _encode(now)}, [prefix + channel for channel in channels for prefix in (_SUB, _OFF)])


def room(fields: Mapping[str, bytes], now: float) -> Changes:
    """Make room in a session that is full. The ends of subscriptions fill the session of who joins and leaves channels
    for days; the older half of them becomes one end of all, at the time of the newest of them."""
    off = decode(fields, now).off
    whole = off.pop("", 0.0)
    oldest = sorted(off, key=off.__getitem__)[: (len(off) + 1) // 2]
    return unsubscribed_all(oldest, max(whole, off[oldest[-1]])) if oldest else Changes({}, [])


def rivals(field: str) -> list[str]:
    """The fields that say something else about the same as ``field``; one that is newer overrules it."""
    if field.startswith(_SUB):
        return [_OFF + field.removeprefix(_SUB), _OFF]
    if field.startswith(_OFF) and field != _OFF:
        return [_SUB + field.removeprefix(_OFF)]
    return []


def informed(info: bytes, now: float) -> Changes:
    """What others see of the user's connections is now ``info``: compact JSON, empty for nothing."""
    return Changes({_INFO: _encode(_Info(now, msgspec.Raw(info) if info else msgspec.UNSET))}, [])


class Session:
    """A session as it was read.

    ``subs`` are the subscriptions that have not expired. ``off`` is when subscriptions were taken away, by channel, and
    under the empty name when all were. ``info`` is what replaced the connection's information at ``info_at``: compact
    JSON, empty for nothing; None where it was not replaced.
    """

    __slots__ = ("info", "info_at", "off", "subs")

    def __init__(self) -> None:
        self.subs: dict[str, Terms] = {}
        self.off: dict[str, float] = {}
        self.info: bytes | None = None
        self.info_at = 0.0

    @property
    def channels(self) -> set[str]:
        """The channels that the session names."""
        return {*self.subs, *self.off} - {""}

    def merged(self, token_subs: Mapping[str, Terms], issued_at: float) -> dict[str, Terms]:
        """The subscriptions of a connection whose token, issued at ``issued_at`` (0: unknown), brings ``token_subs``.

        Those that were taken away since then are left out; what the session itself says comes on top.
        """
        all_off = self.off.get("", 0.0)
        kept = {
            channel: terms
            for channel, terms in token_subs.items()
            if max(self.off.get(channel, 0.0), all_off) <= issued_at
        }
        return kept | self.subs

    def conn_info(self, token_info: bytes, issued_at: float) -> bytes:
        """What others see of the connection: the newer of the session's and the token's."""
        return token_info if self.info is None or self.info_at <= issued_at else self.info


def decode(fields: Mapping[str, bytes], now: float) -> Session:
    """The session in these fields, at ``now``; fields that are unknown or nonsense are skipped."""
    session = Session()
    for field, value in fields.items():
        try:
            _take(session, field, value, now)
        except (ValueError, RecursionError):
            continue
    return session


def _take(session: Session, field: str, value: bytes, now: float) -> None:
    if field.startswith(_SUB):
        terms = options.decode(value)
        if terms.expire_at is None or terms.expire_at > now:
            session.subs[field.removeprefix(_SUB)] = terms
    elif field.startswith(_OFF):
        session.off[field.removeprefix(_OFF)] = _time(value)
    elif field == _INFO:
        replaced = _info(value)
        session.info = b"" if replaced.info is msgspec.UNSET else bytes(replaced.info)
        session.info_at = replaced.at
