"""Commands that the store answers: publish, presence, history. Permission is checked here, before it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rt import errors
from rt.delivery import publishing
from rt.errors import Refused
from rt.protocol import channels, replies
from rt.protocol.publication import Page, Position

if TYPE_CHECKING:
    from rt.broker import Stats
    from rt.delivery.subscriber import Subscriber
    from rt.protocol.commands import History, Presence, PresenceStats, Publish


class Answer(NamedTuple):
    """What the store will say, and what the reply is made of it; that may raise Refused."""

    future: asyncio.Future[Any]
    reply: Callable[[Any], bytes]


def publish(asker: Subscriber, id: int, request: Publish) -> Answer:
    """Publish; the publication says who did."""
    namespace = asker.hub.namespaces.named(request.channel)
    if request.type:
        raise Refused(errors.NOT_AVAILABLE)
    subscription = asker.subscriptions.get(request.channel)
    channels.may_publish(namespace, asker.who, subscribed=subscription is not None)
    right = subscription.right if subscription is not None else None
    info = replies.client_info(asker.user, asker.id, asker.info, right.info if right is not None else b"")
    body = replies.publication_body(publishing.checked(request.data, namespace), info)
    options = publishing.options(namespace, request.idempotency_key)
    if request.idempotency_key:
        # Nobody's key is another's: neither the backend's nor that of somebody who guesses it.
        whose = f"user:{asker.user}" if asker.user else f"client:{asker.id}"
        options = options._replace(idempotency_key=f"{whose}:{request.idempotency_key}")
    future = asker.hub.broker.publish(request.channel, body, options)
    return Answer(future, lambda _: replies.done(id, "publish"))


def presence(asker: Subscriber, id: int, request: Presence) -> Answer:
    """Who is there."""
    _may_see_presence(asker, request.channel)
    return Answer(asker.hub.broker.presence(request.channel), partial(replies.presence, id))


def presence_stats(asker: Subscriber, id: int, request: PresenceStats) -> Answer:
    """How many are there."""
    _may_see_presence(asker, request.channel)

    def reply(stats: Stats) -> bytes:
        return replies.presence_stats(id, stats.clients, stats.users)

    return Answer(asker.hub.broker.presence_stats(request.channel), reply)


def _may_see_presence(asker: Subscriber, channel: str) -> None:
    namespace = asker.hub.namespaces.named(channel)
    channels.may_see_presence(namespace, asker.who, subscribed=channel in asker.subscriptions)


def history(asker: Subscriber, id: int, request: History) -> Answer:
    """What was published."""
    channel = request.channel
    namespace = asker.hub.namespaces.named(channel)
    channels.may_read_history(namespace, asker.who, subscribed=channel in asker.subscriptions)
    limit = channels.history_limit(request, asker.hub.config.client.history_max_publication_limit)
    since = Position(request.since.epoch, request.since.offset) if request.since is not None else None

    def reply(page: Page) -> bytes:
        if since is not None and since.epoch and since.epoch != page.top.epoch:
            raise Refused(errors.UNRECOVERABLE_POSITION)
        return replies.history(id, page.top, page.publications)

    future = asker.hub.broker.history(
        channel, since=since, limit=limit, reverse=request.reverse, meta_ttl=namespace.history_meta_ttl
    )
    return Answer(future, reply)
