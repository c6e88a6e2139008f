"""What this worker tells of its limits, and of one of its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rt.delivery.behind import paced_until
from rt.delivery.subscription import State
from rt.protocol.inspection import ConnectionState, LimitsState, RuleState, SubscriptionState, encode

if TYPE_CHECKING:
    from rt.delivery.connection import Connection
    from rt.delivery.hub import Hub
    from rt.delivery.rules import Rule
    from rt.delivery.subscription import Subscription

_STATES = {State.JOINING: "joining", State.LIVE: "live", State.BEHIND: "behind", State.GONE: "gone"}


def limits(hub: Hub) -> bytes:
    """The rules here and whom they stop, as :class:`LimitsState`."""
    now = hub.now()
    connections = {"here": len(hub.connections), "users": len(hub.users), "addresses": hub.crowd.addresses}
    rules = [_rule(rule, now) for rule in hub.limits.rules]
    return encode(LimitsState(rules=rules, connections=connections, counts=not hub.limits.outage.lasts))


def _rule(rule: Rule, now: float) -> RuleState:
    settings = rule.settings
    return RuleState(
        on=rule.on,
        per=rule.per,
        namespace=rule.namespace,
        rate=settings.rate.per_second,
        burst=settings.capacity,
        shared=settings.shared,
        redis_down=settings.redis_down if settings.shared else "",
        subjects=rule.count,
        hits=rule.hits,
        worst=rule.worst(now),
    )


def connection(hub: Hub, client: str) -> bytes:
    """How the connection with the id ``client`` stands, as :class:`ConnectionState`; empty where it is not here."""
    found = next((connection for connection in hub.connections if connection.id == client), None)
    return b"" if found is None else encode(_state(hub, found))


def _state(hub: Hub, found: Connection) -> ConnectionState:
    outbox, now = found.outbox, hub.now()
    return ConnectionState(
        client=found.id,
        user=found.user,
        address=found.address,
        transport=found.wire.name,
        node=hub.node,
        live=found.is_live,
        queued_bytes=outbox.size,
        queued_frames=outbox.count,
        queued_for=round(now - outbox.queue[0][0], 3) if outbox.queue else 0.0,
        busy=found.busy or (found.heartbeat is not None and found.heartbeat.resting),
        subscriptions=[_subscription(hub, subscription) for subscription in found.subscriptions.values()],
        left=hub.limits.left(found),
    )


def _subscription(hub: Hub, found: Subscription) -> SubscriptionState:
    state = SubscriptionState(channels=list(found.feed.key), state=_STATES[found.state], falls=found.falls)
    if found.state is State.BEHIND:
        now = hub.now()
        state.behind_for, state.paced_for = round(now - found.fell_at, 3), round(max(paced_until(found) - now, 0.0), 3)
    return state
