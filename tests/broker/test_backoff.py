"""rt.broker.backoff."""

from __future__ import annotations

from rt.broker.backoff import FIRST, LAST, STEADY, Backoff


def test_delays_grow_to_the_bound_and_have_jitter() -> None:
    """Each lies between half of its step and all of it."""
    backoff = Backoff()
    step = FIRST
    for _ in range(12):
        assert step / 2 <= backoff.next() <= step
        step = min(step * 2, LAST)


def test_only_a_connection_that_lasted_starts_it_anew() -> None:
    """One that dies at once is no success."""
    backoff = Backoff()
    for _ in range(10):
        backoff.next()
    backoff.lasted(STEADY / 2)
    assert backoff.next() > FIRST
    backoff.lasted(STEADY)
    assert backoff.next() <= FIRST
