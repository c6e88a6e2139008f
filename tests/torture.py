"""Random faults on a working server, and the checker's verdict: ``make torture SEED=1 STORE=redis RECEIVES=200000``.

The seed decides what happens, in which order and for how long; what comes of it is also up to the machine, so a seed
brings a run back only roughly. In the end all faults are over, probes must reach everybody, and the records are judged.
Exit status 1 with the findings, and where the raw records and the server's log lie.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests import processes
from tests.checker import Finding
from tests.faults import process
from tests.faults.link import COMMANDS, SUBSCRIBER
from tests.faults.store import Embedded, Faults, Pair
from tests.roles.cast import Run, cast, concluded
from tests.servers import CONFIG, OPEN, STREAM, Server
from tests.stores import DURABLE, binary

HEAL = 10.0
"""Seconds after the last fault until everybody must receive again."""

READY = 10.0
"""Seconds after that until all workers must run and say that they are ready."""

LONGEST = 900.0
"""Seconds after which a run is over, however little came: then COUNT says so."""

WORKERS = 3

SETTINGS: dict[str, Any] = {
    "server": {"workers": WORKERS},
    "redis": {"probe_interval": "1s"},
    "client": {"ping_interval": "5s", "pong_timeout": "2s"},
    "delivery": {
        "position_check_interval": "5s",
        "linger": "1s",
        "stall_timeout": "3s",
        # So little that a reader who does not read for a second falls behind.
        "send_buffer": "4KiB",
        "low_watermark": "4KiB",
        "pacing": {"first": "50ms", "max": "1s"},
    },
    "channel": {
        "namespaces": [*CONFIG["channel"]["namespaces"], {"name": "brief", **STREAM, **OPEN, "history_size": 20}]
    },
}

CAST: dict[str, Any] = {
    "publishers": 8,
    "rate": 8.0,
    "readers": 72,
    "per_reader": 3,
    "size": 400,
    "refusals": 0.01,
    "reconnect_every": 8.0,
    "pause_every": 10.0,
    "pause": 4.0,
    "receive_buffer": 4096,
    "move": 0.02,
    "reader_processes": 2,
}

COUNTED = ("rt_repairs_total", "rt_catch_ups_total", "rt_slow_total", "rt_store_lineage_renewals_total")
"""What the server says of itself, in the report."""

Block = AbstractContextManager[object]


@dataclass
class Scene:
    """What can be broken. ``link`` and ``pair`` are None with the embedded store."""

    server: Server
    store: Faults
    pair: Pair | None
    dice: random.Random
    channels: list[str] = field(default_factory=list)

    @property
    def primary(self) -> Faults:
        """The store that is used now."""
        return self.pair.primary if self.pair else self.store

    def worker(self) -> int:
        """One of the workers; 0 when there is none at this moment."""
        pids = self.server.worker_pids()
        return self.dice.choice(pids) if pids else 0

    def some(self) -> str:
        """Whom a fault of the line hits: all, what workers hear, or what they say."""
        return self.dice.choice(("", SUBSCRIBER, COMMANDS))


Fault = Callable[[Scene], Block]


def at_once(do: Callable[[], object]) -> Block:
    """A fault that has no end."""
    do()
    return nullcontext()


def lost_by_failover(scene: Scene) -> Block:
    """The primary dies, or is left alone, while the replica lags behind: what only it had is gone."""
    assert scene.pair is not None
    pair, kill, cut = scene.pair, scene.dice.random() < 0.5, scene.dice.random() < 0.7

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        with pair.lagging():
            time.sleep(scene.dice.uniform(0.2, 1.0))
            pair.promote(kill=kill, cut=cut)
        yield
        if not cut:
            pair.link.reset()
        pair.rejoin()

    return block()


def forget_keys(scene: Scene) -> Block:
    """One key of some channels is gone."""
    what: Any = scene.dice.choice(("meta", "stream"))
    return at_once(lambda: [scene.primary.forget(channel, what) for channel in scene.channels[::2]])


def on_worker(fault: Callable[[int], Block]) -> Fault:
    """Something happens to one worker."""

    def make(scene: Scene) -> Block:
        pid = scene.worker()
        return fault(pid) if pid else nullcontext()

    return make


def worker_signal(number: signal.Signals) -> Fault:
    """A worker gets a signal."""
    return on_worker(lambda pid: at_once(lambda: processes.kill(pid, number)))


def supervisor_signal(number: signal.Signals) -> Fault:
    """The supervisor is told to do something."""
    return lambda scene: at_once(lambda: processes.kill(scene.server.pid, number))


STORE: dict[str, Fault] = {
    "store killed": lambda scene: scene.primary.killed(),
    "store stopped cleanly": lambda scene: scene.primary.killed(clean=True),
    "store stands still": lambda scene: scene.primary.stopped(),
    "store pauses writes": lambda scene: scene.primary.client_pause(0.7, writes=True),
    "store pauses": lambda scene: scene.primary.client_pause(1.5),
    "store full": lambda scene: scene.primary.full(),
    "store without replicas": lambda scene: scene.primary.without_replicas(),
    "publish forbidden": lambda scene: scene.primary.forbidden("-evalsha"),
    "a script that does not end": lambda scene: scene.primary.busy(),
    "pub/sub killed": lambda scene: at_once(scene.primary.kill_pubsub),
    "commands killed": lambda scene: at_once(scene.primary.kill_commands),
    "pub/sub output limit": lambda scene: scene.primary.output_limit(scene.dice.choice((4096, 65536))),
    "everything flushed": lambda scene: at_once(scene.primary.flush),
    "keys forgotten": forget_keys,
    "scripts forgotten": lambda scene: at_once(scene.primary.forget_scripts),
}
"""What can happen to any store. Only one of them happens at a time."""

SEPARATE: dict[str, Fault] = {
    "store sleeps": lambda scene: scene.primary.sleeping(scene.dice.uniform(0.5, 2.0)),
    "store comes back empty": lambda scene: scene.primary.killed(empty=True),
    "store loads": lambda scene: scene.primary.loading(),
    "store read-only": lambda scene: scene.primary.readonly(),
    "another password": lambda scene: scene.primary.wrong_password(),
    "failover with loss": lost_by_failover,
    "failback": lambda scene: at_once(pair_of(scene).failback),
}
"""What needs a store of its own."""

LINE: dict[str, Fault] = {
    "slow line": lambda scene: pair_of(scene).link.slow(0.2, 0.1, to=scene.some()),
    "narrow line": lambda scene: pair_of(scene).link.narrow(20_000, to=scene.some()),
    "sliced line": lambda scene: pair_of(scene).link.sliced(7, 0.0005, to=scene.some()),
    "black hole": lambda scene: pair_of(scene).link.black_hole(to=scene.some()),
    "black hole, then reset": lambda scene: pair_of(scene).link.black_hole(to=scene.some(), reset=True),
    "black hole, one way": lambda scene: pair_of(scene).link.black_hole(scene.dice.choice(("up", "down"))),
    "hung line": lambda scene: pair_of(scene).link.hung(),
    "deaf": lambda scene: pair_of(scene).link.deaf(),
    "every 7th message dropped": lambda scene: pair_of(scene).link.dropping(7, about="{"),
    "line reset": lambda scene: at_once(lambda: pair_of(scene).link.reset(scene.some())),
    "line half closed": lambda scene: at_once(lambda: pair_of(scene).link.half_close("down", scene.some())),
    "cut within a reply": lambda scene: pair_of(scene).link.cut_after(scene.dice.randrange(1, 3000), times=3),
    "cut within a command": lambda scene: pair_of(scene).link.cut_after(scene.dice.randrange(1, 3000), "up", times=3),
    "line down": lambda scene: pair_of(scene).link.down(),
}
"""What can happen between the server and a store of its own."""

PROCESS: dict[str, Fault] = {
    "worker killed": worker_signal(signal.SIGKILL),
    "worker told to end": worker_signal(signal.SIGTERM),
    "worker stands still": on_worker(process.stopped),
    "no descriptors": on_worker(lambda pid: process.descriptors(pid, 3)),
    "busy neighbour": lambda scene: process.busy_neighbour(),
    "reload": supervisor_signal(signal.SIGHUP),
    "workers replaced": supervisor_signal(signal.SIGUSR2),
}
"""What can happen to the server itself."""


def pair_of(scene: Scene) -> Pair:
    """The pair of stores, which faults of the line need."""
    assert scene.pair is not None
    return scene.pair


class Torture:
    """Random faults, one after the other and at the same time, until enough was received."""

    def __init__(self, scene: Scene, run: Run, only: str, out: Callable[[str], None]) -> None:
        self.scene = scene
        self.run = run
        self.dice = scene.dice
        self.out = out
        groups = [STORE, PROCESS] if scene.pair is None else [{**STORE, **SEPARATE}, LINE, PROCESS]
        self.groups = [{name: fault for name, fault in group.items() if only in name} for group in groups]
        self.chance = 1.0 if only else 0.55
        self.happened: collections.Counter[str] = collections.Counter()

    def round(self) -> None:
        """Some quiet time, then some faults together."""
        self.run.play(self.dice.choice((0.3, 1.0, 3.0)))
        with ExitStack() as stack:
            for group in self.dice.sample(self.groups, len(self.groups)):
                if group and self.dice.random() < self.chance:
                    self.begin(stack, *self.dice.choice(sorted(group.items())))
                    self.run.play(self.dice.uniform(0.0, 0.5))
            self.run.play(self.dice.choice((0.2, 0.7, 1.5, 4.0)))

    def begin(self, stack: ExitStack, name: str, fault: Fault) -> None:
        """One fault, until the end of the round. What cannot be done at this moment is left out, and said."""
        try:
            stack.enter_context(self.run.fault(name))
            stack.enter_context(fault(self.scene))
        except (redis.RedisError, OSError, AssertionError) as error:
            self.out(f"{name}: not done ({error.__class__.__name__}: {str(error)[:100]})")
        else:
            self.happened[name] += 1
            self.out(name)

    def until(self, receives: int) -> None:
        """Round after round."""
        end = time.monotonic() + LONGEST
        while self.run.receives < receives and time.monotonic() < end:
            self.round()


@contextlib.contextmanager
def stores(kind: str, dice: random.Random) -> Iterator[Pair | None]:
    """A pair of separate stores, which keep all or nothing when they die; None for the embedded one."""
    if kind == "embedded":
        yield None
        return
    program = "redis-server" if kind == "redis" and binary("redis-server") else "valkey-server"
    durable = dice.random() < 0.5
    with Pair(program, options=DURABLE if durable else ()) as pair:
        print(f"store {program}, {'durable' if durable else 'in memory only'}")
        yield pair


def torture(seed: int, kind: str, receives: int, only: str, folder: Path) -> list[Finding]:
    """One run; the findings."""
    dice = random.Random(seed)
    begun = time.monotonic()

    def out(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {text}", flush=True)

    with stores(kind, dice) as pair, ExitStack() as stack:
        changes = {**SETTINGS, "redis": {**SETTINGS["redis"], "url": pair.url if pair else "embedded"}}
        server = stack.enter_context(Server(changes))
        stack.callback(lambda: shutil.copy(server.log_file, folder / "server.log"))
        scene = Scene(server, pair.primary if pair else Embedded(server), pair, dice)
        names = [f"t{number}-{os.getpid()}" for number in range(3)] + [
            f"brief:t-{os.getpid()}",
            f"long:t-{os.getpid()}",
        ]
        with cast(server, channels=names, seed=seed, folder=folder, **CAST) as run:
            scene.channels = run.channels
            work = Torture(scene, run, only, out)
            work.until(receives)
            findings = finish(server, run, receives, out)
            out(f"faults: {listed(work.happened)}")
    return findings


def finish(server: Server, run: Run, receives: int, out: Callable[[str], None]) -> list[Finding]:
    """Probe, judge."""
    out("all faults are over")
    run.stop(HEAL)
    findings = []
    try:
        server.wait_workers(timeout=READY)
    except AssertionError as error:
        findings.append(Finding("STUCK", f"the server is not ready {READY:g} s later: {str(error)[:300]}"))
    least = {"recv": receives, "published": receives // 100, "subscribed": receives // 1000, "fault": receives // 5000}
    findings += run.judge(least)
    counts = collections.Counter(record["do"] for record in run.records())
    codes = collections.Counter(record["code"] for record in run.records() if record["do"] in ("closed", "error"))
    out(f"records: {listed(counts)}")
    out(f"closes and errors: {listed(codes)}")
    out(f"server: {listed({name: int(server.metric(name)) for name in COUNTED})}")
    out(f"healed after {run.healed:.1f} s" if run.healed is not None else "not healed")
    return findings


def listed(counts: Mapping[Any, int]) -> str:
    """Most first."""
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items(), key=lambda item: -item[1]))


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make torture", description="Random faults, and what the checker says.")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--store", choices=("embedded", "redis", "valkey"), default="embedded")
    parser.add_argument("--receives", type=int, default=200_000)
    parser.add_argument("--only", default="", help="only faults with this in their name")
    chosen = parser.parse_args(arguments)
    print(f"SEED={chosen.seed} STORE={chosen.store} RECEIVES={chosen.receives}", flush=True)
    return concluded(
        f"torture-{chosen.seed}",
        lambda folder: torture(chosen.seed, chosen.store, chosen.receives, chosen.only, folder),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
