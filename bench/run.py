"""What a delivery, a connection and a publish cost, measured over the whole path and put beside two yardsticks.

The worker alone runs on core 0; store, publishers and subscribers run on core 1. CPU is read from /proc per unit of
work, which is steady even where the machine is shared; latency is from the start of the POST to the end of the
subscriber's recv(). A figure is the median of several rounds, given as a ratio to a yardstick of the same run: a C
loop of one send() per delivery, and stock Tornado.

No figure is printed when deliveries are missing, a subscriber was cut off, a publish was refused, or the load's core
was more than 90 % busy (then the load was measured, not the server). Exit status 1 when any figure is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from targets import LOAD_CORE, SERVER_CORE, Floor, Rt, Stock, Target, Unavailable, idle_seconds

HERE = Path(__file__).resolve().parent
FRAME = 86
BUSIEST = 0.90
SETTLE = 0.3  # seconds until what was opened or closed before costs nothing any more
SPARE_ROUNDS = 3
PATIENCE = 15.0
REST = 0.5  # of a lone publisher, in times of its last answer: one core must receive what another sends
DOORS = {"sdk": "WebSocket", "ws": "/ws", "sse": "SSE"}


class Refused(Exception):
    """A measurement that would not be true."""


class Overloaded(Refused):
    """The load's core had no time left: another round may be better, when something else on the machine took it."""


@dataclass
class Figure:
    """One measured thing: microseconds of server CPU per unit, against a yardstick, or why there is no figure."""

    what: str
    cpu_us: float | None = None
    ratio: float | None = None
    yardstick: str = ""
    refused: str = ""
    more: dict[str, Any] = field(default_factory=dict)


class Load:
    """load.c against one target, spoken to over its standard input and output."""

    def __init__(
        self, binary: Path, target: Target, door: str, subs: int, channels: int = 1, prefix: str = "bench:"
    ) -> None:
        # What an 86-byte frame of the SDK's protocol leaves for padding, with a four-digit offset and without.
        pad = 0 if prefix == "bench:" else 10
        options = {"port": target.port, "door": door, "subs": subs, "channels": channels, "prefix": prefix, "pad": pad}
        if target.key:
            options["key"] = target.key
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.target = target
        self.process = subprocess.Popen(
            [str(binary), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}),
        )

    def line(self) -> dict[str, Any]:
        """The next line; Refused when the load failed."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(
            self.process.stdout.readline() or '{"event":"failed","why":"the load ended"}'
        )
        if answer["event"] == "failed":
            raise Refused(answer["why"])
        return answer

    def run(self, publishers: int, seconds: float) -> tuple[dict[str, Any], float]:
        """Publish for a while; what the load saw, and the seconds of server CPU. Refused when it is not sound."""
        assert self.process.stdin is not None
        cpu, idle, start = self.target.cpu(), idle_seconds(LOAD_CORE), time.monotonic()
        with suppress(BrokenPipeError):  # then the next line says why
            self.process.stdin.write(f"run {publishers} {seconds} {REST if publishers == 1 else 0}\n")
        seen = self.line()
        busy = 1 - (idle_seconds(LOAD_CORE) - idle) / (time.monotonic() - start)
        used = self.target.cpu() - cpu
        if seen["cut"] or seen["refused"] or seen["unanswered"]:
            raise Refused(
                f"{seen['cut']} subscribers cut, {seen['refused']} publishes refused, {seen['unanswered']} unanswered"
            )
        if seen["deliveries"] != seen["expected"]:
            raise Refused(f"{seen['deliveries']} of {seen['expected']} deliveries")
        if busy > BUSIEST:
            raise Overloaded(f"the load's core was {busy:.0%} busy")
        return {**seen, "load_busy": round(busy, 3)}, used

    def quiet(self) -> None:
        """Wait, with a bound, until nothing else takes the time of the two cores."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            idle, start = [idle_seconds(core) for core in (SERVER_CORE, LOAD_CORE)], time.monotonic()
            time.sleep(SETTLE)
            spent = time.monotonic() - start
            if all(
                idle_seconds(core) - was > 0.9 * spent for core, was in zip((SERVER_CORE, LOAD_CORE), idle, strict=True)
            ):
                return

    def warm(self, publishers: int) -> None:
        """Publish for a moment that is not measured."""
        with suppress(Overloaded):
            self.run(publishers, 0.3)

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def subscribers(
    binary: Path, target: Target, door: str, subs: int, **options: Any
) -> Iterator[tuple[Load, float, int]]:
    """Subscribers that are all live: the load, the server CPU they cost in seconds, and the memory in bytes."""
    time.sleep(SETTLE)
    cpu, rss = target.cpu(), target.rss()
    load = Load(binary, target, door, subs, **options)
    try:
        load.line()
        time.sleep(SETTLE)
        yield load, target.cpu() - cpu, target.rss() - rss
    finally:
        load.close()


class Bench:
    """One run. The floor is measured anew before each server: a shared machine is another one minutes later."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.seconds = options.seconds
        self.count = options.rounds
        self.sizes = sorted(options.subs)
        self.flights = options.in_flight
        self.doors = options.doors
        self.load = build(HERE / "load.c", folder)
        self.floor = build(HERE / "floor.c", folder)
        self.floors: dict[int, float] = {}
        self.stock: dict[str, float] = {}
        self.figures: list[Figure] = []

    def measure(self, what: str, act: Callable[[Figure], None]) -> None:
        """Take one figure; when it cannot be true it says why instead."""
        figure = Figure(what)
        try:
            act(figure)
        except (Refused, Unavailable) as error:
            figure = Figure(what, refused=str(error))
        self.figures.append(figure)
        print(row(figure), flush=True)

    def everything(self) -> None:
        """All figures, in the order of the table."""
        self.measure("stock Tornado: handshake and one write_message", self.stock_connects)
        self.measure("stock Tornado: JSON POST that does nothing", self.stock_posts)
        for door in self.doors:
            for size in self.sizes:
                self.fan_out(door, size)
        self.fan_out("sdk", self.sizes[-1], prefix="volatile:")
        self.publishes()

    def measure_floor(self, size: int, figure: Figure) -> None:
        self.floors.pop(size, None)  # without a new one there is no ratio
        with Floor(self.floor, FRAME) as target, subscribers(self.load, target, "raw", size) as (load, _, _):
            load.warm(1)
            self.delivery(figure, load, 1)
        assert figure.cpu_us is not None
        self.floors[size] = figure.cpu_us

    def delivery(self, figure: Figure, load: Load, publishers: int) -> None:
        """CPU per delivery with ``publishers`` publications in flight."""
        figure.cpu_us, seen = self.rounds(load, publishers, "deliveries")
        figure.more = {
            "per_second": round(seen["deliveries"] / seen["seconds"]),
            "latency_us": seen["latency_us"],
            "wire_bytes_per_delivery": round(seen["bytes"] / seen["deliveries"], 1),
            "load_busy": seen["load_busy"],
        }

    def rounds(self, load: Load, publishers: int, unit: str) -> tuple[float, dict[str, Any]]:
        """The round with the median cost: microseconds of server CPU per ``unit``, and what the load saw of it."""
        runs: list[tuple[dict[str, Any], float]] = []
        for attempt in range(self.count + SPARE_ROUNDS):
            try:
                load.quiet()
                runs.append(load.run(publishers, self.seconds))
            except Overloaded:
                if attempt + 1 - len(runs) > SPARE_ROUNDS:
                    raise
            if len(runs) == self.count:
                break
        costs = sorted(((used / seen[unit] * 1e6, seen) for seen, used in runs), key=lambda pair: pair[0])
        return costs[len(costs) // 2]

    def fan_out(self, door: str, size: int, prefix: str = "bench:") -> None:
        """The floor, then one server of its own: connects, memory, the publications in flight."""
        self.measure(f"floor, {size:,} subscribers", partial(self.measure_floor, size))
        name = f"{DOORS[door]}, {size:,} subscribers{', no history' if prefix != 'bench:' else ''}"
        try:
            with Rt() as target:
                with subscribers(self.load, target, door, 200, prefix=prefix) as (load, _, _):
                    load.warm(1)
                with subscribers(self.load, target, door, size, prefix=prefix) as (load, cpu, rss):
                    self.measure(f"{name}: connect and subscribe", partial(self.connects, size, cpu, rss))
                    load.warm(self.flights[0])
                    for publishers in self.flights:
                        act = partial(self.against_floor, load, publishers, size)
                        self.measure(f"{name}, {publishers} in flight", act)
        except (Refused, Unavailable) as error:
            reason = str(error)
            self.measure(name, partial(refuse, reason))

    def connects(self, size: int, cpu: float, rss: int, figure: Figure) -> None:
        figure.cpu_us = cpu / size * 1e6
        figure.more = {"rss_bytes_per_connection": round(rss / size)}
        self.compare(figure, self.stock.get("connect"), "stock handshake")

    def against_floor(self, load: Load, publishers: int, size: int, figure: Figure) -> None:
        self.delivery(figure, load, publishers)
        self.compare(figure, self.floors.get(size), "floor")

    def compare(self, figure: Figure, yardstick: float | None, name: str) -> None:
        if figure.cpu_us is not None and yardstick:
            figure.ratio, figure.yardstick = figure.cpu_us / yardstick, name

    def stock_connects(self, figure: Figure) -> None:
        size = min(self.sizes)
        with Stock() as target:
            with subscribers(self.load, target, "ws", 200):
                pass
            with subscribers(self.load, target, "ws", size) as (_, cpu, rss):
                figure.cpu_us = cpu / size * 1e6
                figure.more = {"rss_bytes_per_connection": round(rss / size)}
        self.stock["connect"] = figure.cpu_us

    def stock_posts(self, figure: Figure) -> None:
        with Stock() as target, subscribers(self.load, target, "ws", 0) as (load, _, _):
            self.posts(figure, load)
        self.stock["post"] = figure.cpu_us or 0.0

    def publishes(self) -> None:
        """From the HTTP API over the store to one subscriber, on many channels."""

        def act(figure: Figure) -> None:
            with Rt() as target, subscribers(self.load, target, "sdk", 2000, channels=2000) as (load, _, _):
                self.posts(figure, load)
            self.compare(figure, self.stock.get("post"), "stock POST")

        self.measure("publish to one subscriber, 2,000 channels, 32 in flight", act)

    def posts(self, figure: Figure, load: Load) -> None:
        load.warm(32)
        figure.cpu_us, seen = self.rounds(load, 32, "publications")
        figure.more = {
            "per_second": round(seen["publications"] / seen["seconds"]),
            "latency_us": seen["latency_us"],
            "load_busy": seen["load_busy"],
        }


def refuse(reason: str, figure: Figure) -> None:
    """Leave ``figure`` out, for a reason that was found before it was taken."""
    raise Refused(reason)


def build(source: Path, folder: Path) -> Path:
    """Compile one C file."""
    binary = folder / source.stem
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(binary), str(source)], check=True)
    return binary


def row(figure: Figure) -> str:
    """One line of the table."""
    if figure.refused:
        return f"| {figure.what} | no figure: {figure.refused.splitlines()[0]} | | |"
    ratio = f"{figure.ratio:.3g} × {figure.yardstick}" if figure.ratio else ""
    more = []
    if "per_second" in figure.more:
        more.append(f"{figure.more['per_second']:,}/s")
    latency = figure.more.get("latency_us", {})
    if latency.get("samples"):
        more.append(f"p50 {latency['p50'] / 1000:.1f} ms, p99 {latency['p99'] / 1000:.1f} ms")
    if "rss_bytes_per_connection" in figure.more:
        more.append(f"{figure.more['rss_bytes_per_connection'] / 1000:.1f} KB RSS each")
    return f"| {figure.what} | {figure.cpu_us:.3g} µs | {ratio} | {'; '.join(more)} |"


def machine() -> dict[str, Any]:
    """Where this ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="measure rt against a C loop of send() and stock Tornado")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a round takes (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure, of which the median counts (3)")
    parser.add_argument("--subs", type=int, nargs="+", default=[1000, 5000], help="numbers of subscribers")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32], help="numbers of publisher connections")
    parser.add_argument("--doors", nargs="+", default=["sdk", "sse"], choices=list(DOORS))
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where the figures are written")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if sys.platform != "linux" or (os.cpu_count() or 1) < 2 or not shutil.which("gcc"):
        print("the bench needs Linux, two cores and gcc", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that no server is left behind
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory(prefix="rt-bench-") as folder:
        bench = Bench(Path(folder), options)
        print("| what | server CPU each | ratio | |\n|---|---|---|---|")
        bench.everything()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "figures": [asdict(figure) for figure in bench.figures]}
    options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 1 if any(figure.refused for figure in bench.figures) else 0


if __name__ == "__main__":
    sys.exit(main())
