"""One tenant's store, as the rest of a worker sees it: publish, read, subscribe, and be told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rt.broker import bus
from rt.broker.asking import Asker
from rt.broker.control import Carry, Control
from rt.broker.counters import Counters
from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.presence import Member, Presence, Stats
from rt.broker.probe import Probe
from rt.broker.quotas import Drawn, Quotas
from rt.broker.refusal import Refusal
from rt.broker.registry import Registry
from rt.broker.scripts import PUBLISH
from rt.broker.sessions import Sessions
from rt.broker.settings import StoreSettings
from rt.broker.streams import Published, PublishOptions, Streams, nothing
from rt.broker.subscriber import Subscriber
from rt.broker.trouble import Trouble
from rt.protocol.publication import Change, Page, Position, Publication

log = logging.getLogger("rt.broker")


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
        self._keys = Keys(settings.prefix, tenant)
        loop = asyncio.get_running_loop()
        self._loop = loop
        trouble = Trouble(loop.time, tenant)
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
        self._streams = Streams(self._pipeline, self._keys, self.counters)
        self._presence = Presence(self._pipeline, self._keys, settings.presence_ttl)
        self._sessions = Sessions(self._pipeline, self._keys)
        self._quotas = Quotas(self._pipeline, self._keys)
        self._asker = Asker(
            self._pipeline, self._keys, self.counters, worker, listening=lambda: self._subscriber.connected
        )
        self._control = Control(self._pipeline, self._keys, self.counters, self._sessions.found)
        self._registry = Registry(self._pipeline, self._keys, worker)
        self._probe = Probe(
            interval=settings.probe_interval,
            timeout=settings.timeout,
            counters=self.counters,
            publish=self._publish_probe,
            deaf=self._deaf,
        )
        self._probe_name = self._keys.probe(worker)
        self._answers_name = self._keys.answers(worker)
        self._must_check = False
        self._on_publication: Callable[[str, Publication], None]
        self._on_change: Callable[[str, Change], None]
        self._on_removed: Callable[[str], None]
        self._on_resumed: Callable[[], None]

    # Life

    async def start(
        self,
        *,
        on_publication: Callable[[str, Publication], None],
        on_change: Callable[[str, Change], None],
        on_removed: Callable[[str], None],
        on_resumed: Callable[[], None],
        on_control: Carry,
    ) -> None:
        """Begin to connect; returns at once, also when the store is down.

        ``on_publication`` gets the channel and each publication of a subscribed channel, in the store's order, ours
        too. ``on_change`` gets who came and left, in the same order. ``on_removed`` gets a channel whose history was
        removed. ``on_resumed`` says that something may have been missed (the subscriber was away and everything is
        confirmed again, or the store is another one) and that the store can be asked: all positions must be checked.
        ``on_control`` gets what a worker says to all, see :meth:`command` and :meth:`survey`, in order, and gives the
        answer or its future; it must not wait for a command or survey of its own.
        """
        self._on_publication = on_publication
        self._on_change = on_change
        self._on_removed = on_removed
        self._on_resumed = on_resumed
        self._control.start(on_control)
        self._pipeline.start()
        self._subscriber.start(
            {
                self._probe_name: self._hear_probe,
                self._keys.control: self._control.hear,
                self._answers_name: self._asker.hear,
            }
        )
        self._probe.start()

    async def stop(self) -> None:
        """Wait for the calls under way, at most for the timeout, and close. Subscribes under way fail."""
        await self._probe.stop()
        await self._pipeline.stop()
        self._control.stop()
        self._asker.stop()
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
        return self._streams.publish(channel, body, options)

    def history(
        self, channel: str, *, since: Position | None = None, limit: int, reverse: bool = False, meta_ttl: float
    ) -> asyncio.Future[Page]:
        """Read the stream as it is at one moment. A channel that has no epoch gets one.

        ``since`` is exclusive; None reads from the beginning (``reverse``: from the end). ``limit`` is the number of
        publications at most, 0 for only the top, -1 for all. ``reverse`` gives them newest first. When ``since`` is of
        another epoch there are no publications: compare with ``top.epoch``. What was trimmed, expired or evicted shows
        as a first publication beyond ``since.offset + 1``, or as none although the top is higher.
        """
        return self._streams.history(channel, since=since, limit=limit, reverse=reverse, meta_ttl=meta_ttl)

    def position(self, channel: str, meta_ttl: float) -> asyncio.Future[Position]:
        """The top of the channel's stream. A channel that has no epoch gets one."""
        return self._streams.position(channel, meta_ttl)

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        """Empty the stream and tell all workers. Epoch and offset stay."""
        return self._streams.remove_history(channel)

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

    # Presence

    def announce(self, channel: str, change: Change) -> asyncio.Future[None]:
        """Tell every worker that is subscribed who came or left. Nothing of it is kept; whoever is away misses it.

        Fails as :meth:`publish` does; ``Refused(LIMIT_EXCEEDED)`` is for an info beyond 128 KiB.
        """
        return self._streams.announce(channel, change)

    def enter(
        self, channel: str, members: Sequence[Member], *, announce: bool, refresh: bool = False
    ) -> asyncio.Future[int]:
        """Say that these are on the channel, for ``presence_ttl`` seconds from now. Done with how many are there then.

        With ``announce`` the join of each that was not there is told, and it is remembered that its leave is to be told
        should its time run out. ``refresh`` says that they were there before, and tells no join. May be repeated; a
        connection is never there twice. Call it and :meth:`leave` for one connection one after the other.
        """
        return self._presence.enter(channel, members, announce=announce, refresh=refresh)

    def leave(self, channel: str, client: str, *, announce: bool) -> asyncio.Future[None]:
        """Say that the connection is not on the channel any more; ``announce`` tells it, unless that was done."""
        return self._presence.leave(channel, client, announce=announce)

    def presence(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        """Who is on the channel: ClientInfo as JSON, by the id of the connection."""
        return self._presence.presence(channel)

    def presence_stats(self, channel: str) -> asyncio.Future[Stats]:
        """How many are on the channel."""
        return self._presence.stats(channel)

    # Sessions

    @property
    def sessions_used(self) -> bool:
        """Whether :meth:`session` can give anything; True also as long as that is not known."""
        return self._sessions.used or not self._subscriber.connected

    def session(self, user: str) -> asyncio.Future[dict[str, bytes]]:
        """The fields of the user's session; empty when there is none."""
        return self._sessions.session(user)

    def update_session(
        self, user: str, changes_set: Mapping[str, bytes], remove: Sequence[str], ttl: float
    ) -> asyncio.Future[None]:
        """Set and remove fields of the user's session in one step, and let it live for ``ttl`` seconds from now.

        May be repeated. Fails with ``Refused(LIMIT_EXCEEDED)`` when it would have more than 1,024 fields.
        """
        return self._sessions.update(user, changes_set, remove, ttl)

    def restore_session(
        self, user: str, fields: Sequence[tuple[str, bytes, Sequence[str]]], ttl: float
    ) -> asyncio.Future[None]:
        """Bring back fields of the user's session that the store has lost. Each comes with its rivals: where it or one
        of them is there, it is left out. May be repeated."""
        return self._sessions.restore(user, fields, ttl)

    def touch_sessions(self, users: Sequence[str], ttl: float) -> asyncio.Future[None]:
        """Let the sessions of these users, where there are any, live for ``ttl`` seconds from now."""
        return self._sessions.touch(users, ttl)

    # Quotas

    def draw(
        self, rule: str, subject: str, *, rate: float, capacity: float, count: int, debt: bool = False
    ) -> asyncio.Future[Drawn]:
        """Take up to ``count`` tokens out of the bucket that all workers have for ``subject`` under ``rule``; with
        ``debt`` all of them, whether they are there or not. It holds ``capacity`` and gets ``rate`` a second.

        Fails as :meth:`publish` does. A call that is sent again after a lost connection may take twice.
        """
        return self._quotas.draw(rule, subject, rate=rate, capacity=capacity, count=count, debt=debt)

    # What workers say to one another

    def command(self, body: bytes) -> asyncio.Future[None]:
        """Have every worker's ``on_control`` get ``body``, once; ours too. A worker whose subscriber is away gets it
        when it is back, for ten minutes and the last 1,000 commands.

        ``body`` is JSON in one line. Done when all who heard it have answered, or after a second. Fails as
        :meth:`publish` does; ``Refused(LIMIT_EXCEEDED)`` is for a body beyond 128 KiB.
        """
        return self._asker.command(body)

    def survey(self, body: bytes) -> asyncio.Future[list[bytes]]:
        """Ask every worker that hears it, ours too. Done with the answers, in no order, when all have answered; empty
        ones are left out.

        ``body`` is as for :meth:`command`. Fails as :meth:`publish` does, and with a StoreError when somebody cannot
        answer, does not within a second, or has an answer beyond 4 MiB: a part of the truth would look like all of it.
        """
        return self._asker.survey(body)

    # The registry of workers

    async def register(self, node: bytes, ttl: float) -> None:
        """Say that this worker lives, for ``ttl`` seconds, and what it says about itself. Raises StoreError."""
        await self._registry.register(node, ttl)

    async def workers(self) -> list[bytes]:
        """What the workers that live say about themselves, ordered by name. Raises StoreError."""
        return await self._registry.workers()

    # Being told

    def _hear(self, channel: str, payload: bytes) -> None:
        publication = bus.publication(payload)
        try:
            if publication is not None:
                self._on_publication(channel, publication)
            elif (change := bus.change(payload)) is not None:
                self._on_change(channel, change)
            elif bus.is_removal(payload):
                self._on_removed(channel)
            else:
                self.counters.bus_dropped += 1
        except Exception:
            # The next publication is not to suffer for it.
            log.exception("a publication could not be handed on")

    def _hear_probe(self, payload: bytes) -> None:
        publication = bus.publication(payload)
        if publication is None:
            self.counters.bus_dropped += 1
        else:
            self._probe.hear(publication.body)

    def _commands_up(self, renewed: bool) -> None:
        self._must_check |= renewed
        self._up()

    def _subscriber_up(self, resumed: bool) -> None:
        self._sessions.found()  # as far as we know; somebody may have been while we heard nothing
        self._must_check |= resumed
        self._up()

    def _up(self) -> None:
        """Something came up. Positions can only be checked when both connections are there."""
        if self._pipeline.connected and self._subscriber.connected:
            self._probe.wake()
            self._control.resume()
            self._sessions.look()
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

    def watch_lag(self, told: Callable[[float], object]) -> None:
        """Tell how many seconds each probe takes to the store and back."""
        self._probe.on_lag = told

    async def _publish_probe(self, body: bytes) -> None:
        await self._pipeline.check_lineage()
        self._probe.sent()
        keys = (f"{self._probe_name}:meta", f"{self._probe_name}:stream")
        args = (self._probe_name, "", 0, 0, 0, 0, time.time_ns() // 1000, body)
        await self._pipeline.run(PUBLISH, keys, args, nothing, repeatable=False)

    def _deaf(self) -> None:
        if not self._subscriber.connected:
            return  # it knows, and is at it
        error = Refusal("deaf", "a probe was published but did not come back", definite=False)
        self._trouble.meets(error)
        self._subscriber.replace(str(error))
