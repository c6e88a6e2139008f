"""What workers tell an operator about their limits, connections and channels, and how their answers become one.

Unknown fields are ignored and missing ones have a default, so that workers of two releases can be asked together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

WORST = 10
"""Subjects that are named per rule."""


class RuleState(msgspec.Struct, kw_only=True, gc=False):
    """A rule: as the config has it (``rate`` per second), how many ``subjects`` have a bucket that is not full,
    how often it refused (``hits``, since the worker started), and whom in the last minute or two (``worst``)."""

    on: str
    per: str
    namespace: str = ""
    rate: float = 0.0
    burst: float = 0.0
    shared: bool = False
    redis_down: str = ""
    subjects: int = 0
    hits: int = 0
    worst: dict[str, int] = {}


class LimitsState(msgspec.Struct, kw_only=True, gc=False):
    """The rules of a worker; its ``connections`` by the limits that they count for; whether the store ``counts``."""

    rules: list[RuleState] = []
    connections: dict[str, int] = {}
    counts: bool = True


class SubscriptionState(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One subscription: ``joining``, ``live`` or ``behind``; then for how long (``behind_for``, seconds), and for how
    long nothing will be sent to it (``paced_for``). ``falls`` is how often it fell behind lately."""

    channels: list[str]
    state: str
    behind_for: float = 0.0
    paced_for: float = 0.0
    falls: int = 0


class _Connection(msgspec.Struct, kw_only=True, gc=False):
    """Who and where a connection is; what waits for it (``queued_bytes``), and how long the first of it has
    (``queued_for``, seconds)."""

    client: str
    user: str = ""
    address: str = ""
    transport: str = ""
    node: str = ""
    live: bool = False
    queued_bytes: int = 0
    queued_for: float = 0.0


class ConnectionState(_Connection, kw_only=True, gc=False):
    """One connection; whether it is being read; what it may still do (``left``, by rule)."""

    queued_frames: int = 0
    busy: bool = False
    subscriptions: list[SubscriptionState] = []
    left: dict[str, float] = {}


class ConnectionRow(_Connection, kw_only=True, gc=False):
    """One connection among many: how many ``channels`` it follows, how many of its subscriptions are ``behind``, and
    the longest of them for how long (``behind_for``)."""

    channels: int = 0
    behind: int = 0
    behind_for: float = 0.0

    @property
    def slow_for(self) -> float:
        """Since when it is owed something, in seconds."""
        return max(self.queued_for, self.behind_for)


class ConnectionsState(msgspec.Struct, kw_only=True, gc=False):
    """Some of the connections that were asked for, those that have waited longest first, and how many fit in all."""

    connections: list[ConnectionRow] = []
    total: int = 0
    more: bool = False
    """Whether there are others beside those listed."""


class RingState(msgspec.Struct, kw_only=True, gc=False):
    """The newest publications that a worker keeps of a channel: how many, their bytes, and their offsets."""

    count: int = 0
    bytes: int = 0
    oldest: int = 0
    newest: int = 0


class ChannelState(msgspec.Struct, kw_only=True, gc=False):
    """A channel on one worker: how many ``subscribers`` it has there, how many of them are ``live``, where it stands
    (without history: at a number of the worker's own, if at one at all), for how many seconds nothing came
    (``quiet_for``), whether it is reading what it missed, and what is kept for those who need it again."""

    node: str
    subscribers: int = 0
    live: int = 0
    opened: bool = False
    epoch: str = ""
    offset: int = 0
    quiet_for: float = 0.0
    repairing: bool = False
    recent: RingState = msgspec.field(default_factory=RingState)
    spare: int = 0


encode = msgspec.json.Encoder().encode
_limits = msgspec.json.Decoder(LimitsState).decode
_connections = msgspec.json.Decoder(ConnectionsState).decode
_channel = msgspec.json.Decoder(ChannelState).decode


def slowest(answers: Iterable[bytes], limit: int) -> ConnectionsState:
    """The connections of all workers in one; an answer that makes no sense counts for nothing."""
    rows: list[ConnectionRow] = []
    total = 0
    for body in answers:
        try:
            found = _connections(body)
        except (ValueError, RecursionError):
            continue
        rows += found.connections
        total += found.total
    rows.sort(key=lambda row: (-row.slow_for, -row.queued_bytes, row.client))
    del rows[limit:]
    return ConnectionsState(connections=rows, total=total, more=total > len(rows))


def by_worker(answers: Iterable[bytes]) -> list[ChannelState]:
    """A channel on each of the workers that follow it, by their names."""
    found: list[ChannelState] = []
    for body in answers:
        try:
            found.append(_channel(body))
        except (ValueError, RecursionError):
            continue
    return sorted(found, key=lambda state: state.node)


def together(answers: Iterable[bytes]) -> LimitsState:
    """The limits of all workers in one; an answer that makes no sense counts for nothing."""
    rules: dict[tuple[str, str, str, bool], RuleState] = {}
    connections: Counter[str] = Counter()
    counts = True
    for body in answers:
        try:
            found = _limits(body)
        except (ValueError, RecursionError):
            continue
        connections.update(found.connections)
        counts &= found.counts
        for rule in found.rules:
            known = rules.setdefault((rule.on, rule.per, rule.namespace, rule.shared), rule)
            if known is not rule:
                known.subjects += rule.subjects
                known.hits += rule.hits
                known.worst = dict(Counter(known.worst) + Counter(rule.worst))
    for rule in rules.values():
        rule.worst = dict(Counter(rule.worst).most_common(WORST))
    return LimitsState(rules=list(rules.values()), connections=dict(connections), counts=counts)
