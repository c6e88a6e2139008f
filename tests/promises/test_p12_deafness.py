"""P12: a worker that no longer hears the store notices by itself, says so, and mends it.

Everything looks healthy in these: connections are up, PING is answered, publishes are acknowledged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.faults.link import COMMANDS, SUBSCRIBER
from tests.faults.store import Pair, Store
from tests.promises.stages import Stage, Watch, doubled, endured
from tests.waiting import eventually_now


def test_p12_pushes_are_swallowed(stage: Stage, channel: str) -> None:
    """PING and SUBSCRIBE are answered, nothing that is published comes through; publishes go on meanwhile."""
    with endured(stage, channel, stage.link.deaf(to=SUBSCRIBER)) as scene:
        scene.wait_red()
        failed = len(scene.voices.failures())
        swallowed = stage.link.count("swallowed")
        eventually_now(lambda: stage.link.count("swallowed") > swallowed + 10, what="more is published and not heard")
    assert failed == scene.told.failed == 0
    assert scene.voices.acked


def test_p12_one_worker_is_deaf(stage: Stage, channel: str) -> None:
    """/ready speaks for all workers: one that is deaf makes it red, and only its connection is replaced."""
    one, other = sorted(stage.link.clients(SUBSCRIBER))
    before = connected(stage.store)
    with endured(stage, channel, stage.link.deaf(to=one)) as scene:
        scene.wait_red()
    after = connected(stage.store)
    assert before[one] != after[one] and before[other] == after[other]


def test_p12_pointed_at_an_empty_store(stage: Stage, channel: str) -> None:
    """The subscriber's line leads to another store, which confirms every subscribe and has nothing to say."""
    with Store() as empty, endured(stage, channel, stage.link.pointed_at(empty, to=SUBSCRIBER)) as scene:
        scene.wait_red()


def test_p12_left_on_a_demoted_primary(channel: str) -> None:
    """After a failover the commands go to the new primary, while the subscriber still hangs on the old one."""
    with doubled() as (pair, stage):
        with endured(stage, channel, left_behind(pair)) as scene:
            scene.wait_red()
        assert set(connected(pair.primary)) == set(pair.link.clients())


@contextlib.contextmanager
def left_behind(pair: Pair) -> Iterator[None]:
    """The replica is promoted and only who asks is moved; the line then still leads both ways until the end."""
    old = pair.primary
    pair.promote(kill=False, cut=False)
    pair.link.point(old, to=SUBSCRIBER)
    pair.link.reset(COMMANDS)
    try:
        yield
    finally:
        pair.link.point(pair.primary, to=SUBSCRIBER)


def test_p12_a_probe_that_cannot_be_published_proves_nothing(stage: Stage) -> None:
    """Nobody knows then whether the worker is deaf: it says that it is not ready, and leaves the subscriber alone."""
    before = connected(stage.store)
    failures = stage.server.metric("rt_store_probe_failures_total")
    with Watch(stage) as watch, stage.store.forbidden("-evalsha"):
        eventually_now(lambda: stage.server.metric("rt_store_probe_failures_total") >= failures + 6, what="probes fail")
        eventually_now(lambda: any(not ready for _, ready in watch.ready), what="/ready is red")
    after = connected(stage.store)
    assert {name: number for name, number in before.items() if SUBSCRIBER in name} == {
        name: number for name, number in after.items() if SUBSCRIBER in name
    }
    stage.server.wait_ready()


def connected(store: Store) -> dict[str, int]:
    """The workers' connections to the store: the numbers it gave them, by name."""
    lines = store.command("CLIENT", "LIST").decode().splitlines()
    clients = [dict(pair.split("=", 1) for pair in line.split(" ")) for line in lines]
    return {client["name"]: int(client["id"]) for client in clients if client["name"]}
