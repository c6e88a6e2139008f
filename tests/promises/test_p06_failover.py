"""P6: a failover may lose what was acknowledged, but everybody is told, and no offset of an epoch is used twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from tests.checker import Record
from tests.clients import Api
from tests.faults.link import COMMANDS
from tests.faults.store import Pair, Store
from tests.promises.stages import Stage, doubled, endured, until_acked
from tests.waiting import eventually_now

PROGRAMS = ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]


@pytest.fixture(scope="module", params=PROGRAMS)
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, Stage]]:
    """A primary and its replica under a server of two workers."""
    with doubled(request.param) as built:
        yield built


def top(store: Store, channel: str) -> int:
    """The highest offset that a store has given."""
    return int(store.command("HGET", f"rt:default:{{{channel}}}:meta", "offset") or 0)


def told(records: list[Record], epoch: str) -> set[str]:
    """The readers that were told of that epoch, by a gap or by a subscription that says what it is not."""
    return {
        one["client"]
        for one in records
        if one["do"] in ("gap", "subscribed") and one["epoch"] == epoch and not one.get("recovered")
    }


def test_p06_f10_a_lagging_replica_is_promoted(both: tuple[Pair, Stage], channel: str) -> None:
    """The replica lacks the newest acknowledged publications when the primary is killed. What they
    carried is lost, and everybody is told."""
    pair, stage = both
    with endured(stage, channel, pair.lagging(), rate=60) as scene:
        behind = top(pair.replica, channel)
        scene.run.wait(receives=200)
        lost = top(pair.primary, channel) - behind
        assert lost > 20, "nothing would be lost"
        pair.promote()
        scene.run.wait(receives=60)
    judge(scene.records, lost)
    pair.rejoin()


def judge(records: list[Record], lost: int) -> None:
    """Everybody is in the new epoch and was told so; what is gone is only what the replica did not have."""
    published = [one for one in records if one["do"] == "published"]
    epochs = list(dict.fromkeys(one["epoch"] for one in published))
    readers = {one["client"] for one in records if one["do"] == "follow"}
    assert len(epochs) >= 2
    assert told(records, epochs[-1]) == readers
    assert lost <= len(published)


def test_p06_failover_and_failback(both: tuple[Pair, Stage], channel: str) -> None:
    """Promote, publish, fail back, publish: three epochs of one channel, none of them twice."""
    pair, stage = both
    with endured(stage, channel, contextlib.nullcontext(), rate=60) as scene:
        with pair.lagging():
            scene.run.wait(receives=100)
            pair.promote()
            scene.run.wait(receives=60)
        pair.failback()
        scene.run.wait(receives=60)
    epochs = {one["epoch"] for one in scene.records if one["do"] == "published"}
    assert len(epochs) >= 3


def test_p06_two_workers_with_different_views(both: tuple[Pair, Stage], channel: str) -> None:
    """One worker already speaks to the new primary while the other still writes to the old one: what both acknowledge
    at the same offset is of two epochs, and when the old one is gone, everybody is told."""
    pair, stage = both
    one = sorted(stage.link.clients(COMMANDS))[0].removesuffix(COMMANDS)
    with endured(stage, channel, pair.lagging(), rate=40, publishers=6, move=0.2) as scene:
        old = pair.primary
        pair.promote(kill=False, cut=False)
        stage.link.reset(one)
        before = top(old, channel), top(pair.primary, channel)
        eventually_now(lambda: top(old, channel) > before[0] + 20, what="the old primary takes writes")
        eventually_now(lambda: top(pair.primary, channel) > before[1] + 20, what="so does the new one")
        stage.link.reset()
        scene.run.wait(receives=60)
    pair.rejoin()
    epochs = {one["epoch"] for one in scene.records if one["do"] == "published"}
    assert len(epochs) >= 2


def test_p05_retry_after_failover(both: tuple[Pair, Stage], channel: str) -> None:
    """A repeat of what the failover lost is published anew, in the new epoch; of what it kept, too: that epoch is over.
    Repeats of the repeat give the same."""
    pair, stage = both

    async def run() -> None:
        async with Api(stage.server) as api:
            kept = await api.publish(channel, "kept", idempotency_key="kept")
            await asyncio.to_thread(pair.wait_synced)
            with pair.lagging():
                await api.publish(channel, "lost", idempotency_key="lost")
                await asyncio.to_thread(pair.promote)  # the old primary is gone, and what only it had
            again = [await until_acked(api, channel, key, key) for key in ("lost", "kept", "lost", "kept")]
            assert again[:2] == again[2:] and kept.epoch != again[0].epoch
            assert [place.offset for place in again[:2]] == [1, 2]
            await asyncio.to_thread(pair.rejoin)

    asyncio.run(run())
    stage.server.wait_ready()


def test_f11_a_demoted_primary_is_left(both: tuple[Pair, Stage], channel: str) -> None:
    """The primary becomes a replica and cuts nobody off: every worker leaves it by itself, with both its connections,
    for the new one."""
    pair, stage = both
    with endured(stage, channel, contextlib.nullcontext()) as scene:
        old = pair.primary
        pair.promote(kill=False, cut=False)
        old.command("REPLICAOF", "127.0.0.1", pair.primary.port)
        scene.run.wait(receives=60)
    epochs = {one["epoch"] for one in scene.records if one["do"] == "published"}
    assert len(epochs) >= 2
    pair.rejoin()
