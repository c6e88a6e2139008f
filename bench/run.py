"""What a delivery, a connection and a publish cost, measured over the whole path and put beside two yardsticks.

The worker alone runs on core 0; store, publishers and subscribers run on core 1. CPU is read from /proc per unit of
work, which is steady even where the machine is shared; latency is from the start of the POST to the end of the
subscriber's recv(). A figure is the median of several rounds, given as a ratio to a yardstick of the same run: a C
loop of one send() per delivery, and stock Tornado.

No figure is printed when deliveries are missing, a subscriber was cut off, a publish was refused, or the load's core
was more than 90 % busy (then the load was measured, not the server). Exit status 1 when any figure is missing, but for
peers, which need not be installed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import page, plots
from bench.figures import machine, write
from bench.measuring import Bench
from bench.rows import DOORS, ROWS


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="measure rt against a C loop of send() and stock Tornado")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS), help="groups of rows (all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a round takes (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure, of which the median counts (3)")
    parser.add_argument("--subs", type=int, nargs="+", default=[1000, 5000, 15000], help="numbers of subscribers")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32], help="numbers of publisher connections")
    parser.add_argument("--doors", nargs="+", default=list(DOORS), choices=list(DOORS))
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[10, 2000, 10000], help="numbers of channels (publish)"
    )
    parser.add_argument("--bytes", type=int, nargs="+", default=[86, 512, 2048, 8192], help="sizes of a frame (growth)")
    parser.add_argument("--idle-subs", type=int, default=10000, help="idle connections (10000)")
    parser.add_argument("--idle-seconds", type=float, default=50.0, help="how long they are idle (50)")
    parser.add_argument("--churn", type=int, default=100_000, help="connections that come and go (100000)")
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where the figures are written")
    parser.add_argument("--plots", type=Path, default=Path("var/plots"), help="where the plots are written")
    parser.add_argument("--page", type=Path, help="a page whose tables are filled: docs/performance.md")
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
        try:
            for name in options.only:
                ROWS[name](bench)
        finally:  # what was measured is kept, even when the rest was not waited for
            write(options.json, bench.figures, vars(options))
    plots.draw(bench.figures, options.plots)
    if options.page:
        page.fill(options.page, machine(), bench.figures)
    return 1 if any(figure.refused for figure in bench.figures if figure.group != "peers") else 0


if __name__ == "__main__":
    sys.exit(main())
