"""What this worker tells of its limits, its connections and its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nlargest
from typing import TYPE_CHECKING

from rt.delivery.behind import paced_until
from rt.delivery.subscription import State
from rt.protocol import address
from rt.protocol.inspection import (
    ChannelState,
    ConnectionRow,
    ConnectionsState,
    ConnectionState,
    LimitsState,
    RingState,
    RuleState,
    SubscriptionState,
    encode,
)

if TYPE_CHECKING:
    from rt.delivery.channel import Channel
    from rt.delivery.connection import Connection
    from rt.delivery.hub import Hub
    from rt.delivery.rules import Rule
    from rt.delivery.subscription import Subscription
    from rt.protocol.control import ShowConnections

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


def connections(hub: Hub, asked: ShowConnections) -> bytes:
    """The connections that are asked for, as :class:`ConnectionsState`; of more than the limit those that have waited
    longest. They are all looked at once, and only the answer is written out."""
    now = hub.now()
    fitting = [one for one in _of(hub, asked.user) if all(fits(one) for fits in _tests(asked))]
    if asked.slow:
        worst = nlargest(asked.limit, fitting, key=lambda one: max(_queued_for(one, now), _behind_for(one, now)))
    else:
        worst = nlargest(asked.limit, fitting, key=lambda one: _queued_for(one, now))
    total = len(fitting)
    return encode(ConnectionsState(connections=[_row(one, now) for one in worst], total=total, more=total > len(worst)))


def _of(hub: Hub, user: str | None) -> Iterator[Connection]:
    """Those of one user, or of all."""
    return iter(hub.connections if user is None else hub.users.get(user, ()))


def _tests(asked: ShowConnections) -> list[Callable[[Connection], bool]]:
    """What a connection must pass; what costs most comes last."""
    tests: list[Callable[[Connection], bool]] = []
    if asked.channel:
        tests.append(lambda one: asked.channel in one.channels)
    if asked.slow:
        tests.append(lambda one: bool(one.outbox.queue) or any(_behind(one)))
    if asked.ip:
        within = address.within(asked.ip)
        tests.append(lambda one: within(one.address))
    return tests


def _behind(one: Connection) -> Iterator[Subscription]:
    return (each for each in one.subscriptions.values() if each.state is State.BEHIND)


def _behind_for(one: Connection, now: float) -> float:
    return max((now - each.fell_at for each in _behind(one)), default=0.0)


def _queued_for(one: Connection, now: float) -> float:
    queue = one.outbox.queue
    return now - queue[0][0] if queue else 0.0


def _row(one: Connection, now: float) -> ConnectionRow:
    return ConnectionRow(
        client=one.id,
        user=one.user,
        address=one.address,
        transport=one.wire.name,
        node=one.hub.node,
        live=one.is_live,
        channels=sum(1 for _ in one.channels),
        queued_bytes=one.outbox.size,
        queued_for=round(_queued_for(one, now), 3),
        behind=sum(1 for _ in _behind(one)),
        behind_for=round(_behind_for(one, now), 3),
    )


def channel(hub: Hub, name: str) -> bytes:
    """How the channel stands here, as :class:`ChannelState`; empty where nobody follows it."""
    found = hub.channels.get(name)
    return b"" if found is None else encode(_followed(hub, found))


def _followed(hub: Hub, found: Channel) -> ChannelState:
    recent, newest = found.recent, found.recent.newest()
    return ChannelState(
        node=hub.node,
        subscribers=sum(feed.count for feed in found.claims),
        live=sum(len(members) for feed in found.claims for members in feed.members.values()),
        opened=found.opened,
        epoch=found.position.epoch,
        offset=found.position.offset,
        quiet_for=round(hub.now() - found.seen_at, 3) if found.opened else 0.0,
        repairing=found.repairing,
        recent=RingState(
            count=len(recent),
            bytes=recent.size,
            oldest=recent.oldest(),
            newest=0 if newest is None else newest.offset,
        ),
        spare=0 if found.spare is None else len(found.spare),
    )


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
        queued_for=round(_queued_for(found, now), 3),
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
