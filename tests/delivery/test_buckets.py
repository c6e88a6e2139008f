"""Token buckets: what passes in any stretch of time, what is remembered, and what a change of the rate does."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.delivery.buckets import Buckets

RATES = st.sampled_from([0.01, 0.5, 1.0, 7.0, 1000.0])
BURSTS = st.sampled_from([1.0, 2.0, 10.0, 500.0])
STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.25, 1.0, 100.0]), st.integers(1, 12)), max_size=60)


class Plain:
    """A bucket as everybody describes it."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, burst, burst, now

    def take(self, now: float, count: float) -> bool:
        """Whether there were as many (or, for more than it holds, whether it was full)."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens + 1e-6 < min(count, self.burst):
            return False
        self.tokens -= count
        return True


@settings(deadline=None, max_examples=200)
@given(RATES, BURSTS, STEPS)
def test_one_number_per_subject_is_a_whole_bucket(rate: float, burst: float, steps: list[tuple[float, int]]) -> None:
    """It decides as a bucket with a level does, and says exactly when there is room again."""
    now, buckets = 1000.0, Buckets(rate, burst, 10)
    plain = Plain(rate, burst, now)
    for wait, count in steps:
        now += wait
        needed = buckets.take("a", now, count)
        assert (needed == 0.0) is plain.take(now, count)
        assert buckets.left("a", now) == pytest.approx(plain.tokens, abs=1e-4)
        if needed:
            assert plain.tokens + needed * rate == pytest.approx(min(count, burst), abs=1e-4)
            assert buckets.take("a", now + needed, 0) == 0.0


@settings(deadline=None, max_examples=100)
@given(RATES, BURSTS, STEPS)
def test_no_stretch_of_time_has_more_than_its_share(rate: float, burst: float, steps: list[tuple[float, int]]) -> None:
    """At most what is saved and what comes meanwhile."""
    now, buckets, taken = 0.0, Buckets(rate, burst, 10), list[float]()
    for wait, _ in steps:
        now += wait
        if buckets.take("a", now) == 0.0:
            taken.append(now)
    for first, since in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - since) * rate + 1e-6


def test_a_debt_is_paid_before_anything_is_given() -> None:
    """What was used already is drawn, whatever is there."""
    buckets = Buckets(10.0, 5.0, 10)
    assert buckets.draw("a", 0.0, 5) == 0.0
    assert buckets.draw("a", 0.0, 20) == pytest.approx(2.0)
    assert buckets.left("a", 0.0) == pytest.approx(-20)
    assert buckets.take("a", 2.0) == pytest.approx(0.1)
    assert buckets.take("a", 2.1) == 0.0


def test_what_was_taken_for_nothing_is_put_back() -> None:
    """And a bucket that is full again is forgotten."""
    buckets = Buckets(1.0, 3.0, 10)
    for _ in range(3):
        assert buckets.take("a", 0.0) == 0.0
    buckets.give("a", 0.0)
    assert buckets.take("a", 0.0) == 0.0 and buckets.take("a", 0.0) > 0.0
    buckets.give("a", 0.0, 3)
    buckets.give("nobody", 0.0)
    assert len(buckets) == 0


def test_the_map_is_bounded_and_empties() -> None:
    """F76: a million subjects, once each; the one that was left alone longest goes first, and all go in time."""
    buckets = Buckets(1.0, 2.0, 1000)
    tracemalloc.start()
    before = 0
    for number in range(100_000):
        buckets.take("kept", 0.0)
        buckets.take(f"subject {number}", 0.0)
        if number == 2000:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(buckets) == 1000 and buckets.forgotten == 100_001 - 1000
    assert grown < 100_000
    assert buckets.take("kept", 0.0) > 0.0  # who keeps coming is never forgotten
    buckets.sweep(1.0)
    assert len(buckets) == 1
    buckets.sweep(2.0)
    assert len(buckets) == 0


def test_full_ones_make_room_before_anybody_is_forgotten() -> None:
    """They are the same as none."""
    buckets = Buckets(1.0, 1.0, 3)
    for number in range(3):
        buckets.take(f"old {number}", 0.0)
    for number in range(3):
        buckets.take(f"new {number}", 5.0)
    assert buckets.forgotten == 0 and len(buckets) == 3


@pytest.mark.parametrize("rate", [1.0, 100.0])
@pytest.mark.parametrize(("burst", "left"), [(10.0, 4.0), (20.0, 4.0), (2.0, 2.0)])
def test_another_rate_fills_no_bucket(rate: float, burst: float, left: float) -> None:
    """The tokens that are there stay, as far as they fit; what is missing comes at the new rate."""
    buckets = Buckets(5.0, 10.0, 10)
    buckets.take("a", 0.0, 6)
    buckets.draw("b", 0.0, 15)
    buckets.change(rate, burst, 10, 0.0)
    assert buckets.left("a", 0.0) == pytest.approx(left)
    assert buckets.left("b", 0.0) == pytest.approx(-5.0)
    assert buckets.left("b", 1.0) == pytest.approx(min(-5.0 + rate, burst))
    buckets.change(rate, burst, 1, 0.0)
    assert len(buckets) <= 1
