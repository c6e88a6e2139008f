"""F17, F19b to F19f: many channels on a line that breaks, more calls than fit, callers that go away, and messages from
the bus that no worker has written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import random

import pytest

from tests.clients import Api, Http, PlainSocket, Reply, SdkClient
from tests.doors import enter
from tests.faults.link import COMMANDS, SUBSCRIBER
from tests.promises.stages import SLACK, R, Stage, endured, staged, until_acked, wait_more
from tests.servers import API_KEY
from tests.stores import binary
from tests.waiting import eventually, eventually_now

MANY = 5000


def test_f17_cut_within_the_subscribe_of_5000_channels(channel: str) -> None:
    """The line breaks again and again while 5,000 channels are subscribed anew: in the end every single one is, and who
    reads them has missed nothing."""
    with staged({"client": {"channel_limit": MANY}, "delivery": {"linger": "0s"}}) as stage:
        asyncio.run(subscribe_many(stage, channel))


async def subscribe_many(stage: Stage, channel: str) -> None:
    """One client follows all of them."""
    names = [f"{channel}-{number}" for number in range(MANY)]
    async with Api(stage.server) as api, SdkClient(stage.server) as client:
        for first in range(0, MANY, 500):
            await asyncio.gather(*(client.subscribe(name) for name in names[first : first + 500]))
        for size in (300, 9000, 20000):
            with stage.link.cut_after(size, "up", to=SUBSCRIBER, of="SUBSCRIBE"):
                breaking = asyncio.to_thread(wait_more, lambda: stage.link.count("cut"), what="it is cut")
                cut = asyncio.ensure_future(breaking)
                await eventually(lambda: stage.link.reset(SUBSCRIBER))
                await api_publish(api, random.sample(names, 20))
                await cut
        keys = [f"rt:default:{{{name}}}" for name in names]
        await eventually(lambda: all(stage.store.command("PUBSUB", "NUMSUB", *keys)[1::2]), what="all are subscribed")
        await asyncio.to_thread(stage.server.wait_ready)
        some = random.sample(names, 500)
        await api_publish(api, some)
        await eventually(lambda: {one.channel for one in client.received} >= set(some), what="all of them are heard")
        offsets: dict[str, list[int]] = {}
        for one in client.received:
            offsets.setdefault(one.channel, []).append(one.offset)
        assert all(got == list(range(1, len(got) + 1)) for got in offsets.values())
        assert not [push for push in client.pushes if "unsubscribe" in push]


async def api_publish(api: Api, names: list[str]) -> None:
    """One publication to each."""
    commands = [{"publish": {"channel": name, "data": "x"}} for name in names]
    headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    for first in range(0, len(names), 100):
        body = json.dumps({"commands": commands[first : first + 100]}).encode()
        answer = await api.request("POST", "/api/batch", body, headers)
        assert answer.status == 200 and b'"error"' not in answer.body, answer.body[:300]


def test_f19b_more_calls_than_fit(stage: Stage, channel: str) -> None:
    """300 calls at once over a slow line: there is no pool that could be exhausted; each is answered in time."""

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            apis = [await stack.enter_async_context(Api(stage.server)) for _ in range(300)]
            with stage.link.slow(R / 2, to=COMMANDS):
                begun = asyncio.get_running_loop().time()
                places = await asyncio.gather(*(api.publish(channel, number) for number, api in enumerate(apis)))
                took = asyncio.get_running_loop().time() - begun
            assert sorted(place.offset for place in places) == list(range(1, 301))
            assert took < R + SLACK + 0.5, f"one after the other? {took:.2f} s"

    asyncio.run(run())
    stage.server.wait_ready()


def test_f19c_idle_connections_are_dropped(channel: str) -> None:
    """The store drops what has been idle for a second; the next call finds a new connection and succeeds."""
    with staged({"redis": {"probe_interval": "20s"}}) as stage, stage.store.idle_limit(1):
        accepted = stage.link.count("accepted")

        async def run() -> None:
            async with Api(stage.server) as api:
                for number in range(1):
                    before = stage.link.count("accepted")
                    await asyncio.to_thread(eventually_now, lambda n=before: stage.link.count("accepted") >= n + 2)  # type: ignore[misc]
                    await asyncio.to_thread(eventually_now, lambda: len(stage.link.clients(COMMANDS)) == 2)
                    assert (await until_acked(api, channel, number, str(number))).offset == number + 1

        asyncio.run(run())
        assert stage.link.count("accepted") > accepted
        assert stage.server.internal("/ready")[0] == 200


def test_f19d_callers_that_go_away(stage: Stage, channel: str) -> None:
    """Hundreds of requests whose callers vanish at random moments: those who stay get their own answers, and nothing
    is left behind."""
    workers = stage.server.worker_pids()
    before = {pid: len(stage.insides.tasks(pid)) for pid in workers}
    dice = random.Random(1)

    async def vanish(number: int) -> None:
        async with Http(stage.server) as http:
            body = json.dumps({"channel": f"{channel}-{number % 7}", "data": {"gone": number}}).encode()
            lines = ["POST /api/publish HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", f"Content-Length: {len(body)}"]
            http.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await asyncio.sleep(dice.random() * 0.02)
            http.writer.transport.abort()

    async def stay(number: int) -> None:
        """History of a channel of one's own, whose content names it."""
        mine = f"{channel}-mine-{number}"
        async with Api(stage.server) as api:
            for turn in range(1, 21):
                place = await api.publish(mine, {"of": number, "turn": turn})
                assert place.offset == turn
                found = (await api.call("history", channel=mine, limit=100))["publications"]
                assert [one["data"] for one in found] == [{"of": number, "turn": one} for one in range(1, turn + 1)]

    async def run() -> None:
        with stage.link.slow(0.005, 0.004, to=COMMANDS):
            await asyncio.gather(*(vanish(number) for number in range(300)), *(stay(number) for number in range(10)))

    asyncio.run(run())
    eventually_now(
        lambda: all(len(stage.insides.tasks(pid)) <= before[pid] for pid in workers), what="no task is left behind"
    )


HOSTILE: dict[str, bytes] = {
    "no JSON": b"1p:abcdefgh:9:1700000000000000:hello",
    "pickle": pickle.dumps({"data": 1}),
    "another version": b"2p:abcdefgh:9:1700000000000000:{}",
    "another kind": b"1z:abcdefgh:9:1700000000000000:{}",
    "no offset": b"1p:abcdefgh:x:1700000000000000:{}",
    "far offset": b'1p:abcdefgh:99999999999999999999:1700000000000000:{"data":1}',
    "no colon": b"1p" + b"x" * 1000,
    "a line within": b'1p:abcdefgh:9:1700000000000000:{"data":\n1}',
    "nothing": b"",
    "50 MiB": b"1p:abcdefgh:9:1700000000000000:{" + b"x" * (50 * 1024 * 1024) + b"}",
}


def test_f19e_hostile_messages_on_the_bus(stage: Stage, channel: str) -> None:
    """What does not fit is dropped and counted, on a channel and among the workers; readers notice nothing."""
    dropped = stage.server.metric("rt_store_bus_dropped_total")

    async def run() -> None:
        async with Api(stage.server) as api, PlainSocket(stage.server, [channel]) as reader:
            await api.publish(channel, "before")
            await reader.until(channel, 1)
            for payload in HOSTILE.values():
                await asyncio.to_thread(stage.store.command, "PUBLISH", f"rt:default:{{{channel}}}", payload)
                await asyncio.to_thread(stage.store.command, "PUBLISH", "rt:default:control:{all}", payload)
            await until_acked(api, channel, "after", "after")
            assert await reader.until(channel, 2) == ["before", "after"]
            assert (reader.gaps, reader.gone) == ([], False)

    asyncio.run(run())
    # By one reader's worker, and by both among themselves; the last was too much for the store, which cut them off.
    count = 3 * (len(HOSTILE) - 1)
    eventually_now(lambda: stage.server.metric("rt_store_bus_dropped_total") >= dropped + count, what="all are counted")


def test_f19e_a_forged_publication_is_not_believed(stage: Stage, channel: str) -> None:
    """One that looks right, from somebody who may write to the bus but not to the stream: the stream is asked, and says
    no."""

    async def run() -> None:
        reader = await enter("ws", stage.server, [channel])
        async with Api(stage.server) as api:
            place = await until_acked(api, channel, "before", "before")
            for epoch, offset in ((place.epoch, 9), ("another1", 1), ("another1", 2)):
                forged = b'1p:%s:%d:1700000000000000:{"data":"forged"}' % (epoch.encode(), offset)
                await asyncio.to_thread(stage.store.command, "PUBLISH", f"rt:default:{{{channel}}}", forged)
            await api.publish(channel, "after")
            assert await reader.until(channel, 2) == ["before", "after"]
            assert reader.gaps == []
            await reader.close()

    asyncio.run(run())


@pytest.mark.needs("redis-server")
def test_f19f_an_old_store_is_warned_of(channel: str) -> None:
    """A server with known holes is named in the log, once per worker, and served."""
    assert binary("redis-server") is not None
    with staged(program="redis-server") as stage:
        lines = [line for line in stage.server.log().splitlines() if "known holes" in line]
        assert len(lines) == 2 and "7.0.15" in lines[0]
        with endured(stage, channel, contextlib.nullcontext()):
            pass


def test_f19f_client_text_is_never_a_pattern(stage: Stage, channel: str) -> None:
    """No PSUBSCRIBE, whatever a channel is called."""

    async def run() -> None:
        async with SdkClient(stage.server) as client:
            for name in (f"{channel}*", f"{channel}?[a-z]"):
                with contextlib.suppress(Reply):
                    await client.subscribe(name)
            async with Api(stage.server) as api:
                await api.publish(f"{channel}x", "not for it")
                await api.publish(f"{channel}a", "not for it")
            assert client.received == []

    asyncio.run(run())
    assert stage.store.command("PUBSUB", "NUMPAT") == 0
