"""Drives the published Python SDK, unchanged, in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Self

from centrifuge import (
    Client,
    ClientEventHandler,
    ConnectedContext,
    ConnectingContext,
    DisconnectedContext,
    ErrorContext,
    JoinContext,
    LeaveContext,
    PublicationContext,
    ServerJoinContext,
    ServerLeaveContext,
    ServerPublicationContext,
    ServerSubscribedContext,
    ServerUnsubscribedContext,
    SubscribedContext,
    SubscribingContext,
    Subscription,
    SubscriptionErrorContext,
    SubscriptionEventHandler,
    UnsubscribedContext,
)

from tests import processes
from tests.servers import Server
from tests.waiting import PATIENCE, eventually


class Giver:
    """A call-back that gives one prepared answer after the other, the last again and again, and counts."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, *_: Any) -> Any:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class ClientLog(ClientEventHandler):
    """Keeps what happened to the connection."""

    def __init__(self) -> None:
        self.connected: list[ConnectedContext] = []
        self.connecting: list[ConnectingContext] = []
        self.disconnected: list[DisconnectedContext] = []
        self.errors: list[ErrorContext] = []
        self.subscribed: list[ServerSubscribedContext] = []
        self.unsubscribed: list[str] = []
        self.received: list[tuple[str, Any]] = []
        self.changes: list[tuple[str, str, str]] = []

    async def on_connected(self, ctx: ConnectedContext) -> None:
        self.connected.append(ctx)

    async def on_connecting(self, ctx: ConnectingContext) -> None:
        self.connecting.append(ctx)

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        self.disconnected.append(ctx)

    async def on_error(self, ctx: ErrorContext) -> None:
        self.errors.append(ctx)

    async def on_subscribed(self, ctx: ServerSubscribedContext) -> None:
        self.subscribed.append(ctx)

    async def on_unsubscribed(self, ctx: ServerUnsubscribedContext) -> None:
        self.unsubscribed.append(ctx.channel)

    async def on_publication(self, ctx: ServerPublicationContext) -> None:
        self.received.append((ctx.channel, ctx.pub.data))

    async def on_join(self, ctx: ServerJoinContext) -> None:
        self.changes.append((ctx.channel, "join", ctx.info.client))

    async def on_leave(self, ctx: ServerLeaveContext) -> None:
        self.changes.append((ctx.channel, "leave", ctx.info.client))


class SubscriptionLog(SubscriptionEventHandler):
    """Keeps what happened to one subscription."""

    def __init__(self) -> None:
        self.subscribing: list[SubscribingContext] = []
        self.subscribed: list[SubscribedContext] = []
        self.unsubscribed: list[UnsubscribedContext] = []
        self.errors: list[SubscriptionErrorContext] = []
        self.changes: list[tuple[str, str]] = []
        self.data: list[Any] = []
        self.offsets: list[int] = []

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.subscribed.append(ctx)

    async def on_subscribing(self, ctx: SubscribingContext) -> None:
        self.subscribing.append(ctx)

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        self.unsubscribed.append(ctx)

    async def on_error(self, ctx: SubscriptionErrorContext) -> None:
        self.errors.append(ctx)

    async def on_join(self, ctx: JoinContext) -> None:
        self.changes.append(("join", ctx.info.client))

    async def on_leave(self, ctx: LeaveContext) -> None:
        self.changes.append(("leave", ctx.info.client))

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.data.append(ctx.pub.data)
        self.offsets.append(ctx.pub.offset)


class Python:
    """One SDK client and its logs."""

    def __init__(self, server: Server, token: str = "", **options: Any) -> None:
        self.server = server
        self.log = ClientLog()
        self.token = token
        self.options = options
        self.ports: set[int] = set()

    async def __aenter__(self) -> Self:
        before = processes.ports_to(os.getpid(), self.server.port)
        address = f"ws://127.0.0.1:{self.server.port}/connection/websocket"
        delays: dict[str, Any] = {"min_reconnect_delay": 0.05, "max_reconnect_delay": 0.5}
        self.client = Client(address, events=self.log, token=self.token, proxy=None, **delays, **self.options)
        await self.client.connect()
        await eventually(lambda: self.log.connected or self.log.disconnected, what="connected or refused")
        self.ports = processes.ports_to(os.getpid(), self.server.port) - before
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()

    async def begin(self, channel: str, **options: Any) -> tuple[Subscription, SubscriptionLog]:
        """Subscribe and do not wait."""
        log = SubscriptionLog()
        delays: dict[str, Any] = {"min_resubscribe_delay": 0.05, "max_resubscribe_delay": 0.5}
        sub = self.client.new_subscription(channel, events=log, **delays, **options)
        await sub.subscribe()
        return sub, log

    async def subscribe(self, channel: str, token: str = "", **options: Any) -> tuple[Subscription, SubscriptionLog]:
        """Subscribe and wait until the server has decided."""
        sub, log = await self.begin(channel, token=token, **options)
        await eventually(lambda: log.subscribed or log.unsubscribed, what="subscribed or refused")
        return sub, log

    def worker(self) -> int:
        """The pid of the worker that serves the first connection."""
        (port,) = self.ports
        return self.server.worker_of(port)


async def to_the_end(test: Coroutine[Any, Any, None]) -> None:
    """Run a test, then wait for the tasks in which the SDK closes its sockets, so that none is left open."""
    await test
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, pending = await asyncio.wait(left, timeout=PATIENCE)
        assert not pending
