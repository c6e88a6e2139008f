"""Methods of the server API about who is there: presence, presence_stats, channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rt import errors
from rt.broker import Broker, Stats
from rt.config import Namespace
from rt.protocol import control, pattern
from rt.protocol.channels import Namespaces
from rt.web.answers import Done, answer

CHANNELS = 100_000
"""Channels in one answer to ``channels``."""

_encode = msgspec.json.Encoder().encode


class _Channel(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None


class _Pattern(msgspec.Struct, frozen=True, gc=False):
    pattern: str | None = None


_CHANNEL = msgspec.json.Decoder(_Channel)
_PATTERN = msgspec.json.Decoder(_Pattern)


class Audiences:
    """Reads who is subscribed, from the store and from all workers. ``namespaces`` may be exchanged at any time."""

    __slots__ = ("_broker", "namespaces")

    def __init__(self, broker: Broker, namespaces: Namespaces[Namespace]) -> None:
        self._broker = broker
        self.namespaces = namespaces

    def presence(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Who is subscribed to a channel: ``{"presence":{"<client>":{"user":"42","client":"<client>"}}}``."""
        answer(self._broker.presence(self._channel_with_presence(params)), done, _members)

    def presence_stats(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """How many are subscribed to a channel: ``{"num_clients":2,"num_users":1}``."""
        answer(self._broker.presence_stats(self._channel_with_presence(params)), done, _numbers)

    def _channel_with_presence(self, params: bytes | msgspec.Raw) -> str:
        channel = _CHANNEL.decode(params).channel or ""
        if not self.namespaces.find(channel).presence:
            raise errors.Refused(errors.NOT_AVAILABLE)
        return channel

    def channels(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """The channels that have subscribers on any worker: ``{"channels":{"news":{"num_clients":3}}}``.

        Error 107 for a pattern that is none, and 106 when more than :data:`CHANNELS` fit it.
        """
        glob = _PATTERN.decode(params).pattern or ""
        pattern.compile(glob)  # a mistake in it is told here, not by each worker
        answer(self._broker.survey(control.encode(control.ListChannels(glob))), done, _active)


def _members(members: Mapping[str, bytes]) -> bytes:
    return b'{"presence":{%b}}' % b",".join([b"%b:%b" % (_encode(client), info) for client, info in members.items()])


def _numbers(stats: Stats) -> bytes:
    return b'{"num_clients":%d,"num_users":%d}' % (stats.clients, stats.users)


def _active(answers: Sequence[bytes]) -> bytes:
    counts = control.total(answers)
    if len(counts) > CHANNELS:
        raise errors.Refused(errors.LIMIT_EXCEEDED, f"more than {CHANNELS} channels")
    return _encode({"channels": {channel: {"num_clients": count} for channel, count in counts.items()}})
