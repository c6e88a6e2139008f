"""A server of two workers, a store, and a line between them that can fail: what the store's faults happen to."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

from tests.checker import Record
from tests.clients import Api, Place, Reply, SdkClient, on_worker
from tests.faults.link import Link
from tests.faults.store import Pair, Store
from tests.promises.insides import Insides, looked_into
from tests.roles.cast import HEAL, Run, cast
from tests.servers import API_KEY, OPEN, STREAM, WHOLE, Server, merged
from tests.waiting import eventually_now

R = 0.6
"""``redis.timeout``: seconds after which a call has failed."""

P = 0.5
"""``redis.probe_interval``."""

TICK = 0.3
"""Seconds until a worker's state stands where /ready reads it, and somebody has asked."""

SLACK = 0.2
"""Seconds by which a call may fail later than R, as promised."""

CONFIG = merged(
    WHOLE,
    {
        "redis": {"probe_interval": f"{P * 1000:g}ms", "timeout": f"{R:g}s", "connect_timeout": f"{R:g}s"},
        "channel": {
            "namespaces": [
                *WHOLE["channel"]["namespaces"],
                {"name": "brief", **STREAM, **OPEN, "history_ttl": "1s"},
            ]
        },
    },
)
"""Short intervals, so that a fault is noticed and healed while one watches."""


class Stage(NamedTuple):
    """The three of them, and a view into the workers."""

    store: Store
    link: Link
    server: Server
    insides: Insides


@contextlib.contextmanager
def staged(
    changes: dict[str, Any] | None = None, *, options: Sequence[str] = (), program: str = "valkey-server"
) -> Iterator[Stage]:
    """Build it up, with ``changes`` to the config and ``options`` of the store, and take it down."""
    with Store(program, options=options) as store, Link(store) as link:
        server = Server(merged(merged(CONFIG, {"redis": {"url": link.url}}), changes or {}))
        with looked_into(server) as insides:
            yield Stage(store, link, server, insides)


@contextlib.contextmanager
def doubled(program: str = "valkey-server") -> Iterator[tuple[Pair, Stage]]:
    """The same on a primary and its replica."""
    with Pair(program) as pair:
        server = Server(merged(CONFIG, {"redis": {"url": pair.url}}))
        with looked_into(server) as insides:
            yield pair, Stage(pair.primary, pair.link, server, insides)


async def until_acked(api: Api, channel: str, data: Any, key: str) -> Place:
    """Publish with a key, and repeat as long as the outcome is unknown."""
    while True:
        try:
            return await api.publish(channel, data, idempotency_key=key)
        except Reply as reply:
            assert reply.code == 100
            await asyncio.sleep(0.02)


def wait_more(count: Callable[[], float], by: int = 1, what: str = "") -> None:
    """Until it has grown by so much from what it is now."""
    before = count()
    eventually_now(lambda: count() >= before + by, what=what)


class Call(NamedTuple):
    """One publish: when it was made, how long it took, and its code; 0 for an acknowledgement."""

    at: float
    took: float
    code: int


class Threads:
    """Work that goes on beside a ``with`` block, until :attr:`over` is set at its end."""

    def __init__(self, *work: Callable[[], None]) -> None:
        self.over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()


class Voices(Threads):
    """Publish all the time, each voice one call after the other over a connection of its own; nothing is repeated."""

    def __init__(self, server: Server, channel: str, count: int = 3, pause: float = 0.03) -> None:
        self.server = server
        self.channel = channel
        self.pause = pause
        self.calls: list[Call] = []
        self.acked: dict[str, int] = {}
        self.failed: set[str] = set()
        self.lag = 0.0
        super().__init__(*[self._speak] * count, self._measure)

    def _speak(self) -> None:
        there = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10 * R)
        head = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        with contextlib.closing(there):
            while not self.over.wait(self.pause):
                one = secrets.token_hex(8)
                body = json.dumps({"channel": self.channel, "data": {"id": one}})
                at = time.monotonic()
                there.request("POST", "/api/publish", body, head)
                answer = json.loads(there.getresponse().read())
                code = answer.get("error", {}).get("code", 0)
                self.calls.append(Call(at, time.monotonic() - at, code))
                if code:
                    self.failed.add(one)
                else:
                    self.acked[one] = answer["result"]["offset"]

    def _measure(self) -> None:
        """How long this process itself stood still at most: nobody else is to be blamed for that."""
        last = time.monotonic()
        while not self.over.wait(0.01):
            now = time.monotonic()
            self.lag, last = max(self.lag, now - last - 0.01), now

    def failures(self, since: float = 0.0) -> list[Call]:
        """The calls that failed, of those made at or after ``since``."""
        return [call for call in list(self.calls) if call.code and call.at >= since]

    def successes(self, since: float) -> list[Call]:
        """The same for those that were acknowledged."""
        return [call for call in list(self.calls) if not call.code and call.at >= since]


class Watch(Threads):
    """Looks at /ready, /health and the workers' tasks all the time: ``with Watch(stage) as watch``."""

    def __init__(self, stage: Stage) -> None:
        self.server, self.insides = stage.server, stage.insides
        self.ready: list[tuple[float, bool]] = []
        self.health: list[tuple[float, int]] = []
        self.ages: dict[str, float] = {}
        super().__init__(self._look, self._look_inside)

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.ready.append((time.monotonic(), self.server.internal("/ready")[0] == 200))
            self.health.append((time.monotonic(), self.server.internal("/health")[0]))

    def _look_inside(self) -> None:
        while not self.over.wait(0.1):
            for pid in self.server.worker_pids():
                for name, age in self.insides.tasks(pid):
                    self.ages[name] = max(age, self.ages.get(name, 0.0))

    def red(self, since: float) -> float | None:
        """Seconds from ``since`` until /ready was red; None as long as it is not."""
        return next((at - since for at, ready in list(self.ready) if at >= since and not ready), None)


class Told(NamedTuple):
    """What a fault did, in seconds: until /ready was red (None: never), the slowest failure, and until all was well."""

    red: float | None
    slowest: float
    healed: float
    failed: int


LASTING = {
    "Worker.run", "Worker._beat", "Tenant._say_again", "App._count", "Probe._run", "supervise",
    "HTTP1ServerConnection._server_request_loop",
    # Waits for the store with pauses of its own, and asks nothing for longer than R.
    "Channel._repair",
}  # fmt: skip
"""Tasks that are there as long as the worker, the connection or the trouble is."""


@contextlib.contextmanager
def endured(
    stage: Stage, channel: str, what: contextlib.AbstractContextManager[Any], **options: Any
) -> Iterator[Scene]:
    """A fault around the block, and everything around the fault: readers at all doors and publishers, voices that call
    without a pause, and a watch over what the server says of itself. After the fault all must be well by itself.
    ``options`` are of the cast."""
    mark = len(stage.server.log())
    chosen = {"readers": 6, "publishers": 2, "rate": 20, "channels": [channel], "per_reader": 1, **options}
    asyncio.run(opened(stage.server, channel))
    with (
        cast(stage.server, **chosen) as run,
        Watch(stage) as watch,
        Voices(stage.server, f"long:{channel}-voices") as voices,
    ):
        eventually_now(lambda: len(voices.successes(0.0)) >= 6, what="publishes are acknowledged")
        run.wait(receives=30)
        scene = Scene(stage, run, watch, voices, time.monotonic())
        with what:
            scene.began = time.monotonic()
            yield scene
        scene.ended = time.monotonic()
        scene.heal()
        scene.judge(stage.server.log()[mark:])


async def opened(server: Server, channel: str) -> None:
    """Every worker follows the channel; it goes on doing so for the linger time, also without the readers to come."""
    nodes: set[str] = set()
    for _ in server.worker_pids():
        client = await on_worker(lambda: SdkClient(server), lambda node: node not in nodes)
        nodes.add(client.node)
        await subscribed(partial(client.subscribe, channel))
        await client.close()


async def subscribed(subscribe: Callable[[], Awaitable[object]]) -> None:
    """Subscribe, and try again as long as the server says so."""
    while True:
        try:
            await subscribe()
            return
        except Reply as reply:
            assert reply.temporary
            await asyncio.sleep(0.02)


class Scene:
    """A fault that is in force."""

    def __init__(self, stage: Stage, run: Run, watch: Watch, voices: Voices, now: float) -> None:
        self.stage, self.run, self.watch, self.voices = stage, run, watch, voices
        self.began = self.ended = now
        self.healed = 0.0
        self.records: list[Record] = []
        self.told = Told(None, 0.0, 0.0, 0)

    def wait_red(self) -> float:
        """Until /ready is red, which it must be within two probe intervals."""
        eventually_now(lambda: self.watch.red(self.began) is not None, what="/ready is red")
        red = self.watch.red(self.began)
        assert red is not None and red <= 2 * P + TICK + self.voices.lag, f"/ready was red only after {red:.2f} s"
        return red

    def wait_failures(self, count: int = 6) -> None:
        """Until so many publishes have failed, as they must, and none that was made meanwhile has not."""
        eventually_now(lambda: len(self.voices.failures(self.began)) >= count, what=f"{count} publishes fail")

    def heal(self) -> None:
        """Every reader receives again what is published, publishes are acknowledged, and /ready says so."""
        self.run.set_rate(0)
        assert self.run.probe(HEAL) is not None, f"somebody receives nothing {HEAL:g} s after the fault"
        eventually_now(lambda: self.voices.successes(self.ended), HEAL, "publishes are acknowledged again")
        self.stage.server.wait_ready(HEAL)
        self.healed = time.monotonic() - self.ended
        assert self.healed <= HEAL

    def judge(self, log: str) -> None:
        """Everything that is promised whatever the fault."""
        voices, watch = self.voices, self.watch
        self.records = self.run.assert_clean(at_least=36)
        failures = voices.failures()
        slowest = max((call.took for call in failures), default=0.0)
        assert {call.code for call in failures} <= {100}, failures
        assert slowest <= R + SLACK + voices.lag, f"a publish failed only after {slowest:.2f} s"
        assert all(status == 200 for _, status in watch.health), "/health was not green"
        old = {name: age for name, age in watch.ages.items() if name not in LASTING and age > 2 * R}
        assert not old, f"tasks that were pending for longer than {2 * R:g} s: {old}"
        assert_quiet(log, self.ended - self.began)
        self.told = Told(watch.red(self.began), slowest, self.healed, len(failures))
        print(f"\n{self.told}")


_TROUBLE = re.compile(r"rt\.broker\[worker (\d+)\] (.*)")


def assert_quiet(log: str, seconds: float) -> None:
    """At most one line per class of trouble, worker and ten seconds."""
    classes: Counter[tuple[str, str]] = Counter()
    for worker, text in _TROUBLE.findall(log):
        kind = re.search(r"\((\w+)\)", text)
        classes[worker, kind[1] if kind else text] += 1
    most = 1 + seconds // 10
    assert all(count <= most for count in classes.values()), f"{classes}\n{log}"
