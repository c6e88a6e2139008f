"""The load: load.c on a core of its own, spoken to over its standard input and output."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.figures import BUSIEST, Overloaded, Refused, check
from bench.targets import LOAD_CORE, SERVER_CORE, Target, idle_seconds

SETTLE = 0.3  # seconds until what was opened or closed before costs nothing any more
PATIENCE = 15.0
REST = 0.5  # of a lone publisher, in times of its last answer: one core must receive what another sends
SMALLEST = 86  # bytes of a frame of the SDK's protocol without padding, with "volatile:0" as its channel


class Opened(NamedTuple):
    """What opening all subscribers cost the server: CPU in seconds, memory in bytes; and what the load saw."""

    cpu: float
    rss: int
    seen: dict[str, Any]


def build(source: Path, folder: Path) -> Path:
    """Compile one C file."""
    binary = folder / source.stem
    subprocess.run(["gcc", "-O2", "-Wall", "-o", str(binary), str(source)], check=True)
    return binary


class Load:
    """load.c against one target."""

    def __init__(
        self,
        binary: Path,
        target: Target,
        door: str,
        subs: int,
        *,
        channels: int = 1,
        prefix: str = "bench:",
        **more: Any,
    ) -> None:
        # What an 86-byte frame of the SDK's protocol leaves for padding, with a four-digit offset and without.
        pad = 0 if prefix == "bench:" else 10
        options = {"port": target.port, "door": door, "subs": subs, "channels": channels, "prefix": prefix, "pad": pad}
        options |= {"publish-port": target.publish_port, **more}
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

    def ask(self, command: str, wanted: float = 0.0) -> tuple[dict[str, Any], float]:
        """Have it obey a command; what it saw, and the seconds of server CPU. Refused when it is not sound."""
        assert self.process.stdin is not None
        cpu, idle, start = self.target.cpu(), idle_seconds(LOAD_CORE), time.monotonic()
        with suppress(BrokenPipeError):  # then the next line says why
            self.process.stdin.write(command + "\n")
        seen = self.line()
        busy = 1 - (idle_seconds(LOAD_CORE) - idle) / (time.monotonic() - start)
        used = self.target.cpu() - cpu
        check(seen, busy, wanted)
        return {**seen, "load_busy": round(busy, 3)}, used

    def run(
        self, publishers: int, seconds: float, kind: str = "publish", group: int = 1, rate: float = 0.0
    ) -> tuple[dict[str, Any], float]:
        """Publish for a while, ``group`` publications a request, as fast as the answers come or at a ``rate``."""
        rest = REST if publishers == 1 else 0
        return self.ask(f"run {publishers} {seconds} {rest} {kind} {group} {rate}", rate * seconds)

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
def subscribers(binary: Path, target: Target, door: str, subs: int, **options: Any) -> Iterator[tuple[Load, Opened]]:
    """Subscribers that are all live, and what that cost. Refused when the load's core was the bottleneck on the way."""
    time.sleep(SETTLE)
    cpu, rss = target.cpu(), target.rss()
    idle, start = idle_seconds(LOAD_CORE), time.monotonic()
    load = Load(binary, target, door, subs, **options)
    try:
        seen = load.line()
        seen["load_busy"] = round(1 - (idle_seconds(LOAD_CORE) - idle) / (time.monotonic() - start), 3)
        time.sleep(SETTLE)
        yield load, Opened(target.cpu() - cpu, target.rss() - rss, seen)
    finally:
        load.close()


def unhurried(opened: Opened) -> Opened:
    """The same, when the load's core had time left meanwhile (/proc/stat says nothing about less than 0.1 s)."""
    if opened.seen["load_busy"] > BUSIEST and opened.seen["seconds"] > 0.1:
        raise Overloaded(f"the load's core was {opened.seen['load_busy']:.0%} busy")
    return opened
