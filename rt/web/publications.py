"""Methods of the server API about publications: publish, broadcast, history, history_remove."""

from __future__ import annotations

import binascii
from base64 import b64decode
from functools import partial

import msgspec

from rt import errors
from rt.broker import Broker, Published, PublishOptions
from rt.config import Namespace
from rt.delivery import publishing
from rt.protocol.channels import Namespaces
from rt.protocol.commands import OFFSET_MAX, Int32, Since, Unsigned
from rt.protocol.publication import Page, Position
from rt.protocol.replies import publication_body
from rt.web.answers import EMPTY, Done, answer, proceed
from rt.web.batch import Gather

BROADCAST_CHANNELS = 1000
"""Channels of one broadcast."""

BROADCAST_BYTES = 8 << 20
"""Bytes that one broadcast may put on its way to the store, its channels times its body: half of what may wait."""

_encode = msgspec.json.Encoder().encode


class _Payload(msgspec.Struct, frozen=True, gc=False):
    """What publish and broadcast have in common. Null stands for absent, as libraries of other languages send it.

    ``delta`` is not read: it permits to send less than the whole payload, and sending all of it is always right.
    """

    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    skip_history: bool | None = None
    version: Unsigned | None = None
    version_epoch: str | None = None

    def __post_init__(self) -> None:
        # msgspec cannot state a bound beyond 63 bits; versions are 64 bits wide.
        if self.version is not None and self.version > OFFSET_MAX:
            raise ValueError("a version has 64 bits")


class _Publish(_Payload, frozen=True, gc=False):
    channel: str | None = None


class _Broadcast(_Payload, frozen=True, gc=False):
    channels: list[str] | None = None


class _History(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None
    limit: Int32 | None = None
    since: Since | None = None
    reverse: bool | None = None


class _HistoryRemove(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None


_PUBLISH = msgspec.json.Decoder(_Publish)
_BROADCAST = msgspec.json.Decoder(_Broadcast)
_HISTORY = msgspec.json.Decoder(_History)
_HISTORY_REMOVE = msgspec.json.Decoder(_HistoryRemove)


class Publications:
    """Publishes into the store and reads what it keeps. ``namespaces`` may be exchanged at any time."""

    __slots__ = ("_broker", "namespaces")

    def __init__(self, broker: Broker, namespaces: Namespaces[Namespace]) -> None:
        self._broker = broker
        self.namespaces = namespaces

    def publish(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Publish into one channel: ``{"offset":5,"epoch":"x"}``, or ``{}`` without history."""
        request = _PUBLISH.decode(params)
        channel = request.channel or ""
        namespace = self.namespaces.find(channel)
        body = _body(request, namespace)
        answer(self._broker.publish(channel, body, _options(request, namespace)), done, _published)

    def broadcast(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Publish the same into many channels; each has its own answer in ``responses``."""
        request = _BROADCAST.decode(params)
        channels = request.channels or []
        if not 0 < len(channels) <= BROADCAST_CHANNELS:
            raise errors.Refused(errors.BAD_REQUEST, f"1 to {BROADCAST_CHANNELS} channels")
        bodies = _Bodies(request)
        if len(channels) * bodies.size > BROADCAST_BYTES:
            raise errors.Refused(errors.BAD_REQUEST, f"at most {BROADCAST_BYTES} bytes over all channels")
        answers = Gather(len(channels), lambda entries: done(b'{"responses":[%b]}' % b",".join(entries)))
        for index, channel in enumerate(channels):
            self._publish_one(channel, request, bodies, partial(answers.fill, index, b"result"))

    def _publish_one(self, channel: str, request: _Broadcast, bodies: _Bodies, done: Done) -> None:
        try:
            namespace = self.namespaces.find(channel)
            body, options = bodies.of(namespace), _options(request, namespace)
        except errors.Refused as refused:
            done(refused.error)
            return
        answer(self._broker.publish(channel, body, options), done, _published)

    def history(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Read a channel's stream: ``{"publications":[...],"offset":5,"epoch":"x"}``."""
        request = _HISTORY.decode(params)
        channel, since = request.channel or "", request.since
        namespace = self._namespace_with_history(channel)
        if request.reverse and since is not None and since.offset == 0:
            raise errors.Refused(errors.BAD_REQUEST, "nothing lies before offset 0")
        read = partial(self._read, channel, request, namespace, done)
        if since is None:
            read(None)
        elif since.epoch:
            read(Position(since.epoch, since.offset))
        else:
            # Only an offset: it is meant in the epoch of now, whichever that is.
            top = self._broker.position(channel, namespace.history_meta_ttl)
            proceed(top, done, lambda top: read(Position(top.epoch, since.offset)))

    def _read(self, channel: str, request: _History, namespace: Namespace, done: Done, since: Position | None) -> None:
        limit = max(request.limit or 0, -1)
        future = self._broker.history(
            channel, since=since, limit=limit, reverse=bool(request.reverse), meta_ttl=namespace.history_meta_ttl
        )
        answer(future, done, partial(_page, since))

    def history_remove(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Empty a channel's stream; epoch and offset stay: ``{}``."""
        channel = _HISTORY_REMOVE.decode(params).channel or ""
        self._namespace_with_history(channel)
        answer(self._broker.remove_history(channel), done, lambda _: EMPTY)

    def _namespace_with_history(self, channel: str) -> Namespace:
        namespace = self.namespaces.find(channel)
        if not namespace.history:
            raise errors.Refused(errors.NOT_AVAILABLE)
        return namespace


class _Bodies:
    """The body of a broadcast, made once for each format that its namespaces ask for."""

    __slots__ = ("_by_format", "_request", "size")

    def __init__(self, request: _Broadcast) -> None:
        self._request = request
        self._by_format: dict[str, bytes] = {}
        # What no namespace would take is refused as a whole, before any channel is looked at.
        self.size = len(self.of(Namespace()))

    def of(self, namespace: Namespace) -> bytes:
        """The body for a channel of ``namespace``; :class:`errors.Refused` where its format does not allow it."""
        body = self._by_format.get(namespace.publication_data_format)
        if body is None:
            body = self._by_format[namespace.publication_data_format] = _body(self._request, namespace)
        return body


def _body(request: _Payload, namespace: Namespace) -> bytes:
    data = publishing.checked(_decoded(request.b64data) if request.b64data else request.data, namespace)
    return publication_body(data, tags=request.tags)


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise errors.Refused(errors.BAD_REQUEST, "b64data is not base64") from None


def _options(request: _Payload, namespace: Namespace) -> PublishOptions:
    options = publishing.options(namespace, request.idempotency_key or "", skip_history=bool(request.skip_history))
    if not request.version:
        return options
    epoch = request.version_epoch or ""
    if len(epoch.encode()) > publishing.KEY_LENGTH:
        raise errors.Refused(errors.BAD_REQUEST, "the version_epoch is too long")
    return options._replace(version=request.version, version_epoch=epoch)


def _published(published: Published) -> bytes:
    epoch, offset = published.position
    return b'{"offset":%d,"epoch":%b}' % (offset, _encode(epoch)) if offset else EMPTY


def _page(since: Position | None, page: Page) -> bytes:
    if since is not None and since.epoch != page.top.epoch:
        raise errors.Refused(errors.UNRECOVERABLE_POSITION)
    publications = b",".join([publication.encoded() for publication in page.publications])
    return b'{"publications":[%b],"offset":%d,"epoch":%b}' % (publications, page.top.offset, _encode(page.top.epoch))
