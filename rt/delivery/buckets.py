"""Token buckets: one alone, and one for each of many subjects, in bounded memory.

A bucket holds ``capacity`` tokens and gets ``rate`` new ones a second. Of many of them only one number each is kept:
the moment at which the bucket will be full again. A bucket that is full is the same as one that was never touched, so
it needs no entry, and what is forgotten at that moment changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

GRAIN = 1e-9  # seconds: what sums of floating-point numbers may be off by


class Bucket:
    """A token bucket: ``rate`` tokens come per second (0: no limit), and ``depth`` (as many, unless said) may be
    saved."""

    __slots__ = ("_depth", "_filled_at", "_tokens", "rate")

    def __init__(self, rate: float, now: float, depth: Callable[[float], float] = float) -> None:
        self.rate = rate
        self._depth = depth
        self._tokens = max(depth(rate), 1.0)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take a token; False when there is none."""
        if not self.rate:
            return True
        self._tokens = min(max(self._depth(self.rate), 1.0), self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def wait(self) -> float:
        """Seconds from the last look until there is a token."""
        return max(0.0, 1.0 - self._tokens) / self.rate if self.rate else 0.0


class Buckets:
    """A bucket for each subject that drew from one and is not full again yet, at most ``most`` of them.

    Where there would be more, the one that was left alone longest is forgotten, which fills it; ``forgotten`` counts
    those. All moments are of one monotonic clock, in seconds.
    """

    __slots__ = ("_full_at", "_span", "_token", "capacity", "forgotten", "most", "rate")

    def __init__(self, rate: float, capacity: float, most: int) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()  # the one that was touched last comes last
        self.most = most
        self.forgotten = 0
        self._measure(rate, capacity)

    def _measure(self, rate: float, capacity: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._token = 1.0 / rate  # seconds
        self._span = capacity / rate  # seconds in which an empty one fills

    def __len__(self) -> int:
        return len(self._full_at)

    def change(self, rate: float, capacity: float, most: int, now: float) -> None:
        """Go on with another rate and capacity. The tokens that are there stay, as far as they fit, and none are added:
        what is missing comes at the new rate."""
        left = {subject: self.left(subject, now) for subject in self._full_at}
        self._measure(rate, capacity)
        self.most = most
        for subject, tokens in left.items():
            self._full_at[subject] = now + max(capacity - tokens, 0.0) * self._token
        while len(self._full_at) > most:
            self._forget()

    def take(self, subject: str, now: float, count: float = 1.0) -> float:
        """Take ``count`` tokens: 0 when they were there, else the seconds until they are, and nothing is taken.

        More than the capacity are given by a full bucket, which is in debt then.
        """
        full_at = self._full_at.get(subject)
        if full_at is None or full_at <= now:
            self._keep(subject, now + count * self._token, now, new=full_at is None)
            return 0.0
        over = full_at - now + min(count, self.capacity) * self._token - self._span
        self._full_at.move_to_end(subject)
        if over > GRAIN:
            return over
        self._full_at[subject] = full_at + count * self._token
        return 0.0

    def draw(self, subject: str, now: float, count: float) -> float:
        """Take ``count`` tokens, whether they are there or not; the seconds until the bucket is out of debt."""
        full_at = self._full_at.get(subject)
        after = max(full_at or now, now) + count * self._token
        self._keep(subject, after, now, new=full_at is None)
        return max(0.0, after - now - self._span)

    def give(self, subject: str, now: float, count: float = 1.0) -> None:
        """Put back what was taken for nothing."""
        full_at = self._full_at.get(subject)
        if full_at is None:
            return
        full_at -= count * self._token
        if full_at <= now:
            del self._full_at[subject]
        else:
            self._full_at[subject] = full_at

    def left(self, subject: str, now: float) -> float:
        """The tokens that are there; below zero for a debt."""
        return self.capacity - max(self._full_at.get(subject, now) - now, 0.0) * self.rate

    def sweep(self, now: float) -> None:
        """Let go of buckets that are full again. To be called now and then."""
        kept = self._full_at
        while kept and kept[next(iter(kept))] <= now:
            kept.popitem(last=False)

    def _keep(self, subject: str, full_at: float, now: float, *, new: bool) -> None:
        self._full_at[subject] = full_at
        if not new:
            self._full_at.move_to_end(subject)
        elif len(self._full_at) > self.most:
            self.sweep(now)
            if len(self._full_at) > self.most:
                self._forget()

    def _forget(self) -> None:
        self._full_at.popitem(last=False)
        self.forgotten += 1
