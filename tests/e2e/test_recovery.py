"""Who comes back gets exactly what was missed, on any worker and over any door, or is told that it cannot."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.clients import Api, Ended, Place, PlainSocket, Received, Reply, SdkClient, on_worker, publish_all
from tests.doors import DOORS, enter, enter_elsewhere, everything
from tests.eventsource import EventSource
from tests.servers import Server
from tests.waiting import eventually


@pytest.mark.parametrize("door", DOORS)
def test_on_another_worker(server: Server, channel: str, door: str) -> None:
    """A reader that comes back on the other worker gets what it missed, then what is new, in order and once."""

    async def run() -> None:
        async with Api(server) as api:
            first = await enter(door, server, [channel])
            sent = await publish_all(lambda payload: api.publish(channel, payload), 3)
            await first.until(channel, 3)
            await first.close()
            sent += await publish_all(lambda payload: api.publish(channel, payload), 5, 3)
            second = await enter_elsewhere(door, server, [channel], previous=first, node=first.node)
            await second.until(channel, 5)
            sent += await publish_all(lambda payload: api.publish(channel, payload), 2, 8)
            await second.until(channel, 7)
            assert everything([first, second], channel) == sent
            await second.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_after_its_worker_is_killed(own_server: Server, channel: str, door: str) -> None:
    """kill -9 of its worker costs a reader nothing that was accepted."""

    async def run() -> None:
        async with Api(own_server) as api:
            first = await enter(door, own_server, [channel])
            sent = await publish_all(lambda payload: api.publish(channel, payload), 3)
            await first.until(channel, 3)
            worker = first.worker()
            await api.leave_worker(worker)
            own_server.kill_worker(worker)
            sent += await publish_all(lambda payload: api.publish(channel, payload), 5, 3)
            await eventually(lambda: first.gone, what="the connection is lost")
            second = await enter(door, own_server, [channel], previous=first)
            sent += await publish_all(lambda payload: api.publish(channel, payload), 2, 8)
            await second.until(channel, 7)
            assert everything([first, second], channel) == sent
            await second.close()
            own_server.wait_workers()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("missed", "recovered"), [(0, True), (1, True), (5, True), (6, False), (20, False)])
def test_up_to_what_history_holds(server: Server, channel: str, door: str, missed: int, recovered: bool) -> None:
    """With five kept, five missed are recovered whole; of six, none, and the reader is told and goes on live."""

    async def run() -> None:
        short = f"short:{channel}"
        async with Api(server) as api:
            await api.publish(short, "first")
            first = await enter(door, server, [short])
            await api.publish(short, "second")
            await first.until(short, 1)
            await first.close()
            await publish_all(lambda payload: api.publish(short, payload), missed)
            second = await enter(door, server, [short], previous=first)
            top = await api.publish(short, "last")
            await eventually(lambda: second.data(short)[-1:] == ["last"])
            expected = [{"n": number} for number in range(missed)] if recovered else []
            assert second.data(short) == [*expected, "last"]
            assert told_recovered(second, short) is recovered
            if not recovered and door != "sdk":
                assert second.gaps[0] == {"channel": short, "epoch": top.epoch, "offset": top.offset - 1}
            await second.close()

    asyncio.run(run())


def told_recovered(reader: object, channel: str) -> bool:
    """Whether a reader that came back was told that nothing is missing."""
    if isinstance(reader, SdkClient):
        return any(one["do"] == "subscribed" and one["recovered"] for one in reader.records)
    assert isinstance(reader, PlainSocket | EventSource)
    subscribed = reader.connected["subs"][channel]
    assert subscribed["was_recovering"] is True
    assert bool(reader.gaps) is not bool(subscribed.get("recovered"))
    return bool(subscribed.get("recovered"))


def test_the_reply_of_a_recovery(server: Server, channel: str) -> None:
    """The reply names the position that was asked from, not the top: SDKs advance from it by each publication."""

    async def run() -> None:
        async with Api(server) as api, SdkClient(server) as client:
            epoch = [await api.publish(channel, {"n": number}) for number in range(4)][-1].epoch
            result = await client.subscribe(channel, since=Place(epoch, 1))
            publications = result.pop("publications")
            assert [one["offset"] for one in publications] == [2, 3, 4]
            assert result == {
                "epoch": epoch,
                "offset": 1,
                "recoverable": True,
                "positioned": True,
                "was_recovering": True,
                "recovered": True,
            }

    asyncio.run(run())


@pytest.mark.parametrize("place", [Place("other", 2), Place("", 99), None])
def test_what_cannot_be_recovered(server: Server, channel: str, place: Place | None) -> None:
    """Another epoch, and a position above the top, are answered with the top and nothing else."""

    async def run() -> None:
        async with Api(server) as api, SdkClient(server) as client:
            epoch = [await api.publish(channel, {"n": number}) for number in range(4)][-1].epoch
            result = await client.subscribe(channel, since=place or Place(epoch, 5))
            assert (result.get("recovered", False), result["was_recovering"]) == (False, True)
            assert (result["epoch"], result["offset"], result.get("publications", [])) == (epoch, 4, [])
            with pytest.raises(Reply, match="^112 "):
                await client.unsubscribe(channel)
                await client.subscribe(channel, since=Place("other", 2), flag=2)

    asyncio.run(run())


def test_cache_mode_gives_the_newest_only(server: Server, channel: str) -> None:
    """In a cache channel only the newest publication counts, and a first subscribe may ask for it."""

    async def run() -> None:
        cache = f"cache:{channel}"
        async with Api(server) as api, SdkClient(server) as client:
            await publish_all(lambda payload: api.publish(cache, payload), 4)
            result = await client.subscribe(cache, since=Place("", 0))
            assert result["recovered"] is True
            assert client.data(cache) == [{"n": 3}]
            await api.publish(cache, "next")
            assert await client.until(cache, 2) == [{"n": 3}, "next"]

    asyncio.run(run())


@pytest.mark.parametrize("how", ["header", "since", "last_event_id", "lastEventId"])
def test_two_channels_of_one_stream(server: Server, channel: str, how: str) -> None:
    """One cursor resumes both channels of a stream on the other worker, however it is handed over."""

    async def run() -> None:
        one, two = f"{channel}-1", f"{channel}-2"
        async with Api(server) as api, EventSource(server, [one, two]) as first:
            await api.publish(one, 1)
            await api.publish(two, 1)
            await api.publish(two, 2)
            await first.until(two, 2)
            await first.until(one, 1)
            await first.close()
            for number in (2, 3):
                await api.publish(one, number)
            await api.publish(two, 3)

            def again() -> EventSource:
                if how == "header":
                    return EventSource(server, [one, two], last_event_id=first.cursor)
                return EventSource(server, [one, two], query=f"{how}={quote(first.cursor)}")

            second = await on_worker(again, lambda node: node != first.node)
            await second.until(one, 2)
            await second.until(two, 1)
            assert (second.data(one), second.data(two), second.gaps) == ([2, 3], [3], [])
            assert second.cursor == f"{second.places[one].epoch}.3,{second.places[two].epoch}.3"
            await second.close()

    asyncio.run(run())


def test_every_event_has_a_cursor_that_holds(server: Server, channel: str) -> None:
    """Coming back with the id of any event of a stream gives exactly what came behind that event."""

    async def run() -> None:
        one, two = f"{channel}-1", f"{channel}-2"
        async with Api(server) as api, EventSource(server, [one, two]) as whole:
            for number in range(4):
                await api.publish(one, number)
                await api.publish(two, number)
            await whole.until(one, 4)
            await whole.until(two, 4)
            for index, event in enumerate(whole.events):
                await judge_cursor(server, [one, two], event.id, whole.received[index:], whole.cursor)

    asyncio.run(run())


async def judge_cursor(
    server: Server, channels: list[str], cursor: str, behind: list[Received], last_cursor: str
) -> None:
    """A stream that starts with ``cursor`` must give ``behind``, channel by channel, and end at ``last_cursor``."""
    async with EventSource(server, channels, last_event_id=cursor) as again:
        await eventually(lambda: len(again.received) >= len(behind), what="everything behind the event")
        for channel in channels:
            assert again.data(channel) == [got.data for got in behind if got.channel == channel]
        assert again.cursor == last_cursor


def test_a_cursor_is_valid_over_the_other_door(server: Server, channel: str) -> None:
    """A reader may leave as a WebSocket and come back as an event stream, and the other way round."""

    async def run() -> None:
        async with Api(server) as api:
            async with PlainSocket(server, [channel]) as first:
                await api.publish(channel, 1)
                await first.until(channel, 1)
            await api.publish(channel, 2)
            async with EventSource(server, [channel], last_event_id=first.cursor) as second:
                assert await second.until(channel, 1) == [2]
            await api.publish(channel, 3)
            async with PlainSocket(server, [channel], since=second.cursor) as third:
                assert await third.until(channel, 1) == [3]
                assert third.gaps == []

    asyncio.run(run())


def test_a_channel_without_history_has_no_place_in_the_cursor(server: Server, channel: str) -> None:
    """It is a dash, and coming back with it asks for nothing on that channel."""

    async def run() -> None:
        volatile = f"live:{channel}"
        async with Api(server) as api, EventSource(server, [volatile, channel]) as first:
            place = await api.publish(channel, 1)
            await first.until(channel, 1)
            assert first.cursor == f"-,{place.epoch}.1"
            await first.close()
            await api.publish(channel, 2)
            async with EventSource(server, [volatile, channel], last_event_id=first.cursor) as second:
                assert await second.until(channel, 1) == [2]
                await api.publish(volatile, "now")
                assert await second.until(volatile, 1) == ["now"]
                assert second.gaps == []

    asyncio.run(run())


@pytest.mark.parametrize(
    "cursor", ["x", "a.b", ".1", "e.-1", "e.1,e.2", "e.1" * 400, "e.99999999999999999999", "\u00fc.1", "e.1\u0000", "-"]
)
def test_a_forged_cursor_grants_nothing(server: Server, channel: str, cursor: str) -> None:
    """What is no cursor of this request is refused, or answered with a gap: never with an error of the server."""

    async def run() -> None:
        async with Api(server) as api:
            await api.publish(channel, "before")
            try:
                async with EventSource(server, [channel], query=f"since={quote(cursor)}") as stream:
                    assert stream.data(channel) == []
                    await api.publish(channel, "after")
                    assert await stream.until(channel, 1) == ["after"]
            except Ended as refused:
                assert refused.code == 400

    asyncio.run(run())


def test_history_remove_is_no_gap_for_who_is_there(server: Server, channel: str) -> None:
    """Removing history keeps epoch and offsets: who is live misses nothing, who comes back behind it is told."""

    async def run() -> None:
        async with Api(server) as api:
            first = await enter("ws", server, [channel])
            live = await enter("ws", server, [channel])
            await api.publish(channel, 1)
            await first.until(channel, 1)
            await first.close()
            await api.publish(channel, 2)
            await api.call("history_remove", channel=channel)
            assert (await api.publish(channel, 3)).offset == 3
            assert await live.until(channel, 3) == [1, 2, 3]
            second = await enter("ws", server, [channel], previous=first)
            await eventually(lambda: second.gaps)
            assert second.gaps[0]["offset"] == 3
            await second.close()
            await live.close()

    asyncio.run(run())
