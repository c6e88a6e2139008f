"""Measured input: everything is handed on, in order, at its rate, and nothing is read meanwhile."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from rt.config import Rate
from rt.web.intake import Intake
from rt.web.sse import Discard
from rt.web.websocket import Reader
from tests.delivery.hubs import Sdk, finish, run, token
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
