"""One tenant's store, as the rest of a worker sees it: publish, read, subscribe, and be told."""

from __future__ import annotations

import asyncio
import binascii
import logging
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rt import errors
from rt.broker import bus
from rt.broker.counters import Counters
from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.probe import Probe
from rt.broker.refusal import Refusal
from rt.broker.scripts import HISTORY, PUBLISH, REMOVE
from rt.broker.settings import StoreSettings
from rt.broker.subscriber import Subscriber
from rt.broker.trouble import Trouble
from rt.protocol.publication import Page, Position, Publication

log = logging.getLogger("rt.broker")

NOWHERE = Position("", 0)
"""The position of a channel without history."""

DEDUP_WINDOW_MS = 300_000
"""How long the result of a publish is kept under its idempotency key, in milliseconds."""

_LETTERS = bytes.maketrans(b"+/", b"xy")


class PublishOptions(NamedTuple):
    """How a channel keeps its history: publications, seconds since the last one, seconds for the metadata.

    A size or ttl of 0 publishes without history. ``idempotency_key`` makes a repeat within 5 minutes give the first
    result.
    """

    history_size: int
    history_ttl: float
    meta_ttl: float
    idempotency_key: str = ""


class Published(NamedTuple):
    """A publication is in the stream at ``position`` and was handed to every worker (:data:`NOWHERE` without history:
    handed over only). ``duplicate``: it was so before, by an earlier publish with the same key."""

    position: Position
    duplicate: bool


class Status(NamedTuple):
    """How the store is, as seen from here. ``probe_age`` is in seconds, None before the first probe came back.
    ``reasons`` says in sentences why it is not ready; empty when it is."""

    ready: bool
    connected: bool
    subscribed: bool
    probe_age: float | None
    reasons: list[str]


class Broker:
    """The store of one tenant and worker.

    Calls return futures and never raise a store's trouble themselves: the future fails with a :class:`StoreError`, at
    once while the store is away, and never later than ``timeout`` plus a tenth. Calls of one loop turn leave in one
    write. A future may be cancelled; the call goes on. ValueError is for names with a brace in them.
    """

    def __init__(self, settings: StoreSettings, *, tenant: str = "default", worker: str) -> None:
        """To be made in a running loop. ValueError when the settings make no sense; OSError when the CA file cannot be
        read."""
        self.counters = Counters()
        self._worker = worker
        self._keys = Keys(settings.prefix, tenant)
        loop = asyncio.get_running_loop()
        self._loop = loop
        trouble = Trouble(loop.time)
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in f"rt-{worker}")
        self._trouble = trouble
        self._pipeline = Pipeline(
            settings, name=f"{name}-commands", counters=self.counters, trouble=trouble, on_up=self._commands_up
        )
        self._subscriber = Subscriber(
            settings,
            name=f"{name}-subscriber",
            counters=self.counters,
            trouble=trouble,
            on_message=self._hear,
            on_up=self._subscriber_up,
        )
        self._probe = Probe(
            interval=settings.probe_interval,
            timeout=settings.timeout,
            counters=self.counters,
            publish=self._publish_probe,
            deaf=self._deaf,
        )
        self._probe_name = self._keys.probe(worker)
        self._must_check = False
        self._on_publication: Callable[[str, Publication], None]
        self._on_removed: Callable[[str], None]
        self._on_resumed: Callable[[], None]

    # Life

    async def start(
        self,
        *,
        on_publication: Callable[[str, Publication], None],
        on_removed: Callable[[str], None],
        on_resumed: Callable[[], None],
    ) -> None:
        """Begin to connect; returns at once, also when the store is down.

        ``on_publication`` gets the channel and each publication of a subscribed channel, in the store's order, ours
        too. ``on_removed`` gets a channel whose history was removed. ``on_resumed`` says that something may have been
        missed (the subscriber was away and everything is confirmed again, or the store is another one) and that the
        store can be asked: all positions must be checked.
        """
        self._on_publication = on_publication
        self._on_removed = on_removed
        self._on_resumed = on_resumed
        self._pipeline.start()
        self._subscriber.start(self._probe_name)
        self._probe.start()

    async def stop(self) -> None:
        """Wait for the calls under way, at most for the timeout, and close. Subscribes under way fail."""
        await self._probe.stop()
        await self._pipeline.stop()
        await self._subscriber.stop()

    def set_lineage(self, text: str) -> None:
        """The store is another one, says who runs it. For settings whose lineage is such a text."""
        self._pipeline.set_lineage(text)

    @property
    def ready(self) -> bool:
        """Whether a probe made the whole way through the store within the last two probe intervals."""
        return self._probe.ready

    def status(self) -> Status:
        """What /ready and the metrics say."""
        seen_at = self._probe.seen_at
        age = None if seen_at is None else self._loop.time() - seen_at
        ready = self._probe.ready
        reasons = [] if ready else (self._trouble.reasons or ["no probe came back through the store"])
        return Status(ready, self._pipeline.connected, self._subscriber.connected, age, reasons)

    # Publishing and reading

    def publish(self, channel: str, body: bytes, options: PublishOptions) -> asyncio.Future[Published]:
        """Publish ``body`` (see :class:`Publication`). An acknowledgement means: stored at the position given and
        handed to all workers, in one step.

        Fails with a definite StoreError when it certainly never happens, with an indefinite one when nobody can know;
        then a repeat with the same idempotency key is safe. Fails with ``Refused(LIMIT_EXCEEDED)`` for a body beyond 16
        MiB.
        """
        if len(body) > bus.MAX_BODY:
            refused: asyncio.Future[Published] = self._loop.create_future()
            refused.set_exception(errors.Refused(errors.LIMIT_EXCEEDED))
            return refused
        size, ttl, meta_ttl, key = options
        name = self._keys.channel(channel)
        ttl_ms = int(ttl * 1000)
        stored = size > 0 and ttl_ms > 0
        keys = (f"{name}:meta", f"{name}:stream", f"{name}:dedup:{key}") if key else (f"{name}:meta", f"{name}:stream")
        args = (
            name,
            _candidate(),
            size if stored else 0,
            ttl_ms,
            max(int(meta_ttl * 1000), ttl_ms),
            DEDUP_WINDOW_MS,
            time.time_ns() // 1000,
            body,
        )
        return self._pipeline.run(PUBLISH, keys, args, self._published, repeatable=bool(key))

    def _published(self, reply: Any) -> Published:
        epoch, offset, seen = reply
        if seen:
            self.counters.duplicates += 1
        else:
            self.counters.published += 1
        return Published(Position(epoch.decode("ascii"), offset), bool(seen))

    def history(
        self, channel: str, *, since: Position | None = None, limit: int, reverse: bool = False, meta_ttl: float
    ) -> asyncio.Future[Page]:
        """Read the stream as it is at one moment. A channel that has no epoch gets one.

        ``since`` is exclusive; None reads from the beginning (``reverse``: from the end). ``limit`` is the number of
        publications at most, 0 for only the top, -1 for all. ``reverse`` gives them newest first. When ``since`` is of
        another epoch there are no publications: compare with ``top.epoch``. What was trimmed, expired or evicted shows
        as a first publication beyond ``since.offset + 1``, or as none although the top is higher.
        """
        name = self._keys.channel(channel)
        self.counters.reads += 1
        epoch, offset = since or NOWHERE
        args = (_candidate(), max(int(meta_ttl * 1000), 1), epoch, offset, limit, 1 if reverse else 0)
        return self._pipeline.run(HISTORY, (f"{name}:meta", f"{name}:stream"), args, _page, repeatable=True)

    def position(self, channel: str, meta_ttl: float) -> asyncio.Future[Position]:
        """The top of the channel's stream. A channel that has no epoch gets one."""
        name = self._keys.channel(channel)
        self.counters.reads += 1
        args = (_candidate(), max(int(meta_ttl * 1000), 1), "", 0, 0, 0)
        return self._pipeline.run(HISTORY, (f"{name}:meta", f"{name}:stream"), args, _top, repeatable=True)

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        """Empty the stream and tell all workers. Epoch and offset stay."""
        name = self._keys.channel(channel)
        args = (name, time.time_ns() // 1000)
        return self._pipeline.run(REMOVE, (f"{name}:meta", f"{name}:stream"), args, _nothing, repeatable=True)

    # Subscribing

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        """Want the channel's publications. Done when the store has confirmed: from then on none is missed without a
        word.

        Fails with a StoreError when the store is away or does not confirm within the timeout; then it is not wanted.
        Once confirmed it is kept over reconnects until :meth:`unsubscribe`, also when the future was cancelled.
        """
        return self._subscriber.subscribe(self._keys.channel(channel), channel)

    def unsubscribe(self, channel: str) -> None:
        """Want them no more. Nothing is delivered any more from now on; a later :meth:`subscribe` goes after it."""
        self._subscriber.unsubscribe(self._keys.channel(channel))

    # The registry of workers

    async def register(self, node: bytes, ttl: float) -> None:
        """Say that this worker lives, for ``ttl`` seconds, and what it says about itself. Raises StoreError."""
        key, index = self._keys.worker(self._worker), self._keys.workers
        await asyncio.gather(
            self._pipeline.call("SET", key, node, "PX", max(int(ttl * 1000), 1)),
            self._pipeline.call("SADD", index, self._worker),
        )

    async def workers(self) -> list[bytes]:
        """What the workers that live say about themselves, ordered by name. Raises StoreError."""
        index = self._keys.workers
        names: list[bytes] = sorted(await self._pipeline.call("SMEMBERS", index))
        if not names:
            return []
        nodes = await self._pipeline.call("MGET", *(self._keys.worker(name.decode()) for name in names))
        gone = [name for name, node in zip(names, nodes, strict=True) if node is None]
        if gone:
            # One that is not gone after all says so again with its next register().
            await self._pipeline.call("SREM", index, *gone)
        return [node for node in nodes if node is not None]

    # Being told

    def _hear(self, channel: str, payload: bytes) -> None:
        publication = bus.publication(payload)
        try:
            if publication is None:
                if bus.is_removal(payload):
                    self._on_removed(channel)
                else:
                    self.counters.bus_dropped += 1
            elif channel:
                self._on_publication(channel, publication)
            else:
                self._probe.hear(publication.body)
        except Exception:
            # The next publication is not to suffer for it.
            log.exception("a publication could not be handed on")

    def _commands_up(self, renewed: bool) -> None:
        self._must_check |= renewed
        self._up()

    def _subscriber_up(self, resumed: bool) -> None:
        self._must_check |= resumed
        self._up()

    def _up(self) -> None:
        """Something came up. Positions can only be checked when both connections are there."""
        if self._pipeline.connected and self._subscriber.connected:
            self._probe.wake()
            if self._must_check:
                self._must_check = False
                self._tell_resumed()

    def _tell_resumed(self) -> None:
        try:
            self._on_resumed()
        except Exception:
            # It is called by whoever keeps a connection, and that is not to suffer for it.
            log.exception("the check of positions could not be begun")

    # Probing

    async def _publish_probe(self, body: bytes) -> None:
        await self._pipeline.check_lineage()
        keys = (f"{self._probe_name}:meta", f"{self._probe_name}:stream")
        args = (self._probe_name, "", 0, 0, 0, 0, time.time_ns() // 1000, body)
        await self._pipeline.run(PUBLISH, keys, args, _nothing, repeatable=False)

    def _deaf(self) -> None:
        if not self._subscriber.connected:
            return  # it knows, and is at it
        error = Refusal("deaf", "a probe was published but did not come back", definite=False)
        self._trouble.meets(error)
        self._subscriber.replace(str(error))


def _candidate() -> str:
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


def _nothing(reply: Any) -> None:
    """The reply says no more than that it was done."""
