"""The bucket for new connections."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rt.delivery.limits import Bucket

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
