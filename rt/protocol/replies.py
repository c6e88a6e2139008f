"""What the server says: replies to commands, and pushes nobody asked for, as finished JSON without a line break.

Pushes of publications, joins and leaves are not here but in ``wires``, which makes them for many subscribers at once.
The other pushes are made in two steps: a body (``..._body``), which is what unidirectional streams get as it is, and
:func:`push` around it for the SDKs.

Fields at their zero value are left out, except where clients look them up without a question: the code and message of
an error, the code and reason of an unsubscribe or disconnect, the user and client of a ClientInfo, and all of a
history. An empty result is an empty object, never nothing. Payloads are pasted in as they came; they were checked at
the entrance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import ceil

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
    """The result of a connect. ``ttl`` and ``ping`` are in seconds; ``subs`` are the server-side subscriptions.

    ``session`` is how the server API can name the connection; it is a secret between the two.
    """

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    subs: Mapping[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class _HistoryResult(msgspec.Struct, gc=False):
    publications: list[msgspec.Raw]
    offset: int
    epoch: str


class _Expiry(msgspec.Struct, omit_defaults=True, gc=False):
    expires: bool = False
    ttl: int = 0


class _Stats(msgspec.Struct, gc=False):
    num_clients: int
    num_users: int


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


def error(id: int, error: errors.Error, retry_after: float = 0.0) -> bytes:
    """The reply to a command that was not carried out; see :func:`error_object`."""
    return b'{"id":%d,"error":%b}' % (id, error_object(error, retry_after))


def error_object(error: errors.Error, retry_after: float = 0.0) -> bytes:
    """The error alone: ``{"code":103,"message":"permission denied"}``.

    ``retry_after``, in seconds, is in how long the command can be carried out, if that is known: told in milliseconds,
    ``{"code":111,"message":"too many requests","temporary":true,"retry_after":250}``.
    """
    plain = _error_object(error)
    return plain if retry_after <= 0.0 else b'%b,"retry_after":%d}' % (plain[:-1], ceil(retry_after * 1000))


@lru_cache(maxsize=64)
def _error_object(error: errors.Error) -> bytes:
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
    """Publications as they stand inside a result. The list may be shared: it is not to be changed."""
    return _encoded(tuple(items))


@lru_cache(maxsize=8)
def _encoded(items: tuple[Publication, ...]) -> list[msgspec.Raw]:
    # The same for all who come back from the same position, as they do by the thousand after a worker was killed. Eight
    # times what one reply may recover is not much.
    return [msgspec.Raw(item.encoded()) for item in items]


def refresh(id: int, *, expires: bool, ttl: int) -> bytes:
    """The reply to a refresh: whether the connection's right ends, and in how many seconds."""
    return b'{"id":%d,"refresh":%b}' % (id, _encode(_Expiry(expires, ttl)))


def sub_refresh(id: int, *, expires: bool, ttl: int) -> bytes:
    """The reply to a sub_refresh: whether the subscription's right ends, and in how many seconds."""
    return b'{"id":%d,"sub_refresh":%b}' % (id, _encode(_Expiry(expires, ttl)))


def presence(id: int, members: Mapping[str, bytes]) -> bytes:
    """The reply to a presence: the :func:`client_info` of each client."""
    return b'{"id":%d,"presence":%b}' % (id, presence_object(members))


def presence_object(members: Mapping[str, bytes]) -> bytes:
    """The result alone: ``{"presence":{"c1":{"user":"42","client":"c1"}}}``; nobody is an empty object."""
    return b'{"presence":%b}' % _encode({client: msgspec.Raw(info) for client, info in members.items()})


def presence_stats(id: int, clients: int, users: int) -> bytes:
    """The reply to a presence_stats: connections, and different users among them."""
    return b'{"id":%d,"presence_stats":%b}' % (id, presence_stats_object(clients, users))


def presence_stats_object(clients: int, users: int) -> bytes:
    """The result alone: ``{"num_clients":2,"num_users":1}``."""
    return _encode(_Stats(clients, users))


def push(body: bytes) -> bytes:
    """The push that an SDK gets, around one of the bodies below."""
    return b'{"push":%b}' % body


def unsubscribe_body(channel: str, reason: errors.Unsubscribe) -> bytes:
    """A subscription is over: ``{"channel":"a","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}``."""
    return b'{"channel":%b,"unsubscribe":%b}' % (_encode(channel), _encode(_Reason(reason.code, reason.reason)))


def subscribe_body(channel: str, result: SubscribeResult) -> bytes:
    """The server has subscribed the connection: ``{"channel":"a","subscribe":{"epoch":"x","offset":3}}``."""
    return b'{"channel":%b,"subscribe":%b}' % (_encode(channel), _encode(result))


def refresh_body(*, expires: bool, ttl: int) -> bytes:
    """The backend has changed when the connection's right ends: ``{"refresh":{"expires":true,"ttl":60}}``."""
    return b'{"refresh":%b}' % _encode(_Expiry(expires, ttl))


def connect_body(result: ConnectResult) -> bytes:
    """How a unidirectional stream begins: ``{"connect":{"client":"…","version":"…"}}``."""
    return b'{"connect":%b}' % _encode(result)


def disconnect_body(close: errors.Close) -> bytes:
    """How a unidirectional stream ends: ``{"disconnect":{"code":3001,"reason":"shutdown"}}``."""
    return b'{"disconnect":%b}' % disconnect_object(close)


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
