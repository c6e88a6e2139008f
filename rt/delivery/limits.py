"""What a worker takes on: how many connections in all, and how many new ones in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rt.delivery.hub import Hub

Refusal = Literal["total", "rate", "leaving"]


class Bucket:
    """A token bucket of one second's worth: ``rate`` tokens come per second (0: no limit), as many may be saved."""

    __slots__ = ("_filled_at", "_tokens", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = max(rate, 1.0)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take a token; False when there is none."""
        if not self.rate:
            return True
        self._tokens = min(max(self.rate, 1.0), self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Gate:
    """Decides over each new connection, before anything is spent on it. A reload keeps what the bucket holds."""

    __slots__ = ("_bucket", "_hub")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._bucket = Bucket(hub.config.limits.connections.new_per_second, hub.now())

    def refusal(self) -> Refusal | None:
        """Why not: told with 503 and Retry-After. None to let it in."""
        hub = self._hub
        limits = hub.config.limits.connections
        self._bucket.rate = limits.new_per_second
        reason: Refusal | None = None
        if hub.leaving:
            reason = "leaving"
        elif len(hub.connections) >= limits.total:
            reason = "total"
        elif not self._bucket.take(hub.now()):
            reason = "rate"
        if reason is not None:
            hub.tally.refusals[reason] += 1
        return reason
