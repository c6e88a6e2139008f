"""Measured input: everything is handed on, in order, at its rate, and nothing is read meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
from functools import partial
from unittest.mock import patch

import pytest

from rt.config import Rate
from rt.delivery.connection import Connection
from rt.delivery.hub import Hub
from rt.errors import SERVER_ERROR
from rt.web.intake import Intake
from rt.web.sse import Discard
from rt.web.websocket import Reader
from tests.delivery.hubs import Sdk, finish, run, token, turns
from tests.delivery.test_limits import Shared, hub_of, rule
from tests.raw import PING, TEXT, frame
from tests.waiting import eventually


def client_of(store: Shared, *rules: object, burst: int = 10) -> Sdk:
    """A connection that may send so many messages, and a hundred a second."""
    hub = hub_of(store, rule("message", "connection", burst, Rate(100.0, 1.0)))
    return Sdk(hub, token())


def test_it_is_handed_on_in_order_at_its_rate() -> None:
    """What is more than the bucket holds waits here; then reading goes on."""

    async def test() -> None:
        client = client_of(Shared())
        connection, got = client.connection, list[int]()
        intake = Intake(connection, got.append, lambda item: 1)
        began = connection.hub.now()
        intake.take(range(15), 15)
        assert got == list(range(10)) and intake.holds
        intake.take(range(15, 20), 5)  # a stream that had begun to read cannot take it back
        await eventually(lambda: not intake.holds)
        assert got == list(range(20))
        assert connection.hub.now() - began >= 0.095
        assert connection.hub.metrics._limited[("message", "connection", "-")] >= 1
        await finish(connection.hub)

    run(test)


def test_a_frame_of_many_commands_is_as_many_messages() -> None:
    """More than the bucket holds at once pass when it is full, and are a debt."""

    async def test() -> None:
        client = client_of(Shared())
        reader = Reader(client.connection, 65536, text_only=True)
        lines = b"\n".join(b'{"id":%d,"unsubscribe":{"channel":"a"}}' % n for n in range(10, 40))
        began = client.connection.hub.now()
        reader.received(frame(TEXT, lines) + frame(TEXT, b'{"id":40,"unsubscribe":{"channel":"a"}}'))
        client.read()
        assert [message["id"] for message in client.heard[1:]] == list(range(10, 40)) and reader.busy
        await eventually(lambda: client.read() or len(client.heard) == 32)
        assert client.connection.hub.now() - began >= 0.19
        assert not reader.busy
        await finish(client.connection.hub)

    run(test)


@pytest.mark.parametrize("ended", ["closed", "lost"])
def test_one_that_ends_hands_on_nothing_more(ended: str) -> None:
    """And is let go."""

    async def test() -> None:
        client = client_of(Shared())
        connection, got = client.connection, list[int]()
        intake = Intake(connection, got.append, lambda item: 1)
        intake.take(range(100), 100)
        connection.broken()
        await eventually(lambda: not intake.holds)
        assert len(got) <= 11
        await finish(connection.hub)

    run(test)


def test_silence_is_no_sign_of_death_while_nothing_is_read() -> None:
    """The pong that is due may stand behind what waits: its deadline rests, also where a command waits too."""

    async def test() -> None:
        client = client_of(Shared(), burst=5)
        connection = client.connection
        heartbeat = connection.heartbeat
        assert heartbeat is not None
        reader = Reader(connection, 65536, text_only=True)
        reader.received(frame(PING) * 30)
        assert reader.busy and heartbeat.resting
        await eventually(lambda: not reader.busy)
        assert not heartbeat.resting
        await finish(connection.hub)

    run(test)


def test_a_heartbeat_that_begins_while_nothing_is_read_rests_too() -> None:
    """A connect that must ask is answered later; the first pong then stands behind what waits."""

    async def test() -> None:
        store = Shared()
        connect = rule("connect", "user", 5, shared=True)
        hub = hub_of(store, rule("message", "connection", 1, Rate(10.0, 1.0)), connect)
        client = Sdk(hub, connect=False)
        connection = client.connection
        reader = Reader(connection, 65536, text_only=True)
        reader.received(frame(TEXT, json.dumps({"id": 1, "connect": {"token": token()}}).encode()) + frame(PING) * 10)
        assert reader.busy and connection.heartbeat is None
        await turns(store, 20)
        heartbeat = connection.heartbeat
        assert heartbeat is not None
        await eventually(lambda: reader.busy and heartbeat.resting, 2)
        await eventually(lambda: not reader.busy)
        assert not heartbeat.resting
        await finish(hub)

    run(test)


def test_an_event_stream_is_not_read_faster_than_it_may() -> None:
    """Although what it sends is for nobody."""

    async def test() -> None:
        hub = hub_of(Shared(), rule("bytes", "connection", 1000, Rate(10_000.0, 1.0)))
        client = Sdk(hub, token())
        door = Discard(client.connection)
        door.received(b"x" * 1500)
        assert door.busy
        began = hub.now()
        await eventually(lambda: not door.busy)
        assert 0.03 < hub.now() - began < 0.5
        await finish(hub)

    run(test)


def test_a_reload_that_takes_the_limit_away_lets_all_go_on() -> None:
    """What was held is handed on with the next look."""

    async def test() -> None:
        hub = hub_of(Shared(), rule("message", "connection", 1, Rate(1.0, 3600.0)))
        client = Sdk(hub, token())
        got = list[int]()
        intake = Intake(client.connection, got.append, lambda item: 1)
        intake.take(range(1000), 1000)
        hub.limits.reload(hub_of(Shared()).config.limits)
        assert not hub.limits.measured
        await eventually(lambda: len(got) == 1000, 2)
        await finish(hub)

    run(test)


def test_two_connections_of_one_user_share_what_comes() -> None:
    """Both go on; together they are not faster than one."""

    async def test() -> None:
        hub = hub_of(Shared(), rule("message", "user", 10, Rate(200.0, 1.0)))
        got: list[tuple[int, int]] = []
        began = hub.now()

        def note(number: int, item: int) -> None:
            got.append((number, item))

        for number in range(2):
            intake = Intake(Sdk(hub, token()).connection, partial(note, number), lambda item: 1)
            intake.take(range(30), 30)
        await eventually(lambda: len(got) == 60)
        assert hub.now() - began >= 0.24
        assert [item for n, item in got if n == 1] == list(range(30))
        await asyncio.sleep(0)
        await finish(hub)

    run(test)


@pytest.mark.parametrize("when", ["while it is held", "when it goes on"])
@pytest.mark.parametrize("door", ["websocket", "sse"])
def test_one_that_was_held_is_no_garbage(door: str, when: str) -> None:
    """It goes when its connection does: what garbage collection would have to find can wait for hours."""

    async def held(hub: Hub) -> None:
        connection = Sdk(hub, token()).connection
        reader = Reader(connection, 65536, text_only=True) if door == "websocket" else Discard(connection)
        reader.received(frame(PING))
        reader.received(frame(PING))
        assert reader.busy
        if when == "when it goes on":
            await eventually(lambda: not reader.busy)
        connection.broken()

    async def test() -> None:
        hub = hub_of(Shared(), rule("message", "connection", 1, Rate(50.0, 1.0)))
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await held(hub)
            await asyncio.sleep(0.1)
            gc.collect()
            assert [one for one in gc.garbage if isinstance(one, Connection | Intake | Reader | Discard)] == []
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()
            await finish(hub)

    run(test)


def test_a_crowd_that_waits_for_one_bucket_does_not_look_at_every_token() -> None:
    """Three hundred of one address: nothing of the rate is lost, and none looks hundreds of times a second in vain."""

    async def test() -> None:
        hub = hub_of(Shared(), rule("message", "ip", 20, Rate(200.0, 1.0)))
        got, looks = list[int](), 0

        def cost(item: int) -> int:
            nonlocal looks
            looks += 1
            return 1

        began = hub.now()
        for _ in range(300):
            connection = Sdk(hub, token()).connection
            connection.came_from("192.0.2.1")
            Intake(connection, got.append, cost).take(range(100), 100)
        looks = 0
        await asyncio.sleep(2.0)
        took = hub.now() - began
        assert 0.7 * 200 * took <= len(got) <= 20 + 200 * took + 1
        assert looks < 300 * 8 * took, looks / took
        await finish(hub)

    run(test)


@pytest.mark.parametrize("measured", [False, True])
def test_a_fault_of_the_server_ends_the_connection(measured: bool) -> None:
    """With a reason, measured or not: a command is not waited for in vain, and a socket does not stay paused."""

    async def test() -> None:
        store = Shared()
        client = client_of(store, burst=1) if measured else Sdk(hub_of(store), token())
        reader = Reader(client.connection, 65536, text_only=True)
        line = b'{"id":9,"send":{"data":{}}}'
        reader.received(frame(TEXT, line) * 2)
        with patch.object(type(client.connection), "message", side_effect=RuntimeError("a fault")):
            reader.received(frame(TEXT, line))
            await eventually(lambda: client.connection.closed)
        assert client.code == SERVER_ERROR.code and not reader.busy
        await finish(client.connection.hub)

    run(test)
