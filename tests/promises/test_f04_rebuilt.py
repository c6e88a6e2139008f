"""F04: the store comes back empty. Who is connected is there again, and what the backend said is not forgotten."""

from __future__ import annotations

import asyncio

from tests.clients import SdkClient
from tests.promises.stages import Stage
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
