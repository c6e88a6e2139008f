"""What workers tell an operator about their limits and about one connection, and how their answers become one.

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


class ConnectionState(msgspec.Struct, kw_only=True, gc=False):
    """One connection: who and where it is; what waits for it, and for how long the first of it has; whether it is being
    read; what it may still do (``left``, by rule)."""

    client: str
    user: str = ""
    address: str = ""
    transport: str = ""
    node: str = ""
    live: bool = False
    queued_bytes: int = 0
    queued_frames: int = 0
    queued_for: float = 0.0
    busy: bool = False
    subscriptions: list[SubscriptionState] = []
    left: dict[str, float] = {}


encode = msgspec.json.Encoder().encode
_limits = msgspec.json.Decoder(LimitsState).decode


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
