"""The methods of the server API over a real store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from rt.broker import Broker, Member, StoreSettings
from rt.metrics import Metrics
from rt.protocol import control, session
from rt.protocol.options import Terms
from rt.protocol.publication import Publication
from rt.protocol.replies import client_info
from rt.web.api import Api
from tests.callers import CONFIG, FakeRequest, make_api
from tests.stores import Store
from tests.waiting import eventually

DATA = Terms(data=b"1")
FORCED: dict[str, Any] = {"code": 3503, "reason": "force disconnect"}

Call = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """One store for all tests here; each uses channels of its own."""
    with Store() as running:
        yield running


class Backend:
    """Calls the API of one worker. ``heard`` are the publications that came back from the store, ``told`` what it was
    told by a worker; it answers that ``counts`` are its channels."""

    def __init__(self, broker: Broker, api: Api) -> None:
        self.broker = broker
        self.heard: list[tuple[str, Publication]] = []
        self.told: list[control.Message | None] = []
        self.counts: dict[str, int] = {}
        self._api = api

    def obey(self, body: bytes) -> bytes:
        """As delivery does."""
        self.told.append(control.decode(body))
        return control.answer(self.counts)

    async def raw(self, name: str, params: Any) -> FakeRequest:
        """The request after it was answered."""
        body = params if isinstance(params, bytes) else json.dumps(params).encode()
        request = FakeRequest(f"/api/{name}", body, headers=[("X-API-Key", "k\xc3\xa9y")])
        self._api.door(cast(Any, request))
        await eventually(lambda: request.answers)
        return request

    async def call(self, name: str, **params: Any) -> Any:
        """The decoded answer."""
        return json.loads((await self.raw(name, params)).answers[0][1])


@contextlib.asynccontextmanager
async def backend(store: Store, *, timeout: float = 1.0, name: str = "w") -> AsyncIterator[Backend]:
    """A worker's broker and API on the store, connected."""
    broker = Broker(StoreSettings(url=store.url, timeout=timeout, probe_interval=0.2), worker=name)
    api = make_api(CONFIG, broker, Metrics())
    caller = Backend(broker, api)
    await broker.start(
        on_publication=lambda channel, publication: caller.heard.append((channel, publication)),
        on_change=lambda channel, change: None,
        on_removed=lambda channel: None,
        on_resumed=lambda: None,
        on_control=caller.obey,
    )
    try:
        await eventually(lambda: broker.ready)
        yield caller
    finally:
        await api.stop()
        await broker.stop()


def test_what_was_published_is_read_back_and_was_heard(store: Store, channel: str) -> None:
    """The payload is the same to the byte in history and on the way to subscribers; positions agree."""

    async def run() -> None:
        async with backend(store) as caller:
            await caller.broker.subscribe(channel)
            body = b'{"channel":"%b","data":{"n": 1.0,\n"s":"\\u2028"},"tags":{"k":"v"}}' % channel.encode()
            request = await caller.raw("publish", body)
            result = json.loads(request.answers[0][1])["result"]
            expected = b'{"data":{"n": 1.0,"s":"\\u2028"},"tags":{"k":"v"}'
            read = await caller.raw("history", {"channel": channel, "limit": -1})
            assert expected + b',"offset":1}' in read.answers[0][1]
            page = json.loads(read.answers[0][1])["result"]
            assert (page["offset"], page["epoch"]) == (1, result["epoch"]) and result["offset"] == 1
            await eventually(lambda: caller.heard)
            name, publication = caller.heard[0]
            assert (name, publication.body, publication.offset) == (channel, expected + b"}", 1)

    asyncio.run(run())


def test_history_forward_and_backward_beside_a_position(store: Store, channel: str) -> None:
    """since is exclusive in both directions, with or without its epoch; another epoch is error 112."""

    async def run() -> None:
        async with backend(store) as caller:
            for n in range(1, 6):
                await caller.call("publish", channel=channel, data=n)
            top = (await caller.call("history", channel=channel))["result"]
            assert (top["publications"], top["offset"]) == ([], 5)

            async def offsets(**options: Any) -> list[int]:
                answer = await caller.call("history", channel=channel, **options)
                return [publication["offset"] for publication in answer["result"]["publications"]]

            since = {"offset": 2, "epoch": top["epoch"]}
            assert await offsets(limit=-1) == [1, 2, 3, 4, 5]
            assert await offsets(limit=2, since=since) == [3, 4]
            assert await offsets(limit=-1, since={"offset": 2}) == [3, 4, 5]
            assert await offsets(limit=2, reverse=True) == [5, 4]
            assert await offsets(limit=-1, since=since, reverse=True) == [1]
            assert await offsets(limit=-1, since={"offset": 3}, reverse=True) == [2, 1]
            assert await offsets(limit=-1, since={"offset": 9, "epoch": top["epoch"]}) == []
            other = await caller.call("history", channel=channel, limit=0, since={"offset": 2, "epoch": "other"})
            assert other["error"]["code"] == 112

    asyncio.run(run())


def test_removing_a_history_keeps_the_position(store: Store, channel: str) -> None:
    """The next publication goes on counting where the last one was."""

    async def run() -> None:
        async with backend(store) as caller:
            first = await caller.call("publish", channel=channel, data=1)
            assert await caller.call("history_remove", channel=channel) == {"result": {}}
            page = (await caller.call("history", channel=channel, limit=-1))["result"]
            assert page == {"publications": []} | first["result"]
            second = await caller.call("publish", channel=channel, data=2)
            assert second["result"] == {"offset": 2, "epoch": first["result"]["epoch"]}

    asyncio.run(run())


def test_a_repeated_key_gives_the_first_result(store: Store, channel: str) -> None:
    """Over publish and broadcast, per channel, and with no second delivery; also where nothing is kept."""

    async def run() -> None:
        async with backend(store) as caller:
            live = f"live:{channel}"
            await asyncio.gather(caller.broker.subscribe(channel), caller.broker.subscribe(live))
            first = await caller.call("publish", channel=channel, data=1, idempotency_key="k")
            again = await caller.call("broadcast", channels=[channel, live], data=2, idempotency_key="k")
            assert again["result"]["responses"] == [first, {"result": {}}]
            assert await caller.call("publish", channel=live, data=3, idempotency_key="k") == {"result": {}}
            await caller.call("publish", channel=live, data=4)
            await eventually(lambda: len(caller.heard) == 3)
            assert [publication.body for _, publication in caller.heard] == [b'{"data":%d}' % n for n in (1, 2, 4)]

    asyncio.run(run())


def test_skipped_history_has_no_offset(store: Store, channel: str) -> None:
    """It is delivered and leaves no trace in the stream."""

    async def run() -> None:
        async with backend(store) as caller:
            await caller.broker.subscribe(channel)
            assert await caller.call("publish", channel=channel, data=1, skip_history=True) == {"result": {}}
            assert (await caller.call("publish", channel=channel, data=2))["result"]["offset"] == 1
            await eventually(lambda: len(caller.heard) == 2)
            assert [publication.offset for _, publication in caller.heard] == [0, 1]

    asyncio.run(run())


def test_an_older_version_is_held_back(store: Store, channel: str) -> None:
    """It is not delivered, and the answer is the newest position; another epoch of versions begins anew."""

    async def run() -> None:
        async with backend(store) as caller:
            await caller.broker.subscribe(channel)

            async def publish(data: int, version: int, epoch: str = "") -> int:
                fields = {"data": data, "version": version, "version_epoch": epoch}
                return cast(int, (await caller.call("publish", channel=channel, **fields))["result"]["offset"])

            assert [await publish(1, 5, "a"), await publish(2, 5, "a"), await publish(3, 4), await publish(4, 6)] == [
                *(1, 1, 1, 2)
            ]
            assert [await publish(5, 2**64 - 1, "a"), await publish(6, 2**64 - 2, "a")] == [3, 3]
            assert await publish(7, 1, "b") == 4
            await eventually(lambda: len(caller.heard) == 4)
            assert [publication.body for _, publication in caller.heard] == [b'{"data":%d}' % n for n in (1, 4, 5, 7)]

    asyncio.run(run())


def test_presence_of_a_channel_is_that_of_the_store(store: Store, channel: str) -> None:
    """Who entered is listed, and counted by connections and by users."""

    async def run() -> None:
        async with backend(store) as caller:
            room = f"room:{channel}"
            assert await caller.call("presence", channel=room) == {"result": {"presence": {}}}
            infos = {client: client_info(user, client, b'{"n":1}') for client, user in (("c1", "u"), ("c2", "u"))}
            await caller.broker.enter(
                room, [Member(client, "u", info) for client, info in infos.items()], announce=False
            )
            members = {client: json.loads(info) for client, info in infos.items()}
            assert await caller.call("presence", channel=room) == {"result": {"presence": members}}
            assert await caller.call("presence_stats", channel=room) == {"result": {"num_clients": 2, "num_users": 1}}
            await caller.broker.leave(room, "c1", announce=False)
            assert (await caller.call("presence", channel=room))["result"]["presence"].keys() == {"c2"}

    asyncio.run(run())


def timeless(message: control.Message | None) -> control.Message | None:
    """Without the moment at which it was said."""
    if isinstance(message, control.UnsubscribeUser | control.RefreshUser):
        return msgspec.structs.replace(message, at=0.0)
    return message


def test_what_is_done_to_a_user_reaches_every_worker_once(store: Store, channel: str) -> None:
    """Each worker is told before the caller has its answer, in the order of the calls; what lasts is in the session."""

    async def run() -> None:
        user = f"user of {channel} {{}}"
        async with backend(store, name="w1") as caller, backend(store, name="w2") as other:
            calls: list[tuple[str, dict[str, Any], control.Message]] = [
                ("subscribe", {"channel": channel}, control.SubscribeUser(user=user, channel=channel)),
                ("subscribe", {"channel": "b", "data": 1}, control.SubscribeUser(user=user, channel="b", terms=DATA)),
                ("refresh", {"info": 2}, control.RefreshUser(user=user, info=b"2")),
                ("unsubscribe", {"channel": channel}, control.UnsubscribeUser(user=user, channel=channel)),
                ("disconnect", {"client": "c"}, control.DisconnectUser(user=user, client="c", **FORCED)),
            ]
            for number, (name, params, _) in enumerate(calls, 1):
                assert await caller.call(name, user=user, **params) == {"result": {}}
                assert len(caller.told) == len(other.told) == number
            assert caller.told == other.told
            assert [timeless(message) for message in caller.told] == [message for _, _, message in calls]
            kept = session.decode(await other.broker.session(user), 0.0)
            assert (kept.subs, kept.info, list(kept.off)) == ({"b": DATA}, b"2", [channel])
            await other.call("unsubscribe", user=user)
            kept = session.decode(await other.broker.session(user), 0.0)
            assert (kept.subs, list(kept.off)) == ({}, [""])

    asyncio.run(run())


def test_channels_are_those_of_all_workers(store: Store) -> None:
    """Each answers for itself, and the caller gets the sum."""

    async def run() -> None:
        async with backend(store, name="w3") as caller, backend(store, name="w4") as other:
            caller.counts, other.counts = {"a": 1, "b": 2}, {"b": 3}
            answer = await caller.call("channels", pattern="*")
            assert answer == {"result": {"channels": {"a": {"num_clients": 1}, "b": {"num_clients": 5}}}}
            assert caller.told == other.told == [control.ListChannels(pattern="*")]

    asyncio.run(run())


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_of_a_thousand(store: Store, channel: str, parallel: bool) -> None:
    """The most that fits is carried out, in order when it is serial."""

    async def run() -> None:
        async with backend(store) as caller:
            commands = [{"publish": {"channel": channel, "data": n}} for n in range(1000)]
            replies = (await caller.call("batch", commands=commands, parallel=parallel))["replies"]
            offsets = [reply["publish"]["offset"] for reply in replies]
            assert sorted(offsets) == list(range(1, 1001))
            assert parallel or offsets == sorted(offsets)

    asyncio.run(run())


def test_the_largest_broadcast_passes(store: Store, channel: str) -> None:
    """A thousand channels with all the bytes that are allowed fit into what may wait for the store."""

    async def run() -> None:
        async with backend(store, timeout=20.0) as caller:
            channels = [f"{channel}-{n}" for n in range(1000)]
            answer = await caller.call("broadcast", channels=channels, data="x" * 8300)
            assert [entry["result"]["offset"] for entry in answer["result"]["responses"]] == [1] * 1000

    asyncio.run(run())


def test_info_tells_of_registered_workers(store: Store) -> None:
    """A worker that said it lives is listed with what it said."""

    async def run() -> None:
        async with backend(store) as caller:
            await caller.broker.register(b'{"uid":"w-1","name":"w","num_clients":2}', 30.0)
            nodes = (await caller.call("info"))["result"]["nodes"]
            assert {"uid": "w-1", "name": "w", "num_clients": 2} in nodes

    asyncio.run(run())


def test_without_a_store_every_method_fails_fast(channel: str) -> None:
    """Error 100 with the time to come back, and the same call is served again when the store is back."""

    async def run() -> None:
        with Store() as store:
            async with backend(store) as caller:
                with store.down():
                    await eventually(lambda: not caller.broker.status().connected)
                    for name, params in (
                        ("publish", {"data": 1}),
                        ("history", {"since": {"offset": 1}}),
                        ("history_remove", {}),
                        ("info", {}),
                        ("presence", {"channel": f"room:{channel}"}),
                        ("presence_stats", {"channel": f"room:{channel}"}),
                        ("channels", {}),
                        ("subscribe", {"user": "42"}),
                        ("unsubscribe", {"user": "42"}),
                        ("unsubscribe", {"user": "42", "channel": ""}),
                        ("disconnect", {"user": "42"}),
                        ("refresh", {"user": "42", "info": 1}),
                        ("refresh", {"user": "42"}),
                    ):
                        request = await caller.raw(name, {"channel": channel} | params)
                        assert json.loads(request.answers[0][1])["error"]["code"] == 100, name
                        assert request.sent["Retry-After"] == "1"
                await eventually(lambda: caller.broker.status().connected)
                assert (await caller.call("publish", channel=channel, data=1))["result"]["offset"] == 1

    asyncio.run(run())
