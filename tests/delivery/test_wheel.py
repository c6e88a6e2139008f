"""The timing wheel on a loop's real clock, with ticks of a millisecond."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.delivery.wheel import Wheel

TICK = 0.001


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.floats(-0.01, 0.02), st.booleans()), max_size=20))
def test_every_alarm_rings_once_and_not_before_its_time(alarms: list[tuple[float, bool]]) -> None:
    """Those that were cancelled do not; those of the past ring with the next tick."""

    async def run() -> None:
        wheel, rung = Wheel(TICK), dict[int, list[float]]()
        wheel.start()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for index, (wait, cancelled) in enumerate(alarms):
            alarm = wheel.at(begun + wait, lambda now, index=index: rung.setdefault(index, []).append(now))  # type: ignore[misc]
            if cancelled:
                alarm.cancel()
        await asyncio.sleep(0.03)
        wheel.stop()
        assert set(rung) == {index for index, (_, cancelled) in enumerate(alarms) if not cancelled}
        assert all(len(times) == 1 and times[0] >= begun + alarms[index][0] for index, times in rung.items())

    asyncio.run(run())


def test_a_deadline_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the wheel turns on; after the stop nothing rings."""

    async def run() -> None:
        wheel, rung = Wheel(TICK), list[float]()
        wheel.start()
        now = asyncio.get_running_loop().time()
        wheel.at(now, lambda now: [][0])
        wheel.at(now, rung.append)
        wheel.at(now + 0.05, rung.append)
        await asyncio.sleep(0.02)
        wheel.stop()
        await asyncio.sleep(0.05)
        assert len(rung) == 1

    with caplog.at_level(logging.ERROR, "rt.delivery"):
        asyncio.run(run())
    assert [record.message for record in caplog.records] == ["a deadline failed"]
