"""P4: an acknowledgement means stored and handed on, a refusal means never, error 100 may mean either."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.clients import Api, PlainSocket, Reply
from tests.faults.link import COMMANDS
from tests.promises.stages import Stage, endured, staged, until_acked, wait_more
from tests.waiting import eventually, eventually_now


@pytest.fixture(scope="module")
def hasty() -> Iterator[Stage]:
    """A server that gives up on the store after 0.2 s."""
    with staged({"redis": {"timeout": "200ms"}}) as built:
        yield built


def entries(stage: Stage, channel: str) -> list[bytes]:
    """The bodies in a channel's stream, as the store has them."""
    found = stage.store.command("XRANGE", f"rt:default:{{{channel}}}:stream", "-", "+")
    return [fields[1] for _, fields in found]


def test_f03_one_publish_is_one_entry(hasty: Stage, channel: str) -> None:
    """The store stands still for longer than the timeout: the call fails as unknown, was done, and was done once."""
    unknown = hasty.server.metric("rt_store_unknown_total")

    async def run() -> None:
        async with Api(hasty.server) as api, PlainSocket(hasty.server, [channel]) as reader:
            await api.publish(channel, "before")
            with hasty.store.stopped(), pytest.raises(Reply, match="^100 "):
                await api.publish(channel, "once")
            await asyncio.to_thread(hasty.server.wait_ready)
            assert await reader.until(channel, 2) == ["before", "once"]
            assert len(entries(hasty, channel)) == 2
            await eventually(lambda: hasty.server.metric("rt_store_unknown_total") > unknown, what="it is counted")
            assert (await until_acked(api, channel, "after", "after")).offset == 3
            assert await reader.until(channel, 3) == ["before", "once", "after"]

    asyncio.run(run())


def test_p04_with_a_key_the_repeat_is_ours(hasty: Stage, channel: str) -> None:
    """The same with a key: whether the call fails or a repeat of our own succeeds in time, there is one entry, and the
    caller's repeat gets its offset."""

    async def run() -> None:
        async with Api(hasty.server) as api:
            with hasty.store.stopped(), contextlib.suppress(Reply):
                await api.publish(channel, "once", idempotency_key="key")
            await asyncio.to_thread(hasty.server.wait_ready)
            assert (await until_acked(api, channel, "once", "key")).offset == 1
            assert len(entries(hasty, channel)) == 1

    asyncio.run(run())


def test_p04_acks_are_what_the_stream_has(stage: Stage, channel: str) -> None:
    """Replies are cut off at random while calls are under way, without keys, so nothing is repeated: everything
    acknowledged is in the stream at its offset, everything else in it was answered with "unknown"."""
    with endured(stage, channel, contextlib.nullcontext()) as scene:
        for size in range(10):
            with stage.link.cut_after(137 * size, "down", to=COMMANDS, of="-voices"):
                wait_more(lambda: stage.link.count("cut"), what="a connection is cut")
            wait_more(lambda: len(scene.voices.acked), 5, "publishes are acknowledged")
    stored = [json.loads(body)["data"]["id"] for body in entries(stage, f"long:{channel}-voices")]
    assert len(stored) == len(set(stored)), "a publish without a key was done twice"
    at = {one: offset for offset, one in enumerate(stored, 1)}
    assert {one: at.get(one) for one in scene.voices.acked} == scene.voices.acked
    assert set(stored) <= scene.voices.acked.keys() | scene.voices.failed
    assert scene.voices.failed, "no call was hit"


def test_p04_a_worker_dies_between_send_and_reply(stage: Stage, channel: str) -> None:
    """The publish left, the reply never came, the worker is killed: the caller's connection breaks, which is unknown;
    the publication is there once, and a repeat on the other worker says where."""

    async def run() -> None:
        async with Api(stage.server) as first, Api(stage.server) as second:
            await second.leave_worker(first.worker())
            with stage.link.black_hole("down", to=COMMANDS):
                asked = asyncio.ensure_future(first.publish(channel, "once", idempotency_key="key"))
                key = f"rt:default:{{{channel}}}:stream"
                await asyncio.to_thread(eventually_now, lambda: stage.store.command("EXISTS", key))
                stage.server.kill_worker(first.worker())
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await asked
            await asyncio.to_thread(stage.server.wait_workers)
            assert (await until_acked(second, channel, "once", "key")).offset == 1
            assert len(entries(stage, channel)) == 1

    asyncio.run(run())
