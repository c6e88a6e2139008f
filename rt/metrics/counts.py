"""What the hot side counts into: plain numbers, without a lock, a label object or a clock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Literal

from rt.metrics.definitions import BUCKETS, DROPS, REFUSALS, REPAIRS, SHEDS, SLOW, TOKEN_FAILURES

if TYPE_CHECKING:
    from rt.config import Namespace


class Latency:
    """A histogram in plain numbers. ``counts`` are per bucket of :data:`BUCKETS`, not cumulative; the last has no
    bound."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, weight: int = 1) -> None:
        """Note that ``weight`` receivers waited ``seconds``; where the clocks of two hosts differ, at least nothing."""
        if seconds <= 0.0:
            self.counts[0] += weight
        else:
            self.counts[bisect_left(BUCKETS, seconds)] += weight
            self.sum += seconds * weight


class Tally:
    """What delivery counts. Others add to the attributes; the dicts have all their keys from the start, so that a
    reason nobody has foreseen is a ``KeyError`` in a test and not a new label. What is counted by namespace goes
    through the methods."""

    __slots__ = (
        "batches",
        "catch_ups",
        "caught_up",
        "conflations",
        "deliveries",
        "drops",
        "epoch_changes",
        "falls",
        "keyless",
        "paces",
        "publications",
        "received_bytes",
        "received_messages",
        "refusals",
        "repairs",
        "sent_bytes",
        "sheds",
        "slow",
        "token_failures",
        "waits",
    )

    def __init__(self) -> None:
        self.publications = 0
        self.deliveries = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.received_bytes = 0
        self.catch_ups = 0
        self.caught_up = 0
        self.waits = 0
        self.epoch_changes = 0
        self.drops = dict.fromkeys(DROPS, 0)
        self.slow = dict.fromkeys(SLOW, 0)
        self.repairs = dict.fromkeys(REPAIRS, 0)
        self.refusals = dict.fromkeys(REFUSALS, 0)
        self.token_failures = dict.fromkeys(TOKEN_FAILURES, 0)
        self.paces: Counter[tuple[str, str, str]] = Counter()
        self.sheds: Counter[tuple[str, str, str]] = Counter()
        self.falls: Counter[tuple[str, str]] = Counter()
        self.conflations: Counter[tuple[str, str]] = Counter()
        self.batches: Counter[tuple[str, str]] = Counter()
        self.keyless: Counter[tuple[str]] = Counter()

    def fell(self, namespace: Namespace) -> None:
        """A subscription of this namespace fell behind."""
        self.falls[_labels(namespace)] += 1

    def paced(self, namespace: Namespace, step: Literal["up", "down"]) -> None:
        """The interval of a slow subscription of this namespace became longer or shorter."""
        self.paces[*_labels(namespace), step] += 1

    def left_out(self, namespace: Namespace, reason: str, count: int) -> None:
        """One subscription was not given so many publications; ``reason`` is one of :data:`SHEDS`."""
        if reason not in SHEDS:
            raise KeyError(reason)
        if count:
            self.sheds[*_labels(namespace), reason] += count

    def conflated(self, namespace: Namespace, count: int) -> None:
        """So many publications gave way to newer ones of the same key."""
        if count:
            self.conflations[_labels(namespace)] += count

    def batched(self, namespace: Namespace) -> None:
        """A turn waited for the interval of this namespace."""
        self.batches[_labels(namespace)] += 1

    def lacked(self, namespace: Namespace) -> None:
        """A publication lacked the tag of ``conflate_key``."""
        self.keyless[(namespace.name or "-",)] += 1


def _labels(namespace: Namespace) -> tuple[str, str]:
    return namespace.name or "-", namespace.priority
