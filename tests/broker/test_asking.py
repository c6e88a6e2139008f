"""rt.broker.asking: questions to all workers, and what their answers may be."""

from __future__ import annotations

import asyncio
import time

import pytest

from rt import errors
from rt.broker import asking, message
from rt.errors import Refused, StoreError
from tests.brokers import Worker, asynchronous, outcome
from tests.stores import Store
from tests.waiting import eventually


@asynchronous
async def test_a_question_is_answered_by_all(store: Store) -> None:
    """At once or later; the asker answers too."""
    async with Worker(store) as one, Worker(store) as two, Worker(store) as three:
        later: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        one.answer = lambda body: b"1" + body
        two.answer = lambda body: b"\x00:2:\n" + body
        three.answer = lambda body: later
        asked = one.broker.survey(b'{"q":1}')
        await eventually(lambda: three.said)
        later.set_result(b"3")
        assert sorted(await asked) == sorted([b'1{"q":1}', b'\x00:2:\n{"q":1}', b"3"])
        assert one.said == two.said == three.said == [b'{"q":1}']
        assert not one.broker._asker._asked


@asynchronous
async def test_questions_and_commands_do_not_mix(store: Store) -> None:
    """Many at a time, from two workers."""
    async with Worker(store) as one, Worker(store) as two:
        one.answer = lambda body: b"1" + body
        two.answer = lambda body: b"2" + body
        questions = [(one, two)[n % 2].broker.survey(b"%d" % n) for n in range(100)]
        commands = [one.broker.command(b"%d" % n) for n in range(100, 200)]
        for n, question in enumerate(questions):
            assert sorted(await question) == [b"1%d" % n, b"2%d" % n]
        await asyncio.gather(*commands)
        assert sorted(one.said) == sorted(two.said) == sorted(b"%d" % n for n in range(200))


@pytest.mark.parametrize("how", ["late", "failed", "refused", "too large"])
@asynchronous
async def test_without_the_answer_of_one_there_is_none(store: Store, how: str) -> None:
    """A part would look like all. It fails within a second, or at once where all have said something."""
    async with Worker(store) as one, Worker(store) as two:
        later: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answer(body: bytes) -> bytes | asyncio.Future[bytes]:
            if how == "refused":
                raise RuntimeError("no")
            return b"x" * (message.MAX_ANSWER + 1) if how == "too large" else later

        one.answer = lambda body: b"1"
        two.answer = answer
        began = time.monotonic()
        asked = one.broker.survey(b"{}")
        await eventually(lambda: two.said)
        if how == "failed":
            later.set_exception(RuntimeError("no"))
        error = await outcome(asked)
        assert isinstance(error, StoreError) and not error.definite
        took = time.monotonic() - began
        assert took < (asking.PATIENCE + 1 if how == "late" else asking.PATIENCE * 0.8)
        assert one.broker.counters.unanswered == (how == "late")
        two.answer = lambda body: b""
        assert await one.broker.survey(b"{}") == [b"1"]


@asynchronous
async def test_the_answers_to_one_question_have_a_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together."""
    monkeypatch.setattr(asking, "MAX_ANSWERS", 1500)
    async with Worker(store) as one, Worker(store) as two:
        one.answer = two.answer = lambda body: b"x" * 1000
        assert isinstance(await outcome(one.broker.survey(b"{}")), StoreError)
        one.answer = two.answer = lambda body: b"x" * 700
        assert len(await one.broker.survey(b"{}")) == 2


@asynchronous
async def test_who_cannot_hear_answers_asks_nothing(store: Store) -> None:
    """It would wait in vain."""
    async with Worker(store) as one:
        one.broker._subscriber.replace("cut by the test")
        error = await outcome(one.broker.survey(b"{}"))
        assert isinstance(error, StoreError) and error.definite
        await one.ready()
        assert await one.broker.survey(b"{}") == []


@asynchronous
async def test_an_answer_that_nobody_waits_for_is_a_stray(store: Store) -> None:
    """Late, or for a worker of the same name before."""
    async with Worker(store) as one, Worker(store) as two:
        later: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        two.answer = lambda body: later
        asked = one.broker.survey(b"{}")
        await eventually(lambda: two.said)
        asked.cancel()
        await eventually(lambda: not one.broker._asker._asked)
        later.set_result(b"2")
        await eventually(lambda: one.broker.counters.bus_strays == 1)


@asynchronous
async def test_one_that_answers_twice_counts_once(store: Store) -> None:
    """With its first answer."""
    async with Worker(store) as one, Worker(store) as two:
        later: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        one.answer = lambda body: later
        two.answer = lambda body: b"2"
        asked = one.broker.survey(b"{}")
        answers = "rt:default:answers:{" + one.name + "}"
        await eventually(lambda: any(asked.answers for asked in one.broker._asker._asked.values()))
        (key,) = one.broker._asker._asked
        store.command("PUBLISH", answers, b"1a:%s:%s:again" % (key, two.broker._control._who))
        await one.broker.workers()
        later.set_result(b"1")
        assert sorted(await asked) == [b"1", b"2"]


@asynchronous
async def test_what_is_too_large_or_not_one_line_is_not_said(store: Store) -> None:
    """It would be dropped by whoever hears it."""
    async with Worker(store) as one:
        for call in (one.broker.command, one.broker.survey):
            with pytest.raises(Refused) as caught:
                await call(b'"' + b"x" * message.MAX_BODY + b'"')
            assert caught.value.error is errors.LIMIT_EXCEEDED
            with pytest.raises(ValueError, match="one line"):
                call(b"{\n}")
        largest = b'"' + b"x" * (message.MAX_BODY - 2) + b'"'
        await one.broker.command(largest)
        await one.broker.survey(largest)
        assert one.said == [largest, largest]


@asynchronous
async def test_more_than_may_wait_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Definitely, and the others are answered."""
    monkeypatch.setattr(asking, "MAX_ASKED", 2)
    async with Worker(store) as one:
        calls = [one.broker.command(b"%d" % n) for n in range(3)]
        results = [await outcome(call) for call in calls]
        assert results[:2] == [None, None]
        assert isinstance(results[2], StoreError) and results[2].definite
        assert one.said == [b"0", b"1"]


@asynchronous
async def test_while_the_store_is_away_calls_fail_at_once(store: Store) -> None:
    """And are forgotten."""
    store.kill()
    async with Worker(store, wait=False) as one:
        for call in (one.broker.command(b"{}"), one.broker.survey(b"{}")):
            error = await outcome(call)
            assert isinstance(error, StoreError) and error.definite
        await eventually(lambda: not one.broker._asker._asked)


@asynchronous
async def test_stop_does_not_wait_for_answers(store: Store) -> None:
    """What was said is said."""
    async with Worker(store) as one, Worker(store) as two:
        two.answer = lambda body: asyncio.get_running_loop().create_future()
        command, question = one.broker.command(b"{}"), one.broker.survey(b"{}")
        began = time.monotonic()
        await eventually(lambda: len(two.said) == 2)
        await one.broker.stop()
        await command
        assert isinstance(await outcome(question), StoreError)
        assert time.monotonic() - began < asking.PATIENCE * 0.8


@asynchronous
async def test_what_was_not_acknowledged_fails_when_the_broker_stops(store: Store) -> None:
    """It is not taken for done."""
    async with Worker(store, timeout=0.2) as one:
        with store.paused():
            command, question = one.broker.command(b"{}"), one.broker.survey(b"{}")
            await one.broker.stop()
            for call in (command, question):
                assert isinstance(await outcome(call), StoreError)
