"""F04: the store comes back empty. Who is connected is there again, and what the backend said is not forgotten."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.clients import Api, Reply, SdkClient, on_worker
from tests.promises.stages import Stage
from tests.roles.cast import HEAL
from tests.tokens import connection_token
from tests.waiting import eventually

SWEEP = 3.0
"""``client.presence_update_interval`` and some."""


def test_f04_presence_is_rebuilt(stage: Stage, channel: str) -> None:
    """Within a renewal everybody who is connected is there again, once, and those who left meanwhile are not."""
    room = f"bare:{channel}"  # without history, so nobody is sent away to subscribe anew

    async def run() -> None:
        async with SdkClient(stage.server) as one, SdkClient(stage.server) as two, SdkClient(stage.server) as gone:
            for client in (one, two, gone):
                await client.subscribe(room)
            assert len(await one.presence(room)) == 3
            with stage.store.killed(empty=True):
                await gone.close()
            ids = {client.connected["client"].encode() for client in (one, two)}

            key = f"rt:default:{{{room}}}:presence"
            await asyncio.to_thread(stage.server.wait_ready)
            await eventually(lambda: set(stage.store.command("HKEYS", key)) == ids, SWEEP, "all are there again")
            assert set(await one.presence(room)) == {client.decode() for client in ids}
            assert await one.presence_stats(room) == (2, 1)

    asyncio.run(run())


def test_f04_sessions_are_rebuilt(stage: Stage, channel: str) -> None:
    """A user whom the backend subscribed stays subscribed, and still is after connecting anew elsewhere, and what was
    taken away does not return with the token: the worker that knew brought it back to the store."""
    user, name, other = f"u-{channel}", f"users:{channel}", f"users:{channel}-other"
    claims: dict[str, Any] = {"subs": {other: {}}, "iat": int(time.time()) - 10}

    async def run() -> None:
        token = connection_token(user, **claims)
        async with Api(stage.server) as api, SdkClient(stage.server, token=token) as first:
            await api.call("subscribe", user=user, channel=name)
            await first.until_push(name, "subscribe")
            await api.call("unsubscribe", user=user, channel=other)
            await first.until_push(other, "unsubscribe")
            with stage.store.killed(empty=True):
                pass
            key = f"rt:default:session:{{{user}}}"
            await eventually(lambda: stage.store.command("HLEN", key) == 2, HEAL, "the session is there again")
            await asyncio.to_thread(stage.server.wait_ready)
            second = await elsewhere(stage, token, first.node)
            assert set(second.connected["subs"]) == {name}
            await second.close()

    asyncio.run(run())


async def elsewhere(stage: Stage, token: str, node: str) -> SdkClient:
    """The same user on another worker, which may be back at the store a moment later."""
    while True:
        try:
            return await on_worker(lambda: SdkClient(stage.server, token=token), lambda other: other != node)
        except Reply as reply:
            assert reply.temporary
