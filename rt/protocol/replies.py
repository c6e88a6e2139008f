"""What the server says: replies to commands, and pushes nobody asked for, as finished JSON without a line break.

Pushes of publications are not here but in ``wires``, which makes them for many subscribers at once.

Fields at their zero value are left out, except where clients look them up without a question: the code and message of
an error, the code and reason of an unsubscribe or disconnect, the user and client of a ClientInfo, and all of a
history. An empty result is an empty object, never nothing. Payloads are pasted in as they came; they were checked at
the entrance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from rt import errors
from rt.protocol.publication import Position, Publication

PING = b"{}"
_encode = msgspec.json.Encoder().encode


class SubscribeResult(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """The result of a subscribe. ``offset`` is where the client now is: after a recovery, where it asked from.

    ``ttl`` is in seconds. ``publications`` come from :func:`publications`; ``data`` is raw JSON.
    """

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    positioned: bool = False
    epoch: str = ""
    offset: int = 0
    publications: list[msgspec.Raw] = []
    recovered: bool = False
    was_recovering: bool = False
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ConnectResult(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """The result of a connect. ``ttl`` and ``ping`` are in seconds; ``subs`` are the server-side subscriptions."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    subs: Mapping[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    node: str = ""


class _HistoryResult(msgspec.Struct, gc=False):
    publications: list[msgspec.Raw]
    offset: int
    epoch: str


class _Error(msgspec.Struct, omit_defaults=True, gc=False):
    code: int
    message: str
    temporary: bool = False


class _Reason(msgspec.Struct, gc=False):
    code: int
    reason: str


class _ClientInfo(msgspec.Struct, omit_defaults=True, gc=False):
    user: str
    client: str
    conn_info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    chan_info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def error(id: int, error: errors.Error) -> bytes:
    """The reply to a command that was not carried out."""
    return b'{"id":%d,"error":%b}' % (id, error_object(error))


@lru_cache(maxsize=64)
def error_object(error: errors.Error) -> bytes:
    """The error alone: ``{"code":103,"message":"permission denied"}``."""
    return _encode(_Error(error.code, error.message, error.temporary))


def connect(id: int, result: ConnectResult) -> bytes:
    """The reply to a connect."""
    return b'{"id":%d,"connect":%b}' % (id, _encode(result))


def subscribe(id: int, result: SubscribeResult) -> bytes:
    """The reply to a subscribe."""
    return b'{"id":%d,"subscribe":%b}' % (id, _encode(result))


def history(id: int, top: Position, publications_: Iterable[Publication]) -> bytes:
    """The reply to a history, in the order given; an empty page still says where the top is."""
    result = _HistoryResult(publications(publications_), top.offset, top.epoch)
    return b'{"id":%d,"history":%b}' % (id, _encode(result))


def done(id: int, kind: str) -> bytes:
    """The reply to a command of ``kind`` whose result has no fields, such as publish or unsubscribe."""
    return b'{"id":%d,"%b":{}}' % (id, kind.encode())


def publications(items: Iterable[Publication]) -> list[msgspec.Raw]:
    """Publications as they stand inside a result."""
    return [msgspec.Raw(item.encoded()) for item in items]


def unsubscribe(channel: str, reason: errors.Unsubscribe) -> bytes:
    """The push that ends one subscription."""
    pushed = _encode(_Reason(reason.code, reason.reason))
    return b'{"push":{"channel":%b,"unsubscribe":%b}}' % (_encode(channel), pushed)


def disconnect_object(close: errors.Close) -> bytes:
    """The reason of a close alone: ``{"code":3001,"reason":"shutdown"}``."""
    return _encode(_Reason(close.code, close.reason))


def connect_object(result: ConnectResult) -> bytes:
    """How a stream without an SDK begins: who the client is here, and where each of its channels stands.

    ``{"client":"…","version":"…","subs":{"a":{"epoch":"x","offset":3,"recovered":true,"was_recovering":true}},"ping":25}``
    """
    return _encode(result)


def connect_message(result: ConnectResult, cursor: str) -> bytes:
    """The first message on a plain WebSocket: :func:`connect_object` with the cursor to come back with."""
    return b'{"connect":%b,"cursor":%b}' % (_encode(result), _encode(cursor))


def client_info(user: str, client: str, conn_info: bytes = b"", chan_info: bytes = b"") -> bytes:
    """Who a client is, for others to see. The infos are compact JSON, empty when there is none."""
    return _encode(_ClientInfo(user, client, _raw(conn_info), _raw(chan_info)))


def publication_body(data: bytes, info: bytes | None = None, tags: Mapping[str, str] | None = None) -> bytes:
    """The object of a publication without its offset, as :class:`Publication` keeps it.

    ``data`` is a compacted payload, ``info`` the publisher's :func:`client_info`.
    """
    parts = [b'{"data":', data]
    if info is not None:
        parts += (b',"info":', info)
    if tags:
        parts += (b',"tags":', _encode(tags))
    parts.append(b"}")
    return b"".join(parts)


def _raw(json: bytes) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.Raw(json) if json else msgspec.UNSET
