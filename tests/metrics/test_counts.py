"""The plain numbers of the hot side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.config import Namespace
from rt.metrics import Latency, Tally
from rt.metrics.definitions import BUCKETS


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (-3.0, 0), (0.0005, 0), (0.00051, 1), (0.3, 9), (10.0, 13), (11.0, 14)]
)
def test_an_observation_falls_into_the_first_bucket_that_holds_it(seconds: float, bucket: int) -> None:
    """A bound belongs to its bucket; times that two clocks made negative count as none."""
    latency = Latency()
    latency.observe(seconds, 7)
    assert latency.counts[bucket] == 7 == sum(latency.counts)
    assert latency.sum == pytest.approx(max(seconds, 0.0) * 7)


@given(st.lists(st.tuples(st.floats(-1, 100), st.integers(0, 10_000))))
def test_every_receiver_is_counted_once(observations: list[tuple[float, int]]) -> None:
    """The buckets together hold the weights of all observations."""
    latency = Latency()
    for seconds, weight in observations:
        latency.observe(seconds, weight)
    assert sum(latency.counts) == sum(weight for _, weight in observations)
    assert len(latency.counts) == len(BUCKETS) + 1


def test_an_unforeseen_reason_is_an_error() -> None:
    """The tally has no place for a label outside the closed tables."""
    tally = Tally()
    with pytest.raises(KeyError):
        tally.drops["somebody's text"] += 1
    with pytest.raises(KeyError):
        tally.left_out(Namespace(), "somebody's text", 1)


def test_what_policies_do_is_counted_by_namespace_and_priority() -> None:
    """Nothing at all has no line of its own."""
    tally, low = Tally(), Namespace(name="logs", priority="low")
    tally.left_out(low, "oldest", 3)
    tally.left_out(low, "newest", 0)
    tally.conflated(Namespace(), 2)
    tally.conflated(low, 0)
    tally.fell(low)
    tally.batched(low)
    tally.lacked(Namespace())
    assert (tally.sheds, tally.falls) == ({("logs", "low", "oldest"): 3}, {("logs", "low"): 1})
    assert (tally.conflations, tally.batches) == ({("-", "normal"): 2}, {("logs", "low"): 1})
    assert tally.keyless == {("-",): 1}
