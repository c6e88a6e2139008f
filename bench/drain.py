"""A rolling upgrade at full size: five thousand clients of five hundred channels, five hundred publishes a second, and
both workers replaced.

The figures are printed as a table for docs/reliability.md; the exit status is 1 when a client missed something, got it
twice or was refused, or when a publish was not acknowledged. Server, store, clients and publishers share the machine.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.promises.crowd import Crowd
from tests.promises.upgrades import Moved, upgrade
from tests.servers import OPEN, STREAM, Server

COLUMNS = (
    "drain", "whole", "wrong", "acknowledged", "per second", "unknown", "told to go", "back per second, at most",
    "a worker's drain took", "all back after the last",
)  # fmt: skip


def measure(options: argparse.Namespace) -> Moved:
    """One upgrade of a server of its own."""
    settings = {
        "server": {
            "shutdown_timeout": f"{2 * options.duration:g}s",
            "drain": {"duration": f"{options.duration:g}s", "batch": options.batch},
        },
        "channel": {"namespaces": [{"name": "moved", **STREAM, **OPEN, "history_size": 2000}]},
    }
    channels = [f"moved:{number}" for number in range(options.channels)]
    with Server(settings) as server, Crowd(server.port) as crowd:
        found = upgrade(server, crowd, channels, options.clients, options.rate)
        crowd.ask("scatter")
        return found


def row(options: argparse.Namespace, found: Moved) -> tuple[str, ...]:
    """The figures as text."""
    return (
        f"{options.duration:g} s, {options.batch} at a time",
        f"{found.there} of {found.clients}",
        str(sum(found.wrong.values())),
        str(found.acked),
        f"{found.rate:.0f}",
        str(found.unknown),
        str(found.told),
        str(found.peak),
        ", ".join(f"{seconds:.1f} s" for seconds in found.drains),
        f"{found.after:.1f} s",
    )


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="a rolling upgrade under load")
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--channels", type=int, default=500)
    parser.add_argument("--rate", type=float, default=500.0, help="publishes per second")
    parser.add_argument("--duration", type=float, default=10.0, help="server.drain.duration, in seconds")
    parser.add_argument("--batch", type=int, default=100, help="server.drain.batch")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = measure(options)
    print(f"{options.clients} clients, {options.channels} channels, {options.rate:g} publishes per second wanted\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    print("| " + " | ".join(row(options, found)) + " |")
    if found.wrong:
        print(f"wrong: {found.wrong}", file=sys.stderr)
    return 0 if found.there == found.clients and not found.wrong and not found.unknown else 1


if __name__ == "__main__":
    sys.exit(main())
