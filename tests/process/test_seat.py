"""How the deaths of a worker are answered."""

from __future__ import annotations

from rt.supervisor.seat import BACKOFF, MANY_DEATHS, SETTLED, Backoff


def test_the_first_death_is_answered_at_once() -> None:
    """A worker that has settled and one that dies for the first time are replaced without waiting."""
    backoff = Backoff()
    assert backoff.died(0.0, served=1000.0) == 0.0
    assert backoff.died(1.0, served=0.0) == 0.0


def test_deaths_at_the_start_are_answered_ever_later_and_then_not() -> None:
    """Ten lives in a row that were cut short are a loop."""
    backoff = Backoff()
    delays = [backoff.died(float(now), served=0.1) for now in range(len(BACKOFF) + 1)]
    assert delays == [*BACKOFF, None]
    assert list(BACKOFF) == sorted(BACKOFF)


def test_a_settled_life_forgives() -> None:
    """Deaths count in a row only."""
    backoff = Backoff()
    for now in range(8):
        backoff.died(float(now), served=0.0)
    assert backoff.died(9.0, served=SETTLED) == 0.0
    assert backoff.died(10.0, served=0.0) == 0.0


def test_a_kill_every_three_seconds_is_no_loop() -> None:
    """A minute of kills, each after the worker had settled, is survived without waiting."""
    backoff = Backoff()
    assert {backoff.died(3.0 * kill, served=2.2) for kill in range(20)} == {0.0}


def test_dying_for_ever_is_a_loop_however_long_each_life() -> None:
    """So many deaths in so short a time cannot be accidents."""
    count, seconds = MANY_DEATHS
    backoff = Backoff()
    answers = [backoff.died(death * seconds / count / 2, served=SETTLED) for death in range(count)]
    assert answers == [0.0] * (count - 1) + [None]
