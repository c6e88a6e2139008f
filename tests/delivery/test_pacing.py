"""Paces: readers whose flushes take some time, by a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.config import Pacing
from rt.delivery.pacing import CALM, Pace, wait

PACING = Pacing(first=0.5, factor=2.0, max=8.0)


def flushes(times: list[float], pacing: Pacing = PACING) -> list[tuple[float, int]]:
    """When each flush began and at what step it then was, for flushes that took these times one after the other. The
    first time is that of the block with which it began."""
    now, pace, begun = 0.0, Pace(0.0), []
    for took in times:
        now += took
        pace.judge(now, pacing)
        assert pace.judge(now + 100, pacing) is None, "judged once"
        now = max(now, pace.due)
        begun.append((now, pace.step))
        pace.flush(now)
    return begun


@pytest.mark.parametrize("took", [0.0, 0.01, 0.5])
def test_a_short_block_costs_nothing(took: float) -> None:
    """As those of TLS, where a write is under way: it goes on at once, without a step."""
    begun = flushes([took] * 5)
    assert [step for _, step in begun] == [0] * 5
    assert [moment for moment, _ in begun] == pytest.approx([took * (number + 1) for number in range(5)])


def test_a_long_block_goes_on_at_once_and_is_watched() -> None:
    """What comes after a stall is given when there is room; only the next one has an interval."""
    assert flushes([8.0, 0.0]) == [(8.0, 1), (8.5, 1)]


def test_intervals_grow_until_each_is_out_before_the_next() -> None:
    """A reader that needs 3 s for a flush: by steps to 4 s, and there it stays."""
    begun = flushes([3.0] * 12)
    steps = [step for _, step in begun]
    assert steps == [1, 2, 3, 4] + [4] * 8
    assert [round(b - a, 6) for (a, _), (b, _) in zip(begun[4:], begun[5:], strict=False)] == [4.0] * 7


def test_intervals_shrink_as_fast_as_the_reader_recovers() -> None:
    """Each flush that is out in the time of the step below is a step down; from the last one after some in a row."""
    steps = [step for _, step in flushes([3.0] * 5 + [0.0] * (3 + CALM))]
    assert steps == [1, 2, 3, 4, 4, 3, 2, 1, *[1] * (CALM - 1), 0]


def test_the_last_step_is_left_after_a_calm_time_only() -> None:
    """One late flush within it begins the count anew."""
    steps = [step for _, step in flushes([1.0, 0.1, 0.1, 0.9, 0.9, 0.1])]
    assert steps == [1, 1, 1, 2, 2, 1]


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0.01, 1), st.floats(1, 10), st.floats(1, 60))
def test_a_pace_is_bounded(times: list[float], first: float, factor: float, most: float) -> None:
    """No flush waits longer than the longest interval from the one before, nor than its factor times what that took."""
    pacing = Pacing(first=first, factor=factor, max=most)
    now, pace = 0.0, Pace(0.0)
    for took in times:
        began, before = now, pace.step
        step = pace.judge(now + took, pacing)
        assert pace.due - began <= most + 1e-6
        assert (step == "up") <= (took + 1e-6 > wait(pacing, before))
        if step == "up" and before:
            assert wait(pacing, pace.step) <= factor * wait(pacing, before) + 1e-9
        assert abs(pace.step - before) <= 1
        now = max(now + took, pace.due)
        pace.flush(now)


def test_waits_grow_to_the_longest() -> None:
    """Exponentially, and without overflow."""
    assert [wait(PACING, step) for step in range(8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert wait(Pacing(first=1.0, factor=10.0, max=600.0), 10_000) == 600.0


def test_steps_end_where_the_intervals_do() -> None:
    """The way back is no longer than the way there, also where intervals do not grow at all."""
    for pacing, last in ((PACING, 5), (Pacing(first=0.5, factor=1.0, max=8.0), 1)):
        assert [step for _, step in flushes([60.0] * 20, pacing)][-1] == last
