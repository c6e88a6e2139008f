"""P11: the store is away or refuses. Connections stay, publishes fail in time and never falsely, and all heals.

Most of it is judged by :func:`tests.promises.stages.endured`, whatever the fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import Api, Reply, SdkClient, on_worker
from tests.promises.stages import SLACK, R, Scene, Stage, endured, staged

Fault = Callable[[Stage], contextlib.AbstractContextManager[Any]]

GONE: list[tuple[str, Fault]] = [
    ("f01_killed", lambda stage: stage.store.killed()),
    ("f04_back_and_empty", lambda stage: stage.store.killed(empty=True)),
    ("f02_stopped", lambda stage: stage.store.stopped()),
    ("f02_client_pause", lambda stage: stage.store.client_pause(4 * R)),
    ("f14_sleeping", lambda stage: stage.store.sleeping(4 * R)),
    ("black_hole", lambda stage: stage.link.black_hole()),
    ("refused", lambda stage: stage.link.down()),
    ("f13_loading", lambda stage: stage.store.loading()),
    ("f13_busy", lambda stage: stage.store.busy()),
    ("f13_wrong_password", lambda stage: stage.store.wrong_password()),
    ("f13_no_permission", lambda stage: stage.store.forbidden("-evalsha")),
    ("f11_readonly", lambda stage: stage.store.readonly()),
]
"""Faults in which nothing can be asked of the store, and nothing be known of it."""

FULL: list[tuple[str, Fault]] = [
    ("f12_full", lambda stage: stage.store.full()),
    ("f13_unsaved", lambda stage: stage.store.unsaved()),
    ("f13_no_replicas", lambda stage: stage.store.without_replicas()),
]
"""Faults in which it takes no writes, and does all else."""


def named(faults: list[tuple[str, Fault]]) -> list[Any]:
    """For parametrize."""
    return [pytest.param(fault, id=name) for name, fault in faults]


@pytest.mark.parametrize("fault", named(GONE))
def test_p11_the_store_is_gone(stage: Stage, channel: str, fault: Fault) -> None:
    """Publishes fail within R, /ready is red within 2P, /health is green, who is connected stays; then all is well."""
    accepted = stage.link.count("accepted")
    with endured(stage, channel, fault(stage)) as scene:
        scene.wait_failures()
        scene.wait_red()
        asyncio.run(known_and_unknown(scene, channel))
    seconds = scene.ended - scene.began
    assert stage.link.count("accepted") - accepted <= 4 * (8 + 2 * seconds), (
        "connecting again and again without a pause"
    )


async def known_and_unknown(scene: Scene, channel: str) -> None:
    """On every worker: a channel that is open there can be subscribed to, another one cannot, and that is told in
    time."""
    nodes: set[str] = set()
    async with contextlib.AsyncExitStack() as stack:
        for _ in scene.stage.server.worker_pids():
            client = await on_worker(lambda: SdkClient(scene.stage.server), lambda node: node not in nodes)
            stack.push_async_callback(client.close)
            nodes.add(client.node)
            await client.subscribe(channel)
            begun = asyncio.get_running_loop().time()
            with pytest.raises(Reply) as caught:
                await client.subscribe(f"{channel}-unknown")
            took = asyncio.get_running_loop().time() - begun
            assert (caught.value.code, caught.value.temporary) == (100, True)
            assert took <= R + SLACK + scene.voices.lag


@pytest.mark.parametrize("fault", named(FULL))
def test_p11_the_store_takes_no_writes(stage: Stage, channel: str, fault: Fault) -> None:
    """What would be kept fails for certain and at once; what is not kept is delivered, history is read, nobody is
    deaf."""
    volatile, kept = f"live:{channel}", f"{channel}-kept"
    refused = stage.server.metric("rt_store_refused_total")

    async def go_on() -> None:
        async with SdkClient(stage.server) as client:
            await client.subscribe(volatile)
            await client.publish(volatile, {"id": "live"})
            await client.until(volatile, 1)
            history = await client.history(kept, limit=10)
            assert [one["data"] for one in history["publications"]] == [{"id": "before"}]

    async def before() -> None:
        async with Api(stage.server) as api:
            await api.publish(kept, {"id": "before"})

    asyncio.run(before())
    with endured(stage, channel, fault(stage)) as scene:
        scene.wait_failures()
        asyncio.run(go_on())
        assert stage.server.internal("/ready")[0] == 200
        assert max(call.took for call in scene.voices.failures()) < R
    assert stage.server.metric("rt_store_refused_total") > refused
    assert scene.told.red is None
    history = stage.store.command("XLEN", f"rt:default:{{long:{channel}-voices}}:stream")
    assert history == len(scene.voices.acked), "what was refused is not there"


def test_f02_a_short_stop_is_a_delay(stage: Stage, channel: str) -> None:
    """0.3 s are below R: nothing fails, nobody is told anything, everything comes a little later."""
    reconnects = stage.server.metric("rt_store_reconnects_total")
    with endured(stage, channel, stage.store.stopped()) as scene:
        scene.run.play(0.3)
    assert (scene.told.failed, scene.told.red) == (0, None)
    assert stage.server.metric("rt_store_reconnects_total") == reconnects


def test_f13_scripts_are_loaded_once(stage: Stage, channel: str) -> None:
    """-NOSCRIPT is nobody's concern: each worker loads the scripts once, and the calls that met it are answered."""
    reloads = stage.server.metric("rt_store_script_reloads_total")
    with endured(stage, channel, contextlib.nullcontext()) as scene:
        stage.store.forget_scripts()
        scene.run.wait(receives=60)
    assert (scene.told.failed, scene.told.red) == (0, None)
    assert 1 <= stage.server.metric("rt_store_script_reloads_total") - reloads <= 2


def test_f14_every_reply_is_slow(stage: Stage, channel: str) -> None:
    """300 ms on every reply, and only on replies: publishes take about that, and nobody waits behind anybody.

    (/ready may be red: with probes as frequent as here, 0.3 s each way is too late.)"""
    with endured(stage, channel, stage.link.slow(0.3)) as scene:
        scene.run.wait(receives=60)
    took = sorted(call.took for call in scene.voices.successes(scene.began) if call.at < scene.ended - 0.3)
    assert scene.told.failed == 0
    assert took[0] > 0.25 and took[-1] < 0.6 + scene.voices.lag, f"publishes took {took[0]:.2f} to {took[-1]:.2f} s"


def test_f01_lineage_none_is_backfilled(channel: str) -> None:
    """A store that loses nothing, with the fence off: killed and back, the channel goes on and nobody is told a gap."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with staged({"redis": {"lineage": "none"}}, options=options) as stage:
        with endured(stage, channel, stage.store.killed()) as scene:
            scene.wait_failures()
        assert [one for one in scene.records if one["do"] == "gap" or one["do"] == "left"] == []
        assert len({one["epoch"] for one in scene.records if one["do"] == "published"}) == 1


def test_f01_a_crash_is_a_new_epoch(stage: Stage, channel: str) -> None:
    """With the fence, what a crash may have lost is announced: to every reader, before anything of the new epoch."""
    with endured(stage, channel, stage.store.killed()) as scene:
        scene.wait_failures()
    readers = {one["client"] for one in scene.records if one["do"] == "follow"}
    told = {
        one["client"]
        for one in scene.records
        if one["do"] == "gap" or (one["do"] == "subscribed" and one["was_recovering"] and not one["recovered"])
    }
    assert told == readers
