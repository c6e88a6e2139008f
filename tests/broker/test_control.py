"""rt.broker.control: every worker carries out every command, once, in order, whatever happens to its connections."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from rt.broker import message
from rt.broker.asking import PATIENCE, STREAM_SIZE
from rt.broker.control import MAX_KNOWN
from rt.broker.scripts import PUBLISH
from rt.broker.streams import candidate, nothing
from rt.errors import StoreError
from tests.brokers import Worker, asynchronous, logged, outcome
from tests.faults.link import NOWHERE, Link
from tests.stores import DURABLE, Store
from tests.waiting import eventually

CONTROL = "rt:default:control:{all}"


def said(number: int) -> bytes:
    """A command that can be told from others."""
    return b'{"n":%d}' % number


async def settled(*workers: Worker) -> None:
    """Wait until each knows where the stream is."""
    for worker in workers:
        control = worker.broker._control
        await eventually(lambda control=control: control._position and not control._reading)  # type: ignore[misc]


def cut(worker: Worker) -> None:
    """End its subscriber's connection; it makes a new one."""
    worker.broker._subscriber.replace("cut by the test")


def heard_by(store: Store) -> int:
    """How many workers hear what is said, as the store sees it."""
    return int(store.command("PUBSUB", "NUMSUB", CONTROL)[1])


class Away:
    """A worker whose subscriber alone can be kept away: ``async with Away(store) as away``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.link = Link(store)
        self.worker: Worker

    async def __aenter__(self) -> Away:
        self.link.__enter__()
        self.worker = await Worker(self.link.url).__aenter__()
        await settled(self.worker)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.worker.__aexit__(None, None, None)
        self.link.__exit__(None, None, None)

    async def leave(self) -> None:
        """It hears nothing from now on."""
        before = heard_by(self.store)
        self.link.point(NOWHERE)
        cut(self.worker)
        await eventually(lambda: heard_by(self.store) == before - 1)

    async def come_back(self) -> None:
        """It hears again, and has read what it missed."""
        self.link.point(self.store)
        await eventually(lambda: self.worker.broker.status().subscribed)
        await settled(self.worker)


@asynchronous
async def test_every_worker_carries_out_every_command_in_order(store: Store) -> None:
    """The one that gives it too; it is done when all have, so nothing need be waited for afterwards."""
    async with Worker(store) as one, Worker(store) as two, Worker(store) as three:
        await asyncio.gather(*(one.broker.command(said(n)) for n in range(50)))
        await two.broker.command(said(50))
        assert one.said == two.said == three.said == [said(n) for n in range(51)]


@asynchronous
async def test_a_command_is_done_when_all_have_answered(store: Store) -> None:
    """An answer may take its time."""
    async with Worker(store) as one, Worker(store) as two:
        later: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        two.answer = lambda body: later
        giving = one.broker.command(said(1))
        await eventually(lambda: two.said)
        assert not giving.done()
        later.set_result(b"{}")
        await giving
        assert one.broker.counters.unanswered == 0


@asynchronous
async def test_a_command_waits_a_second_at_most(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """For a worker that does not answer; that is counted and said, once for many."""
    async with Worker(store) as one, Worker(store) as two:
        two.answer = lambda body: asyncio.get_running_loop().create_future()
        began = time.monotonic()
        await asyncio.gather(one.broker.command(said(1)), one.broker.command(said(2)))
        assert PATIENCE * 0.9 < time.monotonic() - began < PATIENCE + 1
        assert one.broker.counters.unanswered == 2
        assert logged(caplog) == ["1 of 2 workers did not answer within 1 s"]
        assert not one.broker._asker._asked


@asynchronous
async def test_what_was_missed_is_carried_out_when_the_worker_is_back(store: Store) -> None:
    """More than one page of it, in order, before what is said then; nobody waited for it."""
    async with Worker(store) as one, Away(store) as away:
        await one.broker.command(said(0))
        await away.leave()
        began = time.monotonic()
        await asyncio.gather(*(one.broker.command(said(n)) for n in range(1, 250)))
        assert time.monotonic() - began < PATIENCE * 0.8
        assert away.worker.said == [said(0)]
        await away.come_back()
        await one.broker.command(said(250))
        assert away.worker.said == [said(n) for n in range(251)]
        assert away.worker.broker.counters.control_gaps == 0


@asynchronous
async def test_a_worker_that_gives_commands_while_it_hears_nothing_misses_none(store: Store) -> None:
    """Its own come to it like all others."""
    async with Worker(store) as one, Away(store) as away:
        await away.leave()
        await away.worker.broker.command(said(1))
        await one.broker.command(said(2))
        assert (one.said, away.worker.said) == ([said(1), said(2)], [])
        await away.come_back()
        assert away.worker.said == [said(1), said(2)]


@asynchronous
async def test_a_worker_that_starts_begins_now(store: Store) -> None:
    """It has no connections that older commands could be about."""
    async with Worker(store) as one:
        await one.broker.command(said(1))
        async with Worker(store) as two:
            await settled(two)
            await one.broker.command(said(2))
            assert two.said == [said(2)]


@asynchronous
async def test_a_message_that_is_swallowed_is_missed_and_read(store: Store) -> None:
    """Together with the next one, and in order. Nobody answers what was never heard."""
    async with Worker(store) as one, Away(store) as away:
        with away.link.swallowing("message"):
            lost = one.broker.command(said(1))
            await eventually(lambda: away.link.count("swallowed"))
        await one.broker.command(said(2))
        assert away.worker.said == [said(1), said(2)]
        await lost


LOSSES: dict[str, Callable[[Store], object]] = {
    "trimmed": lambda store: store.command("XTRIM", f"{CONTROL}:stream", "MAXLEN", 2),
    "expired": lambda store: store.command("DEL", f"{CONTROL}:stream"),
    "evicted": lambda store: store.command("DEL", f"{CONTROL}:meta", f"{CONTROL}:stream"),
    "flushed": lambda store: store.command("FLUSHALL"),
}


@pytest.mark.parametrize("loss", LOSSES)
@asynchronous
async def test_what_can_not_be_read_any_more_is_said_and_the_rest_goes_on(
    store: Store, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the stream lacks something or is another one."""
    async with Worker(store) as one, Away(store) as away:
        await one.broker.command(said(0))
        await away.leave()
        for n in range(1, 6):
            await one.broker.command(said(n))
        LOSSES[loss](store)
        await away.come_back()
        assert away.worker.said == [said(0)] + ([said(4), said(5)] if loss == "trimmed" else [])
        assert away.worker.broker.counters.control_gaps == 1
        assert "commands from other workers may have been missed while the store was away" in caplog.messages
        for n in range(6, 9):
            await one.broker.command(said(n))
        assert away.worker.said[-3:] == one.said[-3:] == [said(6), said(7), said(8)]
        assert one.said == [said(n) for n in range(9)]
        assert one.broker.counters.control_gaps == 0


@asynchronous
async def test_a_new_epoch_is_read_from_its_beginning(store: Store) -> None:
    """All of it was said since."""
    async with Worker(store) as one, Away(store) as away:
        await one.broker.command(said(1))
        await away.leave()
        store.command("FLUSHALL")
        for n in range(2, 5):
            await one.broker.command(said(n))
        await away.come_back()
        assert away.worker.said == one.said == [said(n) for n in range(1, 5)]


@pytest.mark.parametrize("options", [(), DURABLE], ids=["empty", "kept"])
@asynchronous
async def test_a_store_that_restarts_costs_no_command_twice(options: tuple[str, ...]) -> None:
    """Whatever it kept."""
    with Store(options=options) as store:
        async with Worker(store) as one, Worker(store) as two:
            await one.broker.command(said(1))
            with store.down():
                error = await outcome(one.broker.command(said(2)))
                assert isinstance(error, StoreError)
            await asyncio.gather(one.ready(), two.ready())
            await settled(one, two)
            await two.broker.command(said(3))
            assert one.said == two.said == [said(1), said(3)]


async def say(worker: Worker, key: bytes, body: bytes) -> None:
    """What a worker says whose reply was lost, so that it says it again: the same id, once more."""
    args = (CONTROL, candidate(), STREAM_SIZE, 60_000, 60_000, 0, 1, message.encode(key, worker.name, body))
    keys = (f"{CONTROL}:meta", f"{CONTROL}:stream")
    await worker.broker._pipeline.run(PUBLISH, keys, args, nothing, repeatable=False)


@asynchronous
async def test_a_command_that_comes_twice_is_carried_out_once(store: Store) -> None:
    """Heard twice, in one epoch or in two; or heard, and read again."""
    async with Worker(store) as one, Away(store) as away:
        await say(one, b"%016x" % 7, said(7))
        await say(one, b"%016x" % 7, said(7))
        await one.broker.command(said(8))
        store.command("FLUSHALL")
        await say(one, b"%016x" % 7, said(7))
        await one.broker.command(said(9))
        await eventually(lambda: away.worker.said == [said(7), said(8), said(9)])
        await away.leave()
        await say(one, b"%016x" % 7, said(7))
        await away.come_back()
        await one.broker.command(said(10))
        assert away.worker.said == one.said == [said(7), said(8), said(9), said(10)]


@asynchronous
async def test_what_makes_no_sense_is_dropped_and_counted(store: Store) -> None:
    """On the pub/sub and in the stream; what comes after it is carried out."""
    async with Worker(store) as one, Worker(store) as two:
        nonsense = [
            b"", b"1p:e:1:1:[]", b"1p::0:1:{}", b'1p::0:1:{"v":2,"id":"0000000000000001","from":"w","body":{}}',
            b'1p::0:1:{"v":1,"id":"x","from":"w","body":{}}', b'1p::0:1:{"v":1,"id":"0000000000000001","body":{}}',
            b"1p::0:1:{" + b" " * (2 * message.MAX_BODY) + b"}", b"1s::0:1:x",
        ]  # fmt: skip
        for payload in nonsense:
            store.command("PUBLISH", CONTROL, payload)
        await two.broker.command(said(1))
        assert one.said == [said(1)]
        assert one.broker.counters.bus_dropped == len(nonsense)
        store.command("PUBLISH", "rt:default:answers:{" + one.name + "}", b"1a:x")
        await one.broker.command(said(2))
        assert one.broker.counters.bus_dropped == len(nonsense) + 1


@asynchronous
async def test_a_command_that_fails_does_not_cost_the_next(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; whoever gave it does not wait for it."""
    async with Worker(store) as one:
        failing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        failing.set_exception(RuntimeError("not now"))
        answers: Iterator[bytes | asyncio.Future[bytes]] = iter([failing, b"{}"])

        def fail(body: bytes) -> bytes | asyncio.Future[bytes]:
            if body == said(1):
                raise RuntimeError("no")
            return next(answers)

        one.answer = fail
        began = time.monotonic()
        for n in range(1, 4):
            await one.broker.command(said(n))
        assert time.monotonic() - began < PATIENCE * 0.8
        assert one.said == [said(1), said(2), said(3)]
        assert logged(caplog) == ["what a worker said could not be carried out"] * 2


@asynchronous
async def test_what_is_remembered_is_bounded(store: Store) -> None:
    """Ids, and nothing of what is done."""
    async with Worker(store) as one:
        for _ in range(MAX_KNOWN // 500 + 1):
            await asyncio.gather(*(one.broker.command(said(n)) for n in range(500)))
        control = one.broker._control
        assert len(control._known) == MAX_KNOWN and set(control._known.values()) == {None}
        assert not control._waiting and not one.broker._asker._asked


@pytest.mark.parametrize("seed", range(3))
@asynchronous
async def test_a_storm_of_commands_and_cuts(store: Store, seed: int) -> None:
    """Three workers give commands while all kinds of connections are killed: each worker carries out what was
    acknowledged once, nothing twice, and all in the same order."""
    chance = random.Random(seed)
    async with Worker(store) as one, Worker(store) as two, Worker(store) as three:
        workers = [one, two, three]
        await settled(*workers)
        done: set[int] = set()

        def settle(number: int, call: asyncio.Future[None]) -> None:
            if call.exception() is None:
                done.add(number)

        calls = []
        for n in range(600):
            call = chance.choice(workers).broker.command(said(n))
            call.add_done_callback(partial(settle, n))
            calls.append(call)
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            if n % 60 == 30:
                kind = chance.choice(["pubsub", "pubsub", "normal"])
                await asyncio.to_thread(store.command, "CLIENT", "KILL", "TYPE", kind)
            elif n % 60 == 45:
                cut(chance.choice(workers))
                await eventually(lambda: all(worker.broker.status().connected for worker in workers))
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*(worker.ready() for worker in workers))
        await one.broker.command(said(9999))
        await eventually(lambda: all(worker.said[-1] == said(9999) for worker in workers))
        assert len(done) > 100
        assert one.said == two.said == three.said
        assert len(set(one.said)) == len(one.said)
        assert {said(n) for n in done} <= set(one.said)
        assert sum(worker.broker.counters.control_gaps for worker in workers) == 0
