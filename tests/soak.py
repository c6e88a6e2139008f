"""A long run under steady load, with what happens in the life of a server: ``make soak MINUTES=20 STORE=embedded``.

Clients come and go all the time; now and then a worker is killed, the store restarts, the workers are replaced or the
config is loaded anew. Once a minute, and in the end, a line says what every worker weighs. It fails when the checker
finds something, when memory goes on growing, when anything that a worker keeps is not back at the baseline that was
taken after warming up, or when the log holds a traceback.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests import processes
from tests.checker import Finding
from tests.faults.store import Embedded, Faults, Store
from tests.leaks import Baseline, kept
from tests.roles.cast import Run, cast, concluded
from tests.servers import Server

WARM_UP = 20.0
"""Seconds at full load before anything is measured."""

SLOPE = 1.0
"""MiB per hour that a worker may grow, in a run of at least an hour."""

NOISE = 2.0
"""MiB that a worker may have grown in the whole run, whatever its length: a short one says nothing about hours."""

LOOK = 5.0
"""Seconds between two looks at the memory."""

CHURN = {"readers": 90, "reconnect_every": 3.0, "per_reader": 3, "publishers": 6, "rate": 10.0, "channels": 6}
"""The cast: about thirty connections come and go per second."""


@dataclass
class Memory:
    """What each worker weighed when, in MiB by seconds. A worker that was replaced begins anew under another number."""

    seen: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def look(self, server: Server, now: float) -> None:
        """Weigh every worker."""
        for pid in server.worker_pids():
            with suppress(OSError):
                if size := processes.resident_bytes(pid):  # one that has just died has none
                    self.seen[pid].append((now, size / (1 << 20)))

    def slope(self, pid: int) -> float:
        """MiB per hour: the straight line that fits best, without the time in which this worker warmed up."""
        points = self.points(pid)
        if len(points) < 3:
            return 0.0
        middle = sum(at for at, _ in points) / len(points)
        weight = sum(size for _, size in points) / len(points)
        spread = sum((at - middle) ** 2 for at, _ in points)
        return sum((at - middle) * (size - weight) for at, size in points) / spread * 3600

    def points(self, pid: int) -> list[tuple[float, float]]:
        """The looks at one worker after it was warm."""
        seen = self.seen[pid]
        warm = max(WARM_UP, (seen[-1][0] - seen[0][0]) / 4)
        return [(at, size) for at, size in seen if at >= seen[0][0] + warm]

    def growth(self, pid: int) -> float:
        """MiB that the fitted line rose over the time that was looked at."""
        points = self.points(pid)
        return self.slope(pid) * (points[-1][0] - points[0][0]) / 3600 if len(points) >= 3 else 0.0

    def line(self) -> str:
        """One figure per worker that was seen for a while."""
        return "; ".join(
            f"worker {pid}: {seen[-1][1]:.1f} MiB, {self.slope(pid):+.2f} MiB/h over {seen[-1][0] - seen[0][0]:.0f} s"
            for pid, seen in self.seen.items()
            if len(self.points(pid)) >= 3
        )

    def findings(self) -> list[Finding]:
        """Workers that grow."""
        return [
            Finding("LEAK", f"worker {pid} grows by {self.slope(pid):.1f} MiB/h ({self.growth(pid):.1f} MiB in all)")
            for pid in self.seen
            if self.growth(pid) > max(NOISE, SLOPE * (self.seen[pid][-1][0] - self.seen[pid][0][0]) / 3600)
        ]


class Soak:
    """The load, and what happens beside it."""

    def __init__(self, server: Server, store: Faults, run: Run, seed: int) -> None:
        self.server = server
        self.store = store
        self.run = run
        self.dice = random.Random(seed)
        self.memory = Memory()
        self.begun = time.monotonic()

    def out(self, text: str) -> None:
        """A line of the report."""
        print(f"{time.monotonic() - self.begun:7.0f} s  {text}", flush=True)

    def live(self, minutes: float) -> None:
        """For so long. What replaces workers happens in the first third: the rest of the time shows how those grow that
        are there then, also while the store restarts."""
        length = minutes * 60
        early = [self.kill_worker, self.restart_store, self.replace_workers, self.reload] * 2
        late = [self.restart_store, self.reload, self.restart_store]
        moments = [(number + 1) / len(early) / 3 for number in range(len(early))]
        moments += [1 / 3 + (number + 1) / (len(late) + 1) * 2 / 3 for number in range(len(late))]
        for moment, happening in zip(moments, early + late, strict=True):
            self.watch(self.begun + length * moment)
            self.out(happening.__doc__ or "")
            with self.run.fault(happening.__name__):
                happening()
        self.watch(self.begun + length)

    def watch(self, until: float) -> None:
        """Look on, and say once a minute what there is to say."""
        said = time.monotonic()
        while (now := time.monotonic()) < until:
            self.memory.look(self.server, now - self.begun)
            self.run.play(min(LOOK, until - now))
            if now - said > 60:
                said = now
                self.out(f"{self.run.receives} receives; {self.memory.line()}")

    def kill_worker(self) -> None:
        """a worker is killed"""
        self.server.kill_worker(self.dice.choice(self.server.worker_pids()))

    def restart_store(self) -> None:
        """the store is killed and comes back"""
        with self.store.killed():
            pass

    def replace_workers(self) -> None:
        """the workers are replaced"""
        processes.kill(self.server.pid, signal.SIGUSR2)

    def reload(self) -> None:
        """the config is loaded anew"""
        processes.kill(self.server.pid, signal.SIGHUP)


def soak(minutes: float, kind: str, seed: int, folder: Path) -> list[Finding]:
    """One run; the findings."""
    with ExitStack() as stack:
        own = None if kind == "embedded" else stack.enter_context(Store(f"{kind}-server"))
        server = stack.enter_context(Server({"redis": {"url": own.url}} if own else None))
        stack.callback(lambda: shutil.copy(server.log_file, folder / "server.log"))
        with cast(server, seed=seed, namespace="long:", folder=folder / "warm-up", **CHURN) as run:
            run.play(WARM_UP)
            run.assert_clean(at_least=1000)
        baseline = Baseline(server)
        print(f"baseline: {baseline.kept}", flush=True)
        with cast(server, seed=seed, folder=folder, **CHURN) as run:
            work = Soak(server, own or Embedded(server), run, seed)
            work.live(minutes)
            server.wait_workers()
            run.stop()
            findings = run.judge({"recv": int(minutes * 1000), "subscribed": int(minutes * 200)})
            counts = Counter(record["do"] for record in run.records())
            work.out(f"{counts['recv']} receives, {counts['subscribed']} subscriptions, {counts['gap']} gaps")
        findings += work.memory.findings()
        findings += [Finding("LEAK", text) for text in baseline.left()]
        work.out(f"in the end: {kept(server)}; {work.memory.line()}")
    return findings


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make soak", description="A long run, and what is left behind.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--store", choices=("embedded", "redis", "valkey"), default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    return concluded("soak", lambda folder: soak(chosen.minutes, chosen.store, chosen.seed, folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
