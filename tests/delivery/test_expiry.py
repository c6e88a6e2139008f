"""Rights end when the wall clock says so, in their order, whatever was cancelled or set meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.delivery.expiry import Expiry, told
from rt.delivery.wheel import Callback


class Hand:
    """A wheel that is turned by hand: what is due is the look that was asked for last."""

    def __init__(self) -> None:
        self.callback: Callable[[float], None] | None = None

    def at(self, moment: float, callback: Callback) -> object:
        """There is one at a time."""
        self.callback = callback
        return object()

    def turn(self) -> None:
        """The time has come."""
        assert self.callback is not None
        self.callback(0.0)


class Clock:
    """A wall clock that may be set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def started() -> tuple[Expiry, Hand, Clock]:
    """An expiry by a clock and a wheel of the test's."""
    hand, clock = Hand(), Clock()
    expiry = Expiry(hand, clock)  # type: ignore[arg-type]
    expiry.start(0.0)
    return expiry, hand, clock


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60), st.integers(0, 60))
def test_what_is_over_ends_once_in_order_and_nothing_else(ends: list[tuple[int, bool]], passed: int) -> None:
    """Those that were cancelled do not end."""
    expiry, hand, clock = started()
    ended: list[int] = []
    for after, cancelled in ends:
        alarm = expiry.at(1000.0 + after, lambda _, after=after: ended.append(after))  # type: ignore[misc]
        if cancelled:
            alarm.cancel()
            alarm.cancel()
    clock.now += passed
    hand.turn()
    hand.turn()
    assert ended == sorted(after for after, cancelled in ends if not cancelled and after <= passed)


def test_a_clock_that_is_set_decides() -> None:
    """Ten minutes back: not over yet. Forward: over at the next look."""
    expiry, hand, clock = started()
    ended: list[float] = []
    expiry.at(1060.0, ended.append)
    clock.now = 460.0
    hand.turn()
    assert not ended
    clock.now = 1660.0
    hand.turn()
    assert ended == [1660.0]


def test_what_is_cancelled_is_swept() -> None:
    """Refreshing for ever leaves no heap of old ends."""
    expiry, hand, clock = started()
    for n in range(10_000):
        expiry.at(5000.0 + n, lambda _: None).cancel()
    assert len(expiry._heap) < 4096
    clock.now = 20_000.0
    hand.turn()
    assert not expiry._heap


def test_one_that_fails_does_not_stop_the_looking() -> None:
    """The next look comes all the same, and finds the rest."""
    expiry, hand, clock = started()
    ended: list[float] = []

    def fail(_: float) -> None:
        raise LookupError

    expiry.at(1001.0, fail)
    expiry.at(1002.0, ended.append)
    clock.now = 1005.0
    with pytest.raises(LookupError):
        hand.turn()
    hand.turn()
    assert ended == [1005.0]


@pytest.mark.parametrize(
    ("left", "ttl"), [(3600.0, 3575), (100.0, 75), (40.0, 30), (8.0, 6), (1.4, 1), (0.2, 1), (-5.0, 1)]
)
def test_a_client_is_told_to_come_before_the_end(left: float, ttl: int) -> None:
    """A quarter of what is left, at most 25 s, is for fetching the fresh token; never nothing."""
    assert told(1000.0 + left, 1000.0) == ttl


def test_a_stopped_one_looks_no_more() -> None:
    """On a real wheel."""
    from rt.delivery.wheel import Wheel

    async def run() -> None:
        wheel = Wheel(0.005)
        wheel.start()
        expiry, ended = Expiry(wheel, lambda: 1.0), list[float]()
        expiry.start(asyncio.get_running_loop().time())
        expiry.at(0.5, ended.append)
        async with asyncio.timeout(5):
            while not ended:
                await asyncio.sleep(0.01)
        expiry.stop()
        assert not any(alarm.callback for alarms in wheel._slots.values() for alarm in alarms)
        wheel.stop()

    asyncio.run(run())
