"""Very many come back at once: the loop lives between them, nobody is forgotten, and the order is that of coming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from rt.delivery.subscription import Subscription
from rt.delivery.turnstile import SLICE, Turnstile


class Crowd:
    """Those who want to pass, by number; each takes ``cost`` of a clock of the test's own. ``turns`` counts those of
    the loop in which somebody else's work was done, at the time of each passing."""

    def __init__(self, cost: float, again: int = 0) -> None:
        self.now = 0.0
        self.cost = cost
        self.again = again  # of those who have more than one page
        self.turns = 0
        self.passed: list[tuple[int, int]] = []
        self.calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.turnstile = Turnstile(cast("asyncio.AbstractEventLoop", self), self.come)

    def time(self) -> float:
        """As of the loop."""
        return self.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        """As of the loop."""
        self.calls.append((callback, arguments))

    def come(self, subscription: Subscription) -> None:
        """Pass, or wait."""
        number = cast("int", subscription)
        if self.turnstile.passes(subscription):
            self.now += self.cost
            self.passed.append((number, self.turns))
            if number < self.again and sum(one == number for one, _ in self.passed) < 3:
                self.call_soon(self.come, number)

    def turn(self) -> None:
        """One turn of the loop."""
        self.turns += 1
        calls, self.calls = self.calls, []
        for callback, arguments in calls:
            callback(*arguments)

    def walk(self, count: int) -> None:
        """All come in one turn, and then the loop goes round."""
        for number in range(count):
            self.come(cast("Subscription", number))
        while self.calls:
            self.turn()


def test_a_few_pass_at_once() -> None:
    """Nobody waits where there is time for all, and nothing goes round afterwards."""
    crowd = Crowd(SLICE / 100)
    crowd.walk(50)
    assert crowd.passed == [(number, 0) for number in range(50)]
    assert crowd.turns == 1


def test_a_crowd_passes_in_slices_in_the_order_of_coming() -> None:
    """Each turn of the loop as many as there is time for."""
    crowd = Crowd(SLICE / 4)
    crowd.walk(20)
    assert [number for number, _ in crowd.passed] == list(range(20))
    most = max(sum(turn == at for _, turn in crowd.passed) for at in range(crowd.turns + 1))
    assert most <= 5 and crowd.turns >= 4


def test_who_has_more_to_get_comes_after_those_who_wait() -> None:
    """With three pages each, all have their first before anybody has the second."""
    crowd = Crowd(SLICE / 2, again=10)
    crowd.walk(10)
    firsts = [number for number, _ in crowd.passed[:10]]
    assert sorted(firsts) == list(range(10)) and len(crowd.passed) == 30
