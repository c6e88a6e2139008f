"""The bucket for new connections, and the room before it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.config import Connections, Limits
from rt.delivery.buckets import Bucket
from rt.delivery.gate import AT_ONCE, Gate, depth
from rt.delivery.hub import Hub
from tests.delivery.hubs import MemoryStore, config, finish, make_hub, run

steps = st.lists(st.sampled_from([0.0, 0.01, 0.125, 0.5, 1.0, 30.0]), max_size=80)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([0.25, 1.0, 3.0, 10.0]), steps)
def test_no_stretch_of_time_lets_more_in_than_the_rate(rate: float, waits: list[float]) -> None:
    """In any stretch: what may be saved and what comes meanwhile; and one who waited a token's time gets it."""
    now, taken = 100.0, list[float]()
    bucket = Bucket(rate, now)
    for wait in waits:
        now += wait
        if bucket.take(now):
            taken.append(now)
        else:
            assert wait * rate < 1
    for first, since in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= max(rate, 1.0) + (taken[last] - since) * rate + 1e-6


def test_a_rate_of_nothing_is_no_limit() -> None:
    """Zero switches the bucket off."""
    bucket = Bucket(0, 0.0)
    assert all(bucket.take(0.0) for _ in range(1000))


def test_what_may_come_at_once() -> None:
    """A second's worth where that is little, a tenth of one where it is much: the loop must turn meanwhile."""
    assert [depth(rate) for rate in (0.5, 5, 20, 100, 1000)] == [0.5, 5, AT_ONCE, AT_ONCE, 100]


def limited(**limits: Any) -> tuple[Hub, Gate]:
    """A worker with these limits of connections."""
    settings = msgspec.structs.replace(config(), limits=Limits(connections=Connections(**limits)))
    hub = make_hub(MemoryStore(), settings)
    return hub, Gate(hub)


def came(order: list[int], number: int, _: asyncio.Future[None]) -> None:
    """Note who it was."""
    order.append(number)


def test_who_comes_too_fast_waits_in_order() -> None:
    """The rate is kept, nobody overtakes, and one more than the room holds is refused at once."""

    async def test() -> None:
        hub, gate = limited(new_per_second=50, wait=0.2)
        assert [gate.turn() for _ in range(AT_ONCE)] == [None] * AT_ONCE
        began, order = hub.now(), list[int]()
        turns = [gate.turn() for _ in range(12)]
        waiting = [turn for turn in turns if isinstance(turn, asyncio.Future)]
        assert turns[10:] == ["rate", "rate"] and len(waiting) == gate.waiting == 10
        for number, turn in enumerate(waiting):
            turn.add_done_callback(partial(came, order, number))
        await asyncio.gather(*waiting)
        assert order == list(range(10)) and gate.waiting == 0
        assert hub.now() - began > 9 / 50
        assert (hub.tally.waits, hub.tally.refusals["rate"]) == (10, 2)
        await finish(hub)

    run(test)


def test_who_leaves_the_room_makes_room() -> None:
    """And costs those behind it nothing."""

    async def test() -> None:
        hub, gate = limited(new_per_second=4, wait=0.5)
        assert [gate.turn() for _ in range(4)] == [None] * 4
        first, second = gate.turn(), gate.turn()
        assert isinstance(first, asyncio.Future) and isinstance(second, asyncio.Future)
        assert gate.turn() == "rate"
        began = hub.now()
        first.cancel()
        await asyncio.sleep(0)
        assert gate.waiting == 1
        await second
        assert hub.now() - began < 0.4
        await finish(hub)

    run(test)


def test_without_a_wait_nobody_waits() -> None:
    """``wait: 0s`` refuses, and so does a door that cannot wait."""

    async def test() -> None:
        for limits, patient in (({"wait": 0.0}, True), ({"wait": 5.0}, False)):
            hub, gate = limited(new_per_second=1, **limits)
            assert gate.turn() is None
            assert gate.turn(patient=patient) == "rate"
            await finish(hub)

    run(test)


def test_a_worker_that_leaves_lets_all_go() -> None:
    """Nobody is kept waiting for a turn that does not come."""

    async def test() -> None:
        hub, gate = limited(new_per_second=1, wait=60.0)
        assert gate.turn() is None
        waiting = [gate.turn() for _ in range(20)]
        hub.leaving = True
        gate.let_go()
        await asyncio.gather(*(turn for turn in waiting if isinstance(turn, asyncio.Future)))
        assert gate.waiting == 0 and gate.refusal("") == "leaving"
        await finish(hub)

    run(test)
