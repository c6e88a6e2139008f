"""P3: who comes back gets exactly what was missed, or is told and gets nothing of it. Exact at each boundary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from tests.clients import Api, Place, PlainSocket, Reader, SdkClient
from tests.doors import DOORS, enter, enter_elsewhere
from tests.eventsource import EventSource
from tests.promises.stages import Stage
from tests.waiting import eventually, eventually_now

Result = tuple[bool, list[object]]
"""Whether it was recovered, and what came before anything new."""

Lose = Callable[[Stage, str], object]


async def come_back(
    stage: Stage,
    door: str,
    channel: str,
    meanwhile: Callable[[Api], Awaitable[None]],
    at: Place | None = None,
    *,
    elsewhere: bool = False,
) -> Result:
    """Leave after one publication and return after ``meanwhile``, from ``at`` if given, to any worker or another one.

    What is published then must be received, or be behind a gap.
    """
    async with Api(stage.server) as api:
        first = await enter(door, stage.server, [channel])
        await api.publish(channel, "seen")
        await first.until(channel, 1)
        await first.close()
        await meanwhile(api)
        if at is not None:
            forge(first, channel, Place(at.epoch or first.places[channel].epoch, at.offset))
        if elsewhere:
            second = await enter_elsewhere(door, stage.server, [channel], previous=first, node=first.node)
        else:
            second = await enter(door, stage.server, [channel], previous=first)
        await eventually(lambda: channel in second.places)
        recovered = told_recovered(second, channel)
        data = list(second.data(channel))
        last = await api.publish(channel, "last")
        await eventually(lambda: second.places[channel] == last or second.kinds(channel, "unsubscribe"))
        await second.close()
    return recovered, data


def forge(reader: Reader, channel: str, place: Place) -> None:
    """The reader believes that it was somewhere else."""
    reader.places[channel] = place
    if isinstance(reader, PlainSocket):
        reader.cursor = f"{place.epoch}.{place.offset}"
    if isinstance(reader, EventSource):
        reader.parser.last_id = f"{place.epoch}.{place.offset}"


def told_recovered(reader: Reader, channel: str) -> bool:
    """Whether it was told that nothing is missing."""
    if isinstance(reader, SdkClient):
        return bool([one for one in reader.records if one["do"] == "subscribed"][-1]["recovered"])
    return bool(reader.connected["subs"][channel].get("recovered"))


async def publish(api: Api, channel: str, count: int) -> None:
    """That many publications: 0, 1, 2, ..."""
    commands = [{"publish": {"channel": channel, "data": one}} for one in range(count)]
    headers = {"X-API-Key": api.key, "Content-Type": "application/json"}
    for first in range(0, count, 100):
        body = json.dumps({"commands": commands[first : first + 100]}).encode()
        assert (await api.request("POST", "/api/batch", body, headers)).status == 200


@pytest.mark.alone  # a worker that hears the last one later has only as many before it
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("namespace", "missed", "recovered"),
    [("", 299, True), ("", 300, True), ("", 301, False), ("short:", 5, True), ("short:", 6, False)],
)
def test_p03_as_much_as_history_holds(
    stage: Stage, channel: str, door: str, namespace: str, missed: int, recovered: bool
) -> None:
    """Of 300 kept, 300 are recovered, which is also the most that a reply may hold; of 5 kept, 5. Of one more, none."""
    name = namespace + channel
    result = asyncio.run(come_back(stage, door, name, lambda api: publish(api, name, missed)))
    assert result == (recovered, list(range(missed)) if recovered else [])


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-worker", "elsewhere"])
@pytest.mark.parametrize(("missed", "late", "recovered"), [(2, False, True), (0, True, True), (2, True, False)])
def test_p03_as_long_as_history_lasts(
    stage: Stage, channel: str, missed: int, late: bool, recovered: bool, elsewhere: bool
) -> None:
    """Kept for T = 1 s after the newest. Later, who has missed nothing is recovered, and nobody else."""
    brief = f"brief:{channel}"
    key = f"rt:default:{{{brief}}}:stream"

    async def meanwhile(api: Api) -> None:
        await publish(api, brief, missed)
        left = int(await asyncio.to_thread(stage.store.command, "PTTL", key))
        assert 500 < left <= 1000, "T, counted from the newest"
        if late:
            await asyncio.to_thread(eventually_now, lambda: not stage.store.command("EXISTS", key))
            await asyncio.sleep(0.05)  # the worker's own clock began when it heard of it

    result = asyncio.run(come_back(stage, "ws", brief, meanwhile, elsewhere=elsewhere))
    assert result == (recovered, list(range(missed)) if recovered else [])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("at", "result"),
    [
        (Place("", 0), (True, ["seen", 0, 1])),
        (Place("", 2), (True, [1])),
        (Place("", 3), (True, [])),
        (Place("", 4), (False, [])),
        (Place("", 10**15), (False, [])),
        (Place("another", 1), (False, [])),
    ],
    ids=["0", "2", "top", "above", "far-above", "epoch"],
)
def test_p03_where_one_was(stage: Stage, channel: str, door: str, at: Place, result: Result) -> None:
    """Any offset of this epoch up to the top, and nothing else."""
    assert asyncio.run(come_back(stage, door, channel, lambda api: publish(api, channel, 2), at)) == result


LOSSES: dict[str, Lose] = {
    "f04_flushall": lambda stage, channel: stage.store.flush(),
    "f05_meta": lambda stage, channel: stage.store.forget(channel, "meta"),
    "f05_stream": lambda stage, channel: stage.store.forget(channel, "stream"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("loss", LOSSES)
def test_p03_f05_what_the_store_forgot(stage: Stage, channel: str, door: str, loss: str) -> None:
    """Everything flushed, or one of a channel's keys evicted: told, and nothing of it replayed."""

    async def meanwhile(api: Api) -> None:
        await publish(api, channel, 2)
        await asyncio.to_thread(LOSSES[loss], stage, channel)

    assert asyncio.run(come_back(stage, door, channel, meanwhile, elsewhere=True)) == (False, [])


@pytest.mark.parametrize("loss", LOSSES)
def test_p03_f05_who_stays_is_told(stage: Stage, channel: str, loss: str) -> None:
    """A reader that is connected while keys vanish: the next publication comes behind a gap and in a new epoch; or,
    when only the stream is gone, as the next one of the same."""

    async def run() -> None:
        async with Api(stage.server) as api, PlainSocket(stage.server, [channel]) as reader:
            before = await api.publish(channel, "before")
            await reader.until(channel, 1)
            await asyncio.to_thread(LOSSES[loss], stage, channel)
            after = await api.publish(channel, "after")
            await eventually(lambda: reader.places[channel] == after)
            if loss == "f05_stream":
                assert (after, reader.gaps) == (Place(before.epoch, before.offset + 1), [])
                assert reader.data(channel) == ["before", "after"]
            else:
                assert after.epoch != before.epoch and reader.gaps[0]["epoch"] == after.epoch

    asyncio.run(run())
