"""A channel on this worker: at a position in its stream, taking what the store sends in order and without a hole.

It opens with its first subscriber here (SUBSCRIBE confirmed, then one read for the position) and from then on compares
every publication's offset with its own position: the next one is taken, an older one dropped, anything else *repaired*
by reading the stream. What cannot be repaired is told to the feeds. It knows nothing of connections.

Without history there is nothing to compare with. Where slow subscribers are left behind all the same
(:mod:`rt.delivery.policy`), it counts what it takes; its epoch is empty then, and its *spare* keeps some for them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rt.delivery import spare
from rt.errors import StoreError
from rt.protocol.bridge import Recent
from rt.protocol.publication import NOWHERE, Change, Page, Position, Publication
from rt.protocol.wires import Name

if TYPE_CHECKING:
    from rt.config import Namespace
    from rt.delivery.feed import Feed
    from rt.delivery.hub import Hub

log = logging.getLogger("rt.delivery")

REPAIR_ROUNDS = 3  # reads in a row, before the next ones wait
REPAIR_PAUSE = 5.0  # seconds at most between attempts while the store does not answer


class Channel:
    """``claims`` are the feeds that use it or are opening it; with none it lingers, then closes."""

    __slots__ = (
        "_dropped",
        "_emptied",
        "_held",
        "_held_size",
        "_marked",
        "_opening",
        "_reads",
        "_repairing",
        "checked_at",
        "claims",
        "closed",
        "feeds",
        "hub",
        "name",
        "namespace",
        "opened",
        "position",
        "recent",
        "seen_at",
        "spare",
        "stored",
    )

    def __init__(self, hub: Hub, name: str, namespace: Namespace) -> None:
        limits = hub.delivery
        self.hub = hub
        self.name = Name(name)
        self._marked: Name | None = None
        self.namespace = namespace
        self.stored = namespace.history
        self.position = NOWHERE
        self.recent = Recent(min(limits.recent_size, namespace.history_size), limits.recent_bytes)
        self.spare = spare.spare(namespace, limits, whole=False)
        self.seen_at = 0.0  # loop time of the last publication taken
        self.checked_at = 0.0  # loop time of the last proof that nothing is missing
        self.feeds: dict[Feed, int] = {}
        self.claims: set[Feed] = set()
        self.opened = False
        self.closed = False
        self._opening: asyncio.Task[None] | None = None
        self._reads: dict[int, asyncio.Future[Page]] = {}
        # Publications that wait for an opening or a repair to end; None while neither is under way.
        self._held: list[Publication] | None = None
        self._held_size = 0
        self._dropped = False  # something did not fit since the stream was last read
        self._repairing = False
        self._emptied = 0  # how often the history was removed

    @property
    def marked(self) -> Name:
        """The name for feeds whose cursors name their channels."""
        if self._marked is None:
            self._marked = Name(self.name.text, named=True)
        return self._marked

    @property
    def repairing(self) -> bool:
        """Whether what was missed is being read."""
        return self._repairing

    # Opening

    async def open(self) -> None:
        """Wait until the position is known. Everybody waits for the same opening; StoreError when it fails, for all.

        So it does for who comes too late: the hub knows this channel no more, and nothing would ever arrive here.
        """
        if self.closed:
            raise _closed()
        if not self.opened:
            if self._opening is None:
                self._opening = self.hub.spawn(self._open())
            await asyncio.shield(self._opening)

    async def _open(self) -> None:
        self._held = []
        try:
            await self.hub.broker.subscribe(self.name.text)
            if self.stored:
                self.position = await self.hub.broker.position(self.name.text, self.namespace.history_meta_ttl)
            if self.closed:
                raise _closed()
        except BaseException:
            self._held = None
            self.hub.forget(self)
            raise
        finally:
            self._opening = None
        self.opened = True
        self.seen_at = self.checked_at = self.hub.now()
        dropped, self._dropped = self._dropped, False
        if not self._replay() or dropped:
            self.repair()
        self.hub.release(self)  # who asked for it may all have left meanwhile

    # What arrives

    def receive(self, publication: Publication) -> None:
        """One publication from the store. Called once per publication, whatever the number of subscribers."""
        position = self.position
        if not publication.offset or not self.stored:
            if self.opened:
                if self.spare is not None:
                    self._keep_spare(publication, self.spare)
                self._pass_on(publication)
        elif self._held is not None:
            self._hold(publication)
        elif publication.epoch != position.epoch or publication.offset > position.offset + 1:
            self._held = [publication]
            self._held_size = len(publication.body)
            self.repair()
        elif publication.offset == position.offset + 1:
            self._take(publication)
        # Anything else is at or below the position: it has been taken already.

    def _take(self, publication: Publication) -> None:
        self.position = Position(publication.epoch, publication.offset)
        self.seen_at = self.checked_at = self.hub.now()
        self.recent.append(publication)
        self._pass_on(publication)

    def _pass_on(self, publication: Publication) -> None:
        self.hub.tally.publications += 1
        for feed, index in self.feeds.items():
            feed.take(index, publication)

    # Those who are behind, without history

    def adopt(self, namespace: Namespace, *, whole: bool = False) -> None:
        """Go by these settings from now on. ``whole``: there are streams here that fall behind, whatever they say."""
        self.namespace = namespace
        whole = whole or (self.spare is not None and self.spare.fatal)
        new, old = spare.spare(namespace, self.hub.delivery, whole=whole), self.spare
        if new is not None and old is not None and new.keeps_as(old):
            old.bounds, old.max_age = new.bounds, new.max_age
        else:
            self.spare = new
            if new is not None:
                new.since = self.position.offset

    def key(self, publication: Publication) -> str:
        """What a newer one must have too to take its place, where only the newest counts."""
        return self.spare.key(publication) if isinstance(self.spare, spare.Keyed) else ""

    def _keep_spare(self, publication: Publication, kept: spare.Spare) -> None:
        number = self.position.offset + 1
        self.position = Position("", number)
        if not kept.put(number, publication, self.hub.now()):
            self.hub.tally.lacked(self.namespace)
        if number % spare.IDLE == 0 and all(feed.is_whole for feed in self.feeds):
            floors = [feed.floor(index).offset for feed, index in self.feeds.items()]
            kept.forget(min(floors, default=number))

    def _hold(self, publication: Publication) -> None:
        """Keep it until the repair ends. What does not fit is dropped: the repair reads again and finds it in the
        stream."""
        assert self._held is not None
        size = self._held_size + len(publication.body)
        if len(self._held) < self.recent.max_count and size <= self.recent.max_bytes:
            self._held.append(publication)
            self._held_size = size
        else:
            self._dropped = True
            self.hub.tally.drops["bus"] += 1

    def _replay(self) -> bool:
        """Take what was held, as far as it goes on from the position. False when there is still a hole before some of
        it."""
        held, self._held, self._held_size = self._held or [], None, 0
        for index, publication in enumerate(held):
            position = self.position
            if publication.epoch != position.epoch or publication.offset > position.offset + 1:
                self._held = held[index:]
                self._held_size = sum(len(left.body) for left in self._held)
                return False
            if publication.offset == position.offset + 1:
                self._take(publication)
        return True

    def changed(self, change: Change) -> None:
        """Somebody came or left. It is in no history and moves no position."""
        if self.opened:
            for feed, index in self.feeds.items():
                feed.changed(index, change)

    def emptied(self) -> None:
        """The history was removed: nothing of it may be given to anybody from here, nor what is being read."""
        self._emptied += 1
        self.recent.clear()

    # Reading the stream

    def refresh(self) -> None:
        """Let go of what the store has let go of: a stream expires as a whole, counted from its last publication."""
        if len(self.recent) and self.hub.now() - self.seen_at > self.namespace.history_ttl:
            self.recent.clear()

    def read(self, after: int) -> asyncio.Future[Page]:
        """The page of the stream after offset ``after``; one read is shared by all who ask the same while it is under
        way. May fail: StoreError."""
        future = self._reads.get(after)
        if future is None or future.done():
            sent, emptied = self.position, self._emptied
            since = Position(sent.epoch, after)
            future = self.hub.broker.history(
                self.name.text, since=since, limit=self.hub.page, meta_ttl=self.namespace.history_meta_ttl
            )
            self._reads[after] = future
            # Added first, so it runs before those who wait: they find the channel already caught up.
            future.add_done_callback(lambda done: self._read(after, sent, emptied, done))
        return future

    def _read(self, after: int, sent: Position, emptied: int, future: asyncio.Future[Page]) -> None:
        if self._reads.get(after) is future:
            del self._reads[after]
        if not future.cancelled() and future.exception() is None:
            self._learn(future.result(), sent)
            if emptied == self._emptied:
                self._keep(future.result())

    def _keep(self, page: Page) -> None:
        """Remember what was read, where it leads up to what is remembered: when a worker was started anew, its clients
        come by the thousand for the same page, one after the other, and one read is for all of them."""
        if self.closed or page.top.epoch != self.position.epoch or self._held is not None:
            return
        end = (self.recent.oldest() or self.position.offset + 1) - 1
        older = [publication for publication in page.publications if publication.offset <= end]
        if not older or older[-1].offset != end:
            return
        if not len(self.recent):
            # The stream expires as a whole, counted from its newest, which may be older than our knowing of it.
            age = max(0.0, self.hub.wall() - older[-1].time / 1e6)
            self.seen_at = min(self.seen_at, self.hub.now() - age)
        self.recent.extend_back(older)

    def _learn(self, page: Page, sent: Position) -> None:
        """Compare with what the store says; ``sent`` is the position that was held when it was asked."""
        top = page.top
        if self.closed or sent.epoch != self.position.epoch:
            return
        if top.epoch != sent.epoch or top.offset < sent.offset:
            self._break(top)
            return
        for publication in page.publications:
            if publication.offset == self.position.offset + 1:
                self._take(publication)

    def _break(self, top: Position) -> None:
        """The stream we followed is no more: go on from ``top``, and tell all who have a position."""
        self.hub.tally.epoch_changes += top.epoch != self.position.epoch
        self.position = top
        self.seen_at = self.checked_at = self.hub.now()
        self.recent.clear()
        self.hub.tally.repairs["gap"] += 1
        for feed, index in list(self.feeds.items()):
            feed.tell(index, top)

    # Repair

    async def check(self) -> None:
        """Compare the position with the stream's top, and repair what is missing. StoreError is for the next check."""
        sent = self.position
        self.checked_at = self.hub.now()
        try:
            top = await self.hub.broker.position(self.name.text, self.namespace.history_meta_ttl)
        except StoreError:
            self.checked_at = 0.0  # not checked after all: the next look at the silent ones takes it up
            return
        self._learn(Page(top, []), sent)
        if not self.closed and top.epoch == self.position.epoch and top.offset > self.position.offset:
            self.repair()

    def repair(self) -> None:
        """Read what was missed, unless that is under way."""
        if not self._repairing and self.opened and not self.closed:
            self._repairing = True
            if self._held is None:
                self._held = []
            self.hub.spawn(self._repair())

    async def _repair(self) -> None:
        rounds, pause = 0, 0.1
        try:
            while not self.closed:
                rounds += 1
                try:
                    if await self._repaired():
                        return
                    away = False
                except StoreError:
                    away = True
                # Nothing is lost by waiting: what the stream still has will be read then. A store that is away is
                # left alone longer each time; one that answers, but never with the end, is not asked without pause.
                if away or rounds > REPAIR_ROUNDS:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, REPAIR_PAUSE) if away else pause
        finally:
            self._repairing = False

    async def _repaired(self) -> bool:
        """One round of reading; afterwards the position is right, or the gap was told. False: read on."""
        before = self.position
        self._dropped = False
        page = await asyncio.shield(self.read(before.offset))
        if self.position.epoch == before.epoch and self.position.offset < page.top.offset:
            first = page.publications[0].offset if page.publications else 0
            if first != before.offset + 1 and self.position == before:
                # The stream no longer has what comes next.
                self._break(page.top)
        if self.position.epoch == page.top.epoch and self.position.offset < page.top.offset:
            return False
        self._drop_strays(page.top.epoch)
        if not self._replay() or self._dropped:
            if self._held is None:
                self._held = []
            return False
        if self.position.epoch == before.epoch:
            self.hub.tally.repairs["repaired"] += 1
        return True

    def _drop_strays(self, epoch: str) -> None:
        """Late publications of an older epoch prove nothing, now that the store has said which one is current."""
        if self._held:
            self._held = [publication for publication in self._held if publication.epoch == epoch]


def _closed() -> StoreError:
    return StoreError("the channel was closed while it was asked for", definite=True)
