"""A reconnect storm at full size: ten thousand clients of one worker come back within two seconds after it was killed.

Each has missed twenty publications. The figures are printed as a line per rate of new connections; the exit status is 1
when a client saw a gap, a hole or a repeat, or was refused. Server, store and clients share the machine: on two cores
most of the time is the clients' own, so the seconds say less than the CPU per client.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.promises.crowd import Crowd
from tests.promises.storms import Figures, storm
from tests.servers import OPEN, STREAM, Server

COLUMNS = (
    "new per second and worker", "whole", "wrong", "refused", "all back after", "per second", "half within",
    "99 % within", "CPU per client", "store reads", "loop lag p99 below", "never above",
)  # fmt: skip


def measure(options: argparse.Namespace, rate: float) -> Figures:
    """One storm against a server of its own."""
    settings = {
        "limits": {"connections": {"new_per_second": rate, "wait": "1m"}},
        "channel": {"namespaces": [{"name": "storm", **STREAM, **OPEN}]},
    }
    channels = [f"storm:{number}" for number in range(options.channels)]
    with Server(settings) as server, Crowd(server.port) as crowd:
        found = storm(
            server, crowd, channels,
            clients=options.clients, missed=options.missed, within=options.within, patience=options.patience,
        )  # fmt: skip
        crowd.ask("scatter")
        return found


def row(rate: float, found: Figures) -> tuple[str, ...]:
    """The figures of one storm as text."""
    return (
        f"{rate:g}" if rate else "no limit",
        f"{found.whole} of {found.clients}",
        str(sum(found.wrong.values())),
        str(found.refused),
        f"{found.seconds:.1f} s",
        f"{found.per_second:.0f}",
        f"{found.took['0.5']:.2f} s",
        f"{found.took['0.99']:.2f} s",
        f"{found.cpu / found.clients * 1e6:.0f} µs",
        str(found.reads),
        f"{found.lag * 1000:g} ms",
        f"{found.longest * 1000:g} ms",
    )


def main() -> int:
    """Measure, and print a table for docs/reliability.md."""
    parser = argparse.ArgumentParser(description="a reconnect storm at full size")
    parser.add_argument("--clients", type=int, default=10000)
    parser.add_argument("--channels", type=int, default=100)
    parser.add_argument("--missed", type=int, default=20)
    parser.add_argument("--within", type=float, default=2.0, help="seconds in which all of them come back")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds until they must be whole")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 1000.0, 500.0])
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missed = f"{options.missed} publications missed by each"
    print(f"{options.clients} clients, {options.channels} channels, {missed}, back in {options.within:g} s\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    good = True
    for rate in options.rates:
        found = measure(options, rate)
        good = good and found.whole == found.clients and not found.wrong and not found.refused
        print("| " + " | ".join(row(rate, found)) + " |", flush=True)
        if found.wrong:
            print(f"wrong: {found.wrong}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
