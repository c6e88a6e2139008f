"""What slow subscribers of a channel without history can still get: the spare, by policy (:mod:`rt.delivery.policy`).

A channel numbers what it takes, 1, 2, 3, ..., and its spare keeps some of it, for all who are behind together. Who
stands at a number asks for what lies after it, up to the base of its feed. Where nobody is behind, only what may still
be asked for is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from rt.delivery import policy
from rt.delivery.policy import Share

if TYPE_CHECKING:
    from rt.config import Delivery, Namespace
    from rt.protocol.publication import Publication

IDLE: Final = 32
"""Publications after which a channel looks whether anybody may still ask for the older ones."""


class Rest(NamedTuple):
    """What one who was behind is given: ``publications`` in order. Of what came, it lacks ``dropped`` for good, and
    ``conflated`` because there is a newer one of the same key."""

    publications: Sequence[Publication] = ()
    dropped: int = 0
    conflated: int = 0


class Entry(NamedTuple):
    """One publication of the spare, by its number; ``came`` is loop time."""

    number: int
    came: float
    publication: Publication


class Spare(ABC):
    """``reason`` is how the metrics name what this one does not keep. ``bounds`` and ``max_age`` (seconds) may be
    changed at any time. What has a number up to ``since`` came before it was here."""

    __slots__ = ("bounds", "max_age", "since", "size")

    reason: str
    fatal = False
    """Whether one that lacks something must be closed."""

    def __init__(self, bounds: Share, max_age: float) -> None:
        self.bounds = bounds
        self.max_age = max_age
        self.since = 0
        self.size = 0

    def keeps_as(self, other: Spare) -> bool:
        """Whether it keeps what the other one keeps, within whatever bounds."""
        return type(self) is type(other)

    @abstractmethod
    def put(self, number: int, publication: Publication, now: float) -> bool:
        """Keep it, and let go of what is too much or too old. ``number`` is one more than that of the last. False when
        it lacks the key that it should be known by."""

    @abstractmethod
    def after(self, number: int, upto: int, now: float) -> Rest:
        """What is given to one that has had all up to ``number``, so that it has had all up to ``upto``."""

    @abstractmethod
    def forget(self, upto: int) -> None:
        """Nobody will ask for what has a number up to this one."""

    @abstractmethod
    def __len__(self) -> int: ...


class Nothing(Spare):
    """``drop_newest``: whoever falls behind has its queue in its outbox, and what comes after that is dropped."""

    __slots__ = ()

    reason = "newest"

    def put(self, number: int, publication: Publication, now: float) -> bool:
        return True

    def after(self, number: int, upto: int, now: float) -> Rest:
        return Rest(dropped=upto - number)

    def forget(self, upto: int) -> None:
        pass

    def __len__(self) -> int:
        return 0


class Newest(Spare):
    """``drop_oldest``: the newest, without a hole between them, within the bounds. One is always kept."""

    __slots__ = ("_entries",)

    reason = "oldest"

    def __init__(self, bounds: Share, max_age: float) -> None:
        super().__init__(bounds, max_age)
        self._entries: deque[Entry] = deque()

    def put(self, number: int, publication: Publication, now: float) -> bool:
        entries = self._entries
        entries.append(Entry(number, now, publication))
        self.size += len(publication.body)
        while len(entries) > 1 and (self.size > self.bounds.size or len(entries) > self.bounds.messages):
            self._pop()
        self._expire(now)
        return True

    def after(self, number: int, upto: int, now: float) -> Rest:
        self._expire(now)
        newer = reversed(list(takewhile(lambda entry: entry.number > number, reversed(self._entries))))
        found = [entry.publication for entry in newer if entry.number <= upto]
        return Rest(found, dropped=upto - number - len(found))

    def forget(self, upto: int) -> None:
        while self._entries and self._entries[0].number <= upto:
            self._pop()

    def _expire(self, now: float) -> None:
        while self._entries and self._entries[0].came < now - self.max_age:
            self._pop()

    def _pop(self) -> None:
        self.size -= len(self._entries.popleft().publication.body)

    def __len__(self) -> int:
        return len(self._entries)


class Whole(Newest):
    """``disconnect``, in a stream that falls behind: who needs more than this keeps is closed."""

    __slots__ = ()

    reason = "queue"
    fatal = True


class Keyed(Spare):
    """``conflate``: the newest of every key, in order of their coming. They do not age: nothing newer is known.

    The key is the tag ``tag``; of all channel's publications together where that is empty, and of those that lack it.
    """

    __slots__ = ("_dropped", "_entries", "_tag")

    reason = "keys"

    def __init__(self, bounds: Share, max_age: float, tag: str) -> None:
        super().__init__(bounds, max_age)
        self._tag = tag
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        # Keys there was no room for, by hash, and the number of the newest; bounded like the entries.
        self._dropped: OrderedDict[int, int] = OrderedDict()

    def keeps_as(self, other: Spare) -> bool:
        return isinstance(other, Keyed) and self._tag == other._tag

    def key(self, publication: Publication) -> str:
        """What a newer one must have too to take its place."""
        return tag_of(publication.body, self._tag) if self._tag else ""

    def put(self, number: int, publication: Publication, now: float) -> bool:
        key = self.key(publication)
        old = self._entries.pop(key, None)
        if old is not None:
            self.size -= len(old.publication.body)
        self._dropped.pop(hash(key), None)
        self._entries[key] = Entry(number, now, publication)
        self.size += len(publication.body)
        while len(self._entries) > 1 and (self.size > self.bounds.size or len(self._entries) > self.bounds.messages):
            self._drop()
        return bool(key) or not self._tag

    def _drop(self) -> None:
        key, entry = self._entries.popitem(last=False)
        self.size -= len(entry.publication.body)
        self._dropped[hash(key)] = entry.number
        if len(self._dropped) > self.bounds.messages:
            self._dropped.popitem(last=False)

    def after(self, number: int, upto: int, now: float) -> Rest:
        newer = reversed(list(takewhile(lambda entry: entry.number > number, reversed(self._entries.values()))))
        found = [entry.publication for entry in newer if entry.number <= upto]
        dropped = sum(number < lost <= upto for lost in self._dropped.values())
        return Rest(found, dropped, upto - number - len(found) - dropped)

    def forget(self, upto: int) -> None:
        for key in list(takewhile(lambda key: self._entries[key].number <= upto, self._entries)):
            self.size -= len(self._entries.pop(key).publication.body)
        for lost in [lost for lost, number in self._dropped.items() if number <= upto]:
            del self._dropped[lost]

    def __len__(self) -> int:
        return len(self._entries)


class _Tagged(msgspec.Struct, gc=False):
    """The one part of a publication's body that is ever looked at, and only where a tag is the key."""

    tags: dict[str, str] = {}


_decode = msgspec.json.Decoder(_Tagged).decode


def tag_of(body: bytes, tag: str) -> str:
    """The value of a tag; empty where there is none."""
    try:
        return _decode(body).tags.get(tag, "")
    except (ValueError, RecursionError):
        return ""


def spare(namespace: Namespace, delivery: Delivery, *, whole: bool) -> Spare | None:
    """The spare of a channel of this namespace; None where nobody falls behind on it, or history is the queue.

    ``whole``: there are streams that fall behind on it with channels of other policies.
    """
    if namespace.history:
        return None
    bounds, max_age = policy.spared(delivery, policy.RANKS[namespace.priority]), delivery.subscription.max_age
    match namespace.slow:
        case "drop_oldest":
            return Newest(bounds, max_age)
        case "drop_newest":
            return Nothing(bounds, max_age)
        case "conflate":
            return Keyed(bounds, max_age, namespace.conflate_key)
        case _:
            return Whole(Share(delivery.high_watermark, delivery.max_messages), delivery.max_age) if whole else None
