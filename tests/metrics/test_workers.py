"""Several processes, one directory of mapped files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rt.metrics import DIRECTORY, workers

# A worker that counts on command: each line of its input is run, and answered by a line.
WORKER = """
import sys
from rt.metrics import Metrics
metrics = Metrics()
ready = leaving = 0
tenant = metrics.of("default")
tenant.gauge("rt_worker_ready", lambda: ready)
metrics.gauge("rt_worker_leaving", lambda: leaving)
for line in sys.stdin:
    answer = "done"
    exec(line)
    metrics.collect()
    print(answer, flush=True)
"""


class Worker:
    """A process with metrics of its own in the shared directory."""

    def __init__(self, directory: Path) -> None:
        environment = {**os.environ, DIRECTORY: str(directory)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=pipe, stdout=pipe, env=environment, text=True
        )

    def run(self, line: str) -> str:
        """Let the worker run one line of Python; what it put into ``answer``."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it without a chance to say so."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    """Two workers that share a directory."""
    with ExitStack() as stack:
        found = [Worker(tmp_path) for _ in range(2)]
        for worker in found:
            stack.callback(worker.kill)
        yield found[0], found[1]


def test_one_worker_answers_for_all(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    """Counters, gauges and histograms are sums over the workers, whoever is asked."""
    one, two = pair
    (tmp_path / "counter_1.db").touch()  # as one looks that another worker is just about to fill
    count = "tenant.connected('sse'); tenant.tally.deliveries += 5; tenant.latency('', 'sse').observe(0.003, 5)"
    assert one.run(count) == "done" and two.run(count) == "done"
    seen = {
        one.run(f"answer = metrics.render().decode().count('{series}\\n')")
        for series in (
            'rt_connections{tenant="default",transport="sse"} 2.0',
            'rt_deliveries_total{tenant="default"} 10.0',
            'rt_delivery_latency_seconds_bucket{le="0.005",namespace="-",tenant="default",transport="sse"} 10.0',
            'rt_delivery_latency_seconds_count{namespace="-",tenant="default",transport="sse"} 10.0',
        )
    }
    assert seen == {"1"}


def test_a_dead_worker_leaves_its_counts_but_not_its_connections(
    pair: tuple[Worker, Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters never go back when a worker is killed; what it had open, and its readiness, is gone at once."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    one, two = pair
    assert one.run("ready = 1") == "done" and two.run("tenant.connected('ws')") == "done"
    states = workers.states()
    assert states is not None
    assert {state.pid: state.ready for state in states} == {
        one.process.pid: {"default"},
        two.process.pid: set(),
    }
    two.kill()
    states = workers.states()
    assert states is not None and [state.pid for state in states] == [one.process.pid]
    series = (
        'rt_connections{tenant="default",transport="ws"} 0.0',
        'rt_connects_total{tenant="default",transport="ws"} 1.0',
    )
    for line in series:
        assert one.run(f"answer = metrics.render().decode().count('{line}\\n')") == "1"


def test_without_a_directory_there_is_nothing_to_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single process counts for itself."""
    monkeypatch.delenv(DIRECTORY, raising=False)
    assert workers.states() is None and workers.together() is None


def test_a_directory_with_signs_of_patterns_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the directory is a name, not a pattern."""
    directory = tmp_path / "a[1]*"
    directory.mkdir()
    dead = directory / "gauge_livesum_999999999.db"
    dead.touch()
    workers.forget_dead(str(directory))
    assert not dead.exists()


FULL = """
import resource
from rt.metrics import Metrics, workers
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
metrics = Metrics()
metrics.of("default").connected("ws")
metrics.of("default").latency("", "ws").observe(0.1)
assert b'rt_connections{tenant="default",transport="ws"} 1.0' in metrics.render()
assert [state.pid for state in metrics.workers()] == [__import__("os").getpid()]
"""


def test_f73_without_space_a_worker_counts_for_itself(tmp_path: Path) -> None:
    """The disk is full: it is not killed by writing into a hole of a mapped file, leaves none behind, and says so."""
    environment = {**os.environ, DIRECTORY: str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", FULL], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "no space for the metrics" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_the_space_of_the_files_is_taken_at_the_start(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    """No holes: what can be written later cannot fail for lack of space. No other files are made than were reserved."""
    one, two = pair
    count = "tenant.connected('sse'); tenant.latency('', 'sse').observe(0.003, 5)"
    assert one.run(count) == "done" and two.run(count) == "done"
    files = list(tmp_path.iterdir())
    assert len(files) == 2 * 6
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size == workers.RESERVED for file in files)
