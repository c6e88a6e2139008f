"""P5: the same publish id on a channel is one publication with one offset, whichever worker and however many tries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Any

import pytest

from tests.clients import Api, Place, PlainSocket, Reply
from tests.faults.link import COMMANDS
from tests.promises.stages import Stage
from tests.roles.cast import HEAL
from tests.waiting import eventually

RACERS = 50

FAULTS: dict[str, Callable[[Stage], AbstractContextManager[Any]]] = {
    "stopped": lambda stage: stage.store.stopped(),
    "replies_lost": lambda stage: stage.link.black_hole("down", to=COMMANDS, reset=True),
    "calls_lost": lambda stage: stage.link.black_hole("up", to=COMMANDS, reset=True),
    "cut": lambda stage: stage.link.down(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_p05_racers_with_one_key_during_a_fault(stage: Stage, channel: str, fault: str) -> None:
    """Fifty callers on all workers publish the same thing while the store cannot answer, and repeat until it can: one
    offset, one delivery."""

    async def run() -> None:
        async with AsyncExitStack() as stack, PlainSocket(stage.server, [channel]) as reader:
            apis = [await stack.enter_async_context(Api(stage.server)) for _ in range(RACERS)]
            assert len({api.worker() for api in apis}) == 2
            failed: list[int] = []
            with FAULTS[fault](stage):
                racing = [asyncio.ensure_future(publish(api, channel, failed)) for api in apis]
                await eventually(lambda: len(failed) >= RACERS, what="everybody has failed once")
            places = await asyncio.wait_for(asyncio.gather(*racing), HEAL)
            assert {place.offset for place in places} == {1} and len(set(places)) == 1
            await api_last(apis[0], reader, channel)
            assert reader.data(channel) == ["once", "last"]

    asyncio.run(run())
    stage.server.wait_ready()


async def publish(api: Api, channel: str, failed: list[int]) -> Place:
    """Until it is acknowledged."""
    while True:
        try:
            return await api.publish(channel, "once", idempotency_key="key")
        except Reply as reply:
            assert reply.code == 100
            failed.append(1)
            await asyncio.sleep(0.05)


async def api_last(api: Api, reader: PlainSocket, channel: str) -> None:
    """Publish one more and wait until it has come."""
    await api.publish(channel, "last", idempotency_key="another")
    await eventually(lambda: reader.data(channel)[-1:] == ["last"])
