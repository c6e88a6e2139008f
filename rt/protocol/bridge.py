"""From behind to live: which publications lie between two positions, or why nobody can say.

Everything that must catch up does it by this one function: a first subscribe, a recovery, an SSE ``Last-Event-ID``, a
slow client that stopped reading, a gap after the store came back. A subscriber at ``since`` is brought to ``base``, the
position from which its channel's turns go on. The publications in between are in the channel's ``recent`` ring, in a
``page`` read from the store, or partly in each; where they are not, the answer is :class:`Missing` (read, and try
again) or :class:`Gap` (they are lost to this subscriber, and it must be told). Never is a part passed off as the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rt.protocol.publication import Page, Position, Publication


class Covered(NamedTuple):
    """The publications after ``since``, ascending and without a hole; up to the base exactly when ``complete``."""

    publications: Sequence[Publication]
    complete: bool


class Missing(NamedTuple):
    """What is here does not reach: read the channel's stream after offset ``after``."""

    after: int


class Gap(NamedTuple):
    """The way from ``since`` is lost: ``reason`` is a word for logs and metrics."""

    reason: str


class Recent:
    """The newest publications of a channel: a contiguous run that ends at the channel's position, possibly empty.

    Bounded by count and by bytes of bodies; one larger than the whole ring empties it.
    """

    __slots__ = ("_head", "_items", "max_bytes", "max_count", "size")

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.size = 0
        self._items: list[Publication] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self._items) - self._head

    def append(self, publication: Publication) -> None:
        """Remember the channel's next publication, forgetting the oldest over the bounds."""
        items = self._items
        items.append(publication)
        self.size += len(publication.body)
        while self.size > self.max_bytes or len(items) - self._head > self.max_count:
            self.size -= len(items[self._head].body)
            self._head += 1
        # Dropping from the front of a list costs its length: do it once per many.
        if self._head > 64 and self._head * 2 > len(items):
            del items[: self._head]
            self._head = 0

    def extend_back(self, older: Sequence[Publication]) -> None:
        """Remember what came before, as much of it as there is room for. ``older`` ascends without a hole, and ends
        right before the oldest that is here; where nothing is here, at the channel's position."""
        room, size, fits = self.max_count - len(self), self.size, 0
        for publication in reversed(older):
            size += len(publication.body)
            if fits == room or size > self.max_bytes:
                break
            self.size = size
            fits += 1
        if fits:
            self._items[: self._head] = older[-fits:]
            self._head = 0

    def oldest(self) -> int:
        """The offset of the oldest that is here; 0 when nothing is."""
        return self._items[self._head].offset if len(self) else 0

    def clear(self) -> None:
        """Forget everything: the stream was emptied or has expired, or another one began."""
        self._items.clear()
        self._head = 0
        self.size = 0

    def covers(self, offset: int) -> bool:
        """Whether everything after ``offset`` is here."""
        return len(self) > 0 and self._items[self._head].offset <= offset + 1

    def newest(self) -> Publication | None:
        """The one at the channel's position, if it is here."""
        return self._items[-1] if len(self) else None

    def between(self, after: int, upto: int) -> list[Publication]:
        """The publications with ``after`` < offset ≤ ``upto``; all of them must be here."""
        first = self._items[self._head].offset
        return self._items[self._head + after + 1 - first : self._head + upto + 1 - first]


def bridge(since: Position, base: Position, recent: Recent, page: Page | None = None) -> Covered | Missing | Gap:
    """What a subscriber at ``since`` must get to be at ``base``.

    ``page``, when given, was read after ``since.offset`` or before it. ``since.offset`` may not be above
    ``base.offset``. A result that is covered but not complete only comes of a page that its reader had limited.
    """
    if since.epoch != base.epoch:
        return Gap("epoch")
    if since.offset == base.offset:
        return Covered((), True)
    if recent.covers(since.offset):
        return Covered(recent.between(since.offset, base.offset), True)
    if page is None:
        return Missing(since.offset)
    return _from_page(since, base, recent, page)


def _from_page(since: Position, base: Position, recent: Recent, page: Page) -> Covered | Missing | Gap:
    if page.top.epoch != since.epoch:
        return Gap("epoch")
    if page.top.offset < since.offset:
        return Gap("ahead")
    found = [publication for publication in page.publications if publication.offset > since.offset]
    if not found:
        return Gap("trimmed") if page.top.offset > since.offset else Missing(since.offset)
    if found[0].offset != since.offset + 1:
        return Gap("trimmed")
    last = found[-1].offset
    if last >= base.offset:
        return Covered(found[: base.offset - since.offset], True)
    if recent.covers(last):
        return Covered(found + recent.between(last, base.offset), True)
    return Covered(found, False)


def cut(publications: Sequence[Publication], max_bytes: int) -> Sequence[Publication]:
    """The first of ``publications`` whose bodies fit into ``max_bytes``, but always one: a page for a slow reader."""
    size = 0
    for index, publication in enumerate(publications):
        size += len(publication.body)
        if size > max_bytes and index:
            return publications[:index]
    return publications


def fits(publications: Sequence[Publication], max_bytes: int) -> bool:
    """Whether the bodies together are within ``max_bytes``, the bound of what one reply may recover."""
    return sum(len(publication.body) for publication in publications) <= max_bytes
