"""The streams of channels: publishing, reading, emptying. :class:`rt.broker.Broker` says what each call promises."""

from __future__ import annotations

import asyncio
import binascii
import random
import time
from typing import Any, NamedTuple

from rt import errors
from rt.broker import bus
from rt.broker.counters import Counters
from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.scripts import HISTORY, PUBLISH, REMOVE
from rt.protocol.publication import NOWHERE, Change, Page, Position, Publication

DEDUP_WINDOW_MS = 300_000
"""How long the result of a publish is kept under its idempotency key, in milliseconds."""

_DUPLICATE = 1

_LETTERS = bytes.maketrans(b"+/", b"xy")


class PublishOptions(NamedTuple):
    """How a channel keeps its history: publications, seconds since the last one, seconds for the metadata.

    A size or ttl of 0 publishes without history. ``idempotency_key`` makes a repeat within 5 minutes give the first
    result. ``version`` (above 0, with history) lets only newer ones through: one that is not above the last version
    accepted under the same ``version_epoch``, or under any when that is empty, is suppressed.
    """

    history_size: int
    history_ttl: float
    meta_ttl: float
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


class Published(NamedTuple):
    """A publication is in the stream at ``position`` and was handed to every worker (:data:`NOWHERE` without history:
    handed over only). ``duplicate``: it was so before, by an earlier publish with the same key. ``suppressed``: its
    version is old, so it is not published at all, and ``position`` is the top."""

    position: Position
    duplicate: bool
    suppressed: bool = False


class Streams:
    """The calls about one channel's stream."""

    __slots__ = ("_counters", "_keys", "_loop", "_pipeline")

    def __init__(self, pipeline: Pipeline, keys: Keys, counters: Counters) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipeline = pipeline
        self._keys = keys
        self._counters = counters

    def publish(self, channel: str, body: bytes, options: PublishOptions) -> asyncio.Future[Published]:
        """See :meth:`rt.broker.Broker.publish`."""
        if len(body) > bus.MAX_BODY:
            refused: asyncio.Future[Published] = self._loop.create_future()
            refused.set_exception(errors.Refused(errors.LIMIT_EXCEEDED))
            return refused
        size, ttl, meta_ttl, key, version, version_epoch = options
        name = self._keys.channel(channel)
        ttl_ms = int(ttl * 1000)
        stored = size > 0 and ttl_ms > 0
        keys = (f"{name}:meta", f"{name}:stream", f"{name}:dedup:{key}") if key else (f"{name}:meta", f"{name}:stream")
        args: tuple[str | bytes | int, ...] = (
            name,
            candidate(),
            size if stored else 0,
            ttl_ms,
            max(int(meta_ttl * 1000), ttl_ms),
            DEDUP_WINDOW_MS,
            time.time_ns() // 1000,
            body,
        )
        if version > 0:
            args = (*args, version, version_epoch)
        return self._pipeline.run(PUBLISH, keys, args, self._published, repeatable=bool(key))

    def _published(self, reply: Any) -> Published:
        what = reply[2]
        position = Position(reply[0].decode("ascii"), reply[1])
        if what == 0:
            self._counters.published += 1
            return Published(position, False)
        if what == _DUPLICATE:
            self._counters.duplicates += 1
            return Published(position, True)
        self._counters.suppressed += 1
        return Published(position, False, True)

    def history(
        self, channel: str, *, since: Position | None, limit: int, reverse: bool, meta_ttl: float
    ) -> asyncio.Future[Page]:
        """See :meth:`rt.broker.Broker.history`."""
        self._counters.reads += 1
        return read(
            self._pipeline, self._keys.channel(channel), since=since, limit=limit, reverse=reverse, meta_ttl=meta_ttl
        )

    def position(self, channel: str, meta_ttl: float) -> asyncio.Future[Position]:
        """See :meth:`rt.broker.Broker.position`."""
        name = self._keys.channel(channel)
        self._counters.reads += 1
        args = (candidate(), max(int(meta_ttl * 1000), 1), "", 0, 0, 0)
        return self._pipeline.run(HISTORY, (f"{name}:meta", f"{name}:stream"), args, _top, repeatable=True)

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.remove_history`."""
        name = self._keys.channel(channel)
        args = (name, time.time_ns() // 1000)
        return self._pipeline.run(REMOVE, (f"{name}:meta", f"{name}:stream"), args, nothing, repeatable=True)

    def announce(self, channel: str, change: Change) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.announce`."""
        done: asyncio.Future[None] = self._loop.create_future()
        if len(change.info) > bus.MAX_INFO:
            done.set_exception(errors.Refused(errors.LIMIT_EXCEEDED))
            return done

        def told(call: asyncio.Future[Any]) -> None:
            error = call.exception()
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        message = bus.encoded(change, time.time_ns() // 1000)
        self._pipeline.call("PUBLISH", self._keys.channel(channel), message).add_done_callback(told)
        return done


def read(
    pipeline: Pipeline, name: str, *, since: Position | None, limit: int, reverse: bool = False, meta_ttl: float
) -> asyncio.Future[Page]:
    """Read the stream whose keys begin with ``name``, as :meth:`rt.broker.Broker.history` says."""
    epoch, offset = since or NOWHERE
    args = (candidate(), max(int(meta_ttl * 1000), 1), epoch, offset, limit, 1 if reverse else 0)
    return pipeline.run(HISTORY, (f"{name}:meta", f"{name}:stream"), args, _page, repeatable=True)


def candidate() -> str:
    """An epoch, should one have to begin: 8 characters that no other call has. Never made in advance for several calls:
    two lives of one channel would then be one epoch."""
    return binascii.b2a_base64(random.randbytes(6), newline=False).translate(_LETTERS).decode("ascii")


def _page(reply: Any) -> Page:
    epoch, offset, entries = reply
    name = epoch.decode("ascii")
    publications = [
        Publication(body, name, int(entry[:-2]), int(accepted)) for entry, (_, body, _, accepted) in entries
    ]
    return Page(Position(name, offset), publications)


def _top(reply: Any) -> Position:
    return Position(reply[0].decode("ascii"), reply[1])


def nothing(reply: Any) -> None:
    """The reply says no more than that it was done."""
