"""The methods of the server API: what each reads, asks of the store, and answers.

A method is called with its parameters and a ``done``, and calls that exactly once, now or later, with the finished JSON
of its result or with an error. Nothing is awaited and no task is made: the store answers through futures, and a publish
costs one callback.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
from base64 import b64decode
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from rt import errors
from rt.broker import Broker, Published, PublishOptions
from rt.config import Config, Namespace
from rt.delivery import publishing
from rt.protocol.channels import Namespaces
from rt.protocol.commands import Int32, Since
from rt.protocol.publication import Page, Position
from rt.protocol.replies import publication_body
from rt.web.batch import Batch, Gather

logger = logging.getLogger(__name__)

Done = Callable[[bytes | errors.Error], None]
Method = Callable[[bytes | msgspec.Raw, Done], None]
T = TypeVar("T")

BROADCAST_CHANNELS = 1000
"""Channels of one broadcast."""

BROADCAST_BYTES = 8 << 20
"""Bytes that one broadcast may put on its way to the store, its channels times its body: half of what may wait."""

BATCH_COMMANDS = 1000
"""Commands of one batch."""

BATCH_WINDOW = 16
"""Commands of a parallel batch that are under way at once."""

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
    version: int | None = None


class _Publish(_Payload, frozen=True, gc=False):
    channel: str | None = None


class _Broadcast(_Payload, frozen=True, gc=False):
    channels: list[str] | None = None


class _History(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None
    limit: Int32 | None = None
    since: Since | None = None
    reverse: bool | None = None


class _Channel(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None


class _Nothing(msgspec.Struct, frozen=True, gc=False):
    pass


class _Batch(msgspec.Struct, frozen=True, gc=False):
    commands: list[dict[str, msgspec.Raw] | None] | None = None
    parallel: bool | None = None


class _Node(msgspec.Struct, frozen=True, gc=False):
    """What callers rely on in a worker's entry."""

    uid: str
    name: str


_PUBLISH = msgspec.json.Decoder(_Publish)
_BROADCAST = msgspec.json.Decoder(_Broadcast)
_HISTORY = msgspec.json.Decoder(_History)
_CHANNEL = msgspec.json.Decoder(_Channel)
_NOTHING = msgspec.json.Decoder(_Nothing)
_BATCH = msgspec.json.Decoder(_Batch)
_NODE = msgspec.json.Decoder(_Node)

WRONG_SHAPE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises at parameters that are not what the method reads."""


class Methods:
    """The methods by their name in the URL, over one store."""

    def __init__(self, config: Config, broker: Broker) -> None:
        self._broker = broker
        self._tasks: set[asyncio.Task[list[bytes]]] = set()
        self.by_name: dict[str, Method] = {
            "publish": self.publish,
            "broadcast": self.broadcast,
            "batch": self.batch,
            "history": self.history,
            "history_remove": self.history_remove,
            "info": self.info,
        }
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Use the namespaces of another config from the next call on."""
        self._namespaces = Namespaces(config.channel)

    async def stop(self) -> None:
        """End what is under way here; the callers get error 100."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Publish into one channel: ``{"offset":5,"epoch":"x"}``, or ``{}`` without history."""
        request = _PUBLISH.decode(params)
        channel = request.channel or ""
        namespace = self._namespaces.find(channel)
        body = _body(request, namespace)
        future = self._broker.publish(channel, body, _options(request, namespace))
        future.add_done_callback(partial(_settle, done, _published))

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
            namespace = self._namespaces.find(channel)
            body, options = bodies.of(namespace), _options(request, namespace)
        except errors.Refused as refused:
            done(refused.error)
            return
        future = self._broker.publish(channel, body, options)
        future.add_done_callback(partial(_settle, done, _published))

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
            top.add_done_callback(partial(_continue, done, lambda top: read(Position(top.epoch, since.offset))))

    def _read(self, channel: str, request: _History, namespace: Namespace, done: Done, since: Position | None) -> None:
        limit = max(request.limit or 0, -1)
        future = self._broker.history(
            channel, since=since, limit=limit, reverse=bool(request.reverse), meta_ttl=namespace.history_meta_ttl
        )
        future.add_done_callback(partial(_settle, done, partial(_page, since)))

    def history_remove(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Empty a channel's stream; epoch and offset stay: ``{}``."""
        channel = _CHANNEL.decode(params).channel or ""
        self._namespace_with_history(channel)
        self._broker.remove_history(channel).add_done_callback(partial(_settle, done, lambda _: b"{}"))

    def _namespace_with_history(self, channel: str) -> Namespace:
        namespace = self._namespaces.find(channel)
        if not namespace.history:
            raise errors.Refused(errors.NOT_AVAILABLE)
        return namespace

    def info(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Describe all workers that are up: ``{"nodes":[...]}``."""
        _NOTHING.decode(params)
        task = asyncio.get_running_loop().create_task(self._broker.workers())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(_settle, done, _nodes))

    def batch(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Run commands one after the other, or side by side: ``{"replies":[...]}`` in the order of the commands."""
        request = _BATCH.decode(params)
        commands = request.commands or []
        if len(commands) > BATCH_COMMANDS:
            raise errors.Refused(errors.BAD_REQUEST, f"at most {BATCH_COMMANDS} commands")
        window = BATCH_WINDOW if request.parallel else 1
        Batch([self._command(command) for command in commands], window, done).run()

    def _command(self, command: dict[str, msgspec.Raw] | None) -> tuple[bytes, Callable[[Done], None]]:
        """The name under which a command of a batch is answered, and what starts it."""
        if not command or len(command) > 1:
            return b"error", partial(_refuse, errors.BAD_REQUEST)
        ((name, params),) = command.items()
        method = self.by_name.get(name)
        if method is None or name == "batch":
            return b"error", partial(_refuse, errors.METHOD_NOT_FOUND)
        return name.encode(), partial(_attempt, method, params)


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
    if request.version:
        # To publish it all the same would deliver what the caller wants suppressed.
        raise errors.Refused(errors.NOT_AVAILABLE, "versions are not available")
    return publishing.options(namespace, request.idempotency_key or "", skip_history=bool(request.skip_history))


def _refuse(error: errors.Error, done: Done) -> None:
    done(error)


def _attempt(method: Method, params: msgspec.Raw, done: Done) -> None:
    """Start a command of a batch; what is wrong with it is its own answer, not the batch's."""
    try:
        method(params, done)
    except errors.Refused as refused:
        done(refused.error)
    except WRONG_SHAPE:
        done(errors.BAD_REQUEST)


def _settle(done: Done, render: Callable[[T], bytes], future: asyncio.Future[T]) -> None:
    """Answer with what the store said, or with the error that stands for why it said nothing."""
    try:
        outcome: bytes | errors.Error = render(future.result())
    except errors.Refused as refused:
        outcome = refused.error
    except (errors.StoreError, asyncio.CancelledError):
        outcome = errors.INTERNAL
    except Exception:
        logger.exception("a call of the server API failed")
        outcome = errors.INTERNAL
    done(outcome)


def _continue(done: Done, then: Callable[[T], None], future: asyncio.Future[T]) -> None:
    """Go on with what the store said; where it said nothing, that is the answer."""
    if not future.cancelled() and future.exception() is None:
        then(future.result())
    else:
        _settle(done, lambda _: b"", future)


def _published(published: Published) -> bytes:
    epoch, offset = published.position
    return b'{"offset":%d,"epoch":%b}' % (offset, _encode(epoch)) if offset else b"{}"


def _page(since: Position | None, page: Page) -> bytes:
    if since is not None and since.epoch != page.top.epoch:
        raise errors.Refused(errors.UNRECOVERABLE_POSITION)
    publications = b",".join([publication.encoded() for publication in page.publications])
    return b'{"publications":[%b],"offset":%d,"epoch":%b}' % (publications, page.top.offset, _encode(page.top.epoch))


def _nodes(entries: Sequence[bytes]) -> bytes:
    return b'{"nodes":[%b]}' % b",".join([entry for entry in entries if _is_node(entry)])


def _is_node(entry: bytes) -> bool:
    """Whether an entry of the registry is one: another version may have written it, and callers need two fields."""
    try:
        _NODE.decode(entry)
    except WRONG_SHAPE:
        logger.warning("an entry in the registry of workers makes no sense")
        return False
    return True
