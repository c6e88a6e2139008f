"""The order of a conversation, and its heartbeat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.protocol.commands import BadCommand, decode
from rt.protocol.dialog import Dialog, Heartbeat, State

KINDS = ["subscribe", "unsubscribe", "publish", "history", "rpc", "send", "refresh", "presence"]


def heart(share: float = 0.0) -> Heartbeat:
    """A heartbeat of 25 and 8 seconds, started at 100."""
    return Heartbeat(25, 8, now=100, share=share)


def connected(heartbeat: Heartbeat | None = None) -> Dialog:
    """A conversation after a good connect."""
    dialog = Dialog()
    assert dialog.accept("connect")
    dialog.connected(heartbeat)
    return dialog


def closes(dialog: Dialog, kind: str) -> bool:
    """Whether the command ends the connection with 3501, and leaves the state as it was."""
    before = dialog.state
    with pytest.raises(errors.Closing) as closing:
        dialog.accept(kind)
    return closing.value.close == errors.BAD_COMMAND and dialog.state is before


@pytest.mark.parametrize("kind", [*KINDS, ""])
def test_nothing_comes_before_connect(kind: str) -> None:
    """Any command before connect, and a pong too, ends the connection."""
    assert closes(Dialog(), kind)


def test_a_second_connect() -> None:
    """A second connect ends the connection, also while the first is not answered."""
    dialog = Dialog()
    assert dialog.accept("connect")
    assert dialog.state is State.CONNECTING
    assert closes(dialog, "connect")
    assert closes(connected(), "connect")


@pytest.mark.parametrize("kind", KINDS)
def test_commands_after_connect(kind: str) -> None:
    """After connect every other command is carried out."""
    assert connected().accept(kind)


@pytest.mark.parametrize("kind", [*KINDS, "connect", ""])
def test_after_a_refused_connect(kind: str) -> None:
    """What was sent behind a connect that failed is discarded."""
    dialog = Dialog()
    assert dialog.accept("connect")
    dialog.refused()
    assert dialog.state is State.REFUSED
    assert not dialog.accept(kind)


def test_a_malformed_command_has_its_place() -> None:
    """A command of wrong types is still a command: before connect it closes, as a connect it fails."""
    with pytest.raises(BadCommand) as bad:
        decode(b'{"id":1,"subscribe":5}')
    assert closes(Dialog(), bad.value.kind)
    with pytest.raises(BadCommand) as bad:
        decode(b'{"id":1,"connect":5}')
    assert Dialog().accept(bad.value.kind)


def test_pongs_answer_pings() -> None:
    """A pong is accepted for each ping that was sent, and nothing needs to be done with it."""
    heartbeat = heart()
    dialog = connected(heartbeat)
    assert closes(dialog, "")
    assert heartbeat.beat(112.5)
    assert not dialog.accept("")
    assert closes(dialog, "")


def test_pongs_without_a_heartbeat() -> None:
    """Where no pings are sent every pong is one too many."""
    assert closes(connected(), "")


@pytest.mark.parametrize(("share", "first"), [(0.0, 112.5), (0.5, 118.75), (0.999, 124.9875)])
def test_the_first_ping(share: float, first: float) -> None:
    """The first ping comes between half an interval and a whole one after connect."""
    heartbeat = heart(share)
    assert heartbeat.due() == pytest.approx(first)
    assert not heartbeat.beat(first - 0.001)
    assert heartbeat.beat(first)


def test_pings_go_on() -> None:
    """While pongs come a ping goes out every interval."""
    heartbeat = heart()
    for now in (112.5, 137.5, 162.5):
        assert not heartbeat.beat(now - 0.1)
        assert heartbeat.beat(now)
        heartbeat.pong()
        assert heartbeat.due() == now + 25


def test_no_pong() -> None:
    """A connection that says nothing after a ping is closed with 3012."""
    heartbeat = heart()
    assert heartbeat.beat(112.5)
    assert heartbeat.due() == 120.5
    assert not heartbeat.beat(120.4)
    with pytest.raises(errors.Closing) as closing:
        heartbeat.beat(120.5)
    assert closing.value.close == errors.NO_PONG


def test_any_bytes_are_life() -> None:
    """Bytes that are no pong keep the connection too, and the late pong is still welcome."""
    heartbeat = heart()
    assert heartbeat.beat(112.5)
    heartbeat.heard()
    assert heartbeat.due() == 137.5
    assert heartbeat.beat(137.5)
    heartbeat.pong()
    heartbeat.pong()
    with pytest.raises(errors.Closing):
        heartbeat.pong()


def test_bytes_before_the_ping_do_not_count() -> None:
    """Only what comes after a ping answers it."""
    heartbeat = heart()
    heartbeat.heard()
    assert heartbeat.beat(112.5)
    with pytest.raises(errors.Closing):
        heartbeat.beat(120.5)


def test_the_deadline_rests_while_nobody_reads() -> None:
    """While a command is served silence means nothing; afterwards the whole timeout runs again. Pings go on."""
    heartbeat = heart()
    assert heartbeat.beat(112.5)
    heartbeat.rest()
    assert not heartbeat.beat(130)
    assert heartbeat.due() == 137.5
    assert heartbeat.beat(137.5)
    heartbeat.resume(140)
    assert heartbeat.due() == 148
    with pytest.raises(errors.Closing):
        heartbeat.beat(148)


def test_resting_without_a_ping() -> None:
    """Where no ping waits, a rest changes nothing."""
    heartbeat = heart()
    heartbeat.rest()
    heartbeat.resume(105)
    assert heartbeat.due() == 112.5


def test_a_timeout_longer_than_the_interval() -> None:
    """A ping that follows does not put off the deadline of the one before."""
    heartbeat = Heartbeat(5, 8, now=0, share=0)
    assert heartbeat.beat(2.5)
    assert heartbeat.beat(7.5)
    with pytest.raises(errors.Closing):
        heartbeat.beat(10.5)


@given(st.lists(st.sampled_from(["beat", "pong", "heard", "rest", "resume"]) | st.floats(0, 10), max_size=60))
def test_a_heartbeat_never_sleeps_over_its_time(steps: list[str | float]) -> None:
    """Called when it is due, a heartbeat always acts: it pings, closes, or moves on; and it counts pongs exactly."""
    heartbeat = Heartbeat(5, 2, now=0, share=0.3)
    now, open_pings = 0.0, 0
    for step in steps:
        if isinstance(step, float):
            now = min(now + step, heartbeat.due())
        elif step == "beat":
            try:
                sent = heartbeat.beat(now)
            except errors.Closing as closing:
                assert closing.close == errors.NO_PONG
                return
            open_pings += sent
            assert heartbeat.due() > now
        elif step == "pong" and open_pings == 0:
            with pytest.raises(errors.Closing):
                heartbeat.pong()
        elif step == "pong":
            heartbeat.pong()
            open_pings -= 1
        elif step == "resume":
            heartbeat.resume(now)
        else:
            getattr(heartbeat, step)()
