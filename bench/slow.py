"""Half of the subscribers of a channel stop reading: what the others notice, what it costs, what the slow are given.

``python -m bench.slow [--subs 5000] [--policy catch_up ...]``. The worker has core 0, everybody else core 1. Fifty
publications of 1 KiB a second to subscribers of ``/ws`` on one channel; SO_SNDBUF is 64 KiB, those who will stop have a
receive buffer of 4 KiB. First all read, then half of them stop for eight seconds, then they read again. Every
subscriber's publications are counted, and some subscribers' are parsed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import multiprocessing.connection
import os
import select
import statistics
import time
from typing import Any, NamedTuple

from tests.clients import plug
from tests.servers import API_KEY, OPEN, STREAM, Server

RATE = 50  # publications per second
WARM, STALL, AFTER = 8.0, 8.0, 20.0  # seconds: all read, half do not, all do again (at most)
CHECKED = 40  # of each half, whose publications are parsed
MARK = b'"n":'

VOLATILE = {**OPEN, "history_size": 0, "force_recovery": False}
POLICIES: dict[str, dict[str, Any]] = {
    "catch_up": {**STREAM, **OPEN, "history_size": 1000},
    "drop_oldest": {**VOLATILE, "slow": "drop_oldest"},
    "drop_newest": {**VOLATILE, "slow": "drop_newest"},
    "conflate": {**VOLATILE, "slow": "conflate", "conflate_key": "symbol"},
}


def publish(port: int, channel: str, stop: multiprocessing.connection.Connection, sent: Any) -> None:
    """Publish until told to stop; ``sent`` counts."""
    os.sched_setaffinity(0, {1})
    api = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    begun = time.monotonic()
    while not stop.poll():
        number = sent.value
        data = {"n": number, "at": time.monotonic_ns(), "x": "x" * 960}
        body = json.dumps({"channel": channel, "data": data, "tags": {"symbol": f"s{number % 20}"}})
        api.request("POST", "/api/publish", body, headers)
        assert api.getresponse().read().startswith(b'{"result"')
        sent.value = number + 1
        time.sleep(max(0.0, begun + sent.value / RATE - time.monotonic()))


class Subscriber:
    """One socket of ``/ws``. ``count`` is how many publications it got; a ``checked`` one keeps their numbers and
    latencies."""

    __slots__ = ("buffer", "checked", "count", "latencies", "numbers", "sock", "tail")

    def __init__(self, port: int, channel: str, *, narrow: bool, checked: bool) -> None:
        self.sock = plug(port, 4096 if narrow else None)
        self.sock.setblocking(True)
        self.sock.sendall(
            f"GET /ws?channel={channel} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        self.checked, self.count, self.tail = checked, 0, b""
        self.numbers: list[int] = []
        self.latencies: list[float] = []
        self.buffer = bytearray()

    def head(self) -> None:
        """The answer to the handshake, and the first message."""
        seen = b""
        while b'"connect"' not in seen:
            data = self.sock.recv(4096)
            assert data, seen
            seen += data
        self.sock.setblocking(False)

    def read(self) -> int:
        """What has come; the number of bytes."""
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return 0
        assert data, "closed"
        if self.checked:
            self.parse(data)
        joined = self.tail + data
        self.count += joined.count(MARK)
        self.tail = joined[-(len(MARK) - 1) :]
        return len(data)

    def parse(self, data: bytes) -> None:
        """Whole frames of it."""
        now, buffer = time.monotonic_ns(), self.buffer
        buffer += data
        while len(buffer) >= 4:
            size, at = buffer[1], 2
            if size == 126:
                size, at = int.from_bytes(buffer[2:4]), 4
            if len(buffer) < at + size:
                return
            if buffer[0] == 0x81 and MARK in buffer[at : at + size]:
                body = json.loads(buffer[at : at + size])["pub"]["data"]
                self.numbers.append(body["n"])
                self.latencies.append((now - body["at"]) / 1e6)
            del buffer[: at + size]


class Crowd:
    """All subscribers. The ``slow`` half may be left alone."""

    def __init__(self, port: int, channel: str, count: int) -> None:
        self.healthy: list[Subscriber] = []
        self.slow: list[Subscriber] = []
        self.poll = select.epoll()
        self.by_fd: dict[int, Subscriber] = {}
        for number in range(count):
            half = self.slow if number % 2 else self.healthy
            one = Subscriber(port, channel, narrow=half is self.slow, checked=len(half) < CHECKED)
            one.head()
            half.append(one)
            self.by_fd[one.sock.fileno()] = one
        self.watch([*self.healthy, *self.slow])

    def watch(self, some: list[Subscriber]) -> None:
        """Read from these."""
        for one in some:
            self.poll.register(one.sock.fileno(), select.EPOLLIN)

    def leave(self, some: list[Subscriber]) -> None:
        """Read from these no more."""
        for one in some:
            self.poll.unregister(one.sock.fileno())

    def run(self, seconds: float, probe: Probe) -> None:
        """Read what comes, for so long; ends early where nothing more comes for a second."""
        end, quiet = time.monotonic() + seconds, time.monotonic()
        while (now := time.monotonic()) < end and now - quiet < 1.0:
            for fd, _ in self.poll.poll(0.05, 512):
                if self.by_fd[fd].read():
                    quiet = now
            probe.look(now)

    def latencies(self) -> list[float]:
        """Of the checked healthy ones, since the last call; in milliseconds."""
        found = [value for one in self.healthy[:CHECKED] for value in one.latencies]
        for one in self.healthy:
            one.latencies.clear()
        return found

    def close(self) -> None:
        """Leave."""
        for one in self.by_fd.values():
            one.sock.close()
        self.poll.close()


class Probe:
    """Looks at the worker's memory."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self._next = pid, 0, 0.0

    def look(self, now: float) -> None:
        """Now and then."""
        if now >= self._next:
            self._next = now + 0.2
            self.most = max(self.most, self.now())

    def now(self) -> int:
        """Resident bytes."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Figures(NamedTuple):
    """What a run says: p99 in ms before, during and after the stall; memory in bytes; shares of what was published."""

    before: float
    during: float
    after: float
    grown: int
    lost: int
    given: float
    ordered: bool
    newest: bool


def p99(values: list[float]) -> float:
    """The ninety-ninth percentile."""
    return statistics.quantiles(values, n=100)[98]


def measured(policy: str, subs: int) -> Figures:
    """One run."""
    namespaces = [{"name": policy, **POLICIES[policy]}]
    config = {
        "server": {"workers": 1},
        "channel": {"namespaces": namespaces},
        "delivery": {"send_buffer": "64KiB"},
        "client": {"ping_interval": "10m"},  # nobody here answers one
    }
    with Server(config) as server:
        (pid,) = server.worker_pids()
        os.sched_setaffinity(pid, {0})
        channel = f"{policy}:a"
        crowd = Crowd(server.port, channel, subs)
        theirs, ours = multiprocessing.Pipe()
        sent = multiprocessing.Value("i", 0)
        publisher = multiprocessing.Process(target=publish, args=(server.port, channel, theirs, sent))
        publisher.start()
        probe = Probe(pid)
        crowd.run(2.0, probe)
        crowd.latencies()
        crowd.run(WARM, probe)
        before, base = p99(crowd.latencies()), probe.now()
        probe.most = 0
        crowd.leave(crowd.slow)
        crowd.run(STALL, probe)
        during = p99(crowd.latencies())
        crowd.watch(crowd.slow)
        crowd.run(4.0, probe)
        ours.send(True)
        publisher.join()
        after = p99(crowd.latencies())
        crowd.run(AFTER, probe)
        total = sent.value
        numbers = [one.numbers for one in crowd.slow[:CHECKED]]
        figures = Figures(
            before,
            during,
            after,
            probe.most - base,
            sum(total - one.count for one in crowd.healthy),
            sum(one.count for one in crowd.slow) / (total * len(crowd.slow)),
            all(got == sorted(set(got)) for got in numbers),
            all(got[-1] == total - 1 for got in numbers),
        )
        crowd.close()
        return figures


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subs", type=int, default=5000)
    parser.add_argument("--policy", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    asked = parser.parse_args()
    os.sched_setaffinity(0, {1})
    print(f"{asked.subs} subscribers, half of which stop reading for {STALL:g} s; {RATE} x 1 KiB per second")
    for policy in asked.policy:
        found = measured(policy, asked.subs)
        print(
            f"  {policy:12} p99 of the healthy {found.before:.0f} ms, during the stall {found.during:.0f}, after it "
            f"{found.after:.0f}; lost by them {found.lost}; memory +{found.grown / 2**20:.0f} MiB "
            f"({found.grown / asked.subs / 1024:.0f} KiB each); the slow were given {found.given:.1%}, "
            f"{'in order' if found.ordered else 'NOT IN ORDER'}, {'with' if found.newest else 'WITHOUT'} the newest"
        )


if __name__ == "__main__":
    main()
