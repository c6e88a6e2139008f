"""What the hot side counts into: plain numbers, without a lock, a label object or a clock."""

from __future__ import annotations

from bisect import bisect_left

from rt.metrics.definitions import BUCKETS, DROPS, REFUSALS, REPAIRS, SLOW


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
    reason nobody has foreseen is a ``KeyError`` in a test and not a new label."""

    __slots__ = (
        "catch_ups",
        "deliveries",
        "drops",
        "publications",
        "received_bytes",
        "received_messages",
        "refusals",
        "repairs",
        "sent_bytes",
        "slow",
        "waits",
    )

    def __init__(self) -> None:
        self.publications = 0
        self.deliveries = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.received_bytes = 0
        self.catch_ups = 0
        self.waits = 0
        self.drops = dict.fromkeys(DROPS, 0)
        self.slow = dict.fromkeys(SLOW, 0)
        self.repairs = dict.fromkeys(REPAIRS, 0)
        self.refusals = dict.fromkeys(REFUSALS, 0)
