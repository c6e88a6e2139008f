"""rt.broker.trouble."""

from __future__ import annotations

import pytest

from rt.broker.refusal import Refusal
from rt.broker.trouble import QUIET, Trouble
from rt.errors import StoreError

AWAY = StoreError("connection refused", definite=True)


class Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_trouble_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is met, and by however many parts."""
    trouble = Trouble(Clock(), "acme")
    for part in ("commands", "the subscriber") * 10:
        trouble.begins(part, AWAY)
    trouble.ends("commands")
    assert len(caplog.messages) == 1
    assert trouble.reasons == ["the subscriber: connection refused"]
    trouble.ends("the subscriber")
    trouble.ends("the subscriber")
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "trouble with the store",
        "the store is well again",
    ]
    assert [getattr(record, "fields", None) for record in caplog.records] == [{"tenant": "acme"}] * 2


def test_another_class_of_trouble_is_news(caplog: pytest.LogCaptureFixture) -> None:
    """First away, then back but with another password."""
    trouble = Trouble(Clock(), "acme")
    trouble.begins("commands", AWAY)
    trouble.begins("commands", Refusal("auth", "wrong password", definite=True))
    assert len(caplog.messages) == 2


def test_flapping_is_not_said_more_often_than_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """But trouble that stays is said in the end."""
    clock = Clock()
    trouble = Trouble(clock, "acme")
    for _ in range(20):
        trouble.begins("commands", AWAY)
        trouble.ends("commands")
    assert len(caplog.messages) == 2
    trouble.begins("commands", AWAY)
    clock.now += QUIET
    trouble.begins("commands", AWAY)
    assert len(caplog.messages) == 3


def test_a_refused_call_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """And does not count as a part in trouble."""
    trouble = Trouble(Clock(), "acme")
    for _ in range(5):
        trouble.meets(Refusal("oom", "used memory > 'maxmemory'", definite=True))
    assert len(caplog.messages) == 1
    assert trouble.reasons == []
