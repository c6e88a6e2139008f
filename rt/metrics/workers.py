"""The mapped files that the workers of a host share, and what each last said about itself there."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
from collections.abc import Iterable, Mapping
from math import isnan
from typing import NamedTuple, cast

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the directory of the mapped files. Whoever starts the workers sets it before this is
imported, and empties the directory at start: a process that gets the number of a dead one would go on counting in its
file."""


RESERVED = 128 << 10
"""Bytes of each mapped file that are taken from the disk before it is used."""

_FILES = ("counter", "histogram", "gauge_livesum", "gauge_livemin", "gauge_livemax", "gauge_liveall")


class WorkerState(NamedTuple):
    """What one worker last said about itself. ``ready`` names the tenants whose clients may come to it; ``seen`` is
    when, in seconds of the host's monotonic clock."""

    pid: int
    ready: frozenset[str]
    leaving: bool
    seen: float


def reserve() -> bool:
    """Take the space for this process's mapped files; whether that could be done.

    prometheus-client makes files with holes, and who writes into a hole of a mapped file on a full disk is killed
    (SIGBUS). Where there is no space, this process counts for itself from here, in memory: serving is worth more than
    being seen by the others. To be called before the first metric is made.
    """
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return True
    made: list[str] = []
    try:
        for kind in _FILES:
            path = os.path.join(directory, f"{kind}_{os.getpid()}.db")
            with open(path, "ab") as file:
                made.append(path)
                os.posix_fallocate(file.fileno(), 0, RESERVED)
    except OSError as error:
        log.error("no space for the metrics in %s, other workers do not see those of this one: %s", directory, error)
        for path in made:
            with contextlib.suppress(OSError):
                os.unlink(path)
        del os.environ[DIRECTORY]
        values.ValueClass = values.MutexValue
        return False
    return True


def forget_dead(directory: str) -> None:
    """Take the live gauges of workers that are gone out of the sums; what they counted stays.

    Every reader does it, so that a worker that was killed does not stand in the way until somebody else notices.
    """
    for path in _files(directory, "gauge_live*_*.db"):
        match = re.search(r"_(\d+)\.db$", path)
        if match and not _is_alive(int(match[1])):
            with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                os.unlink(path)


def together() -> CollectorRegistry | None:
    """A registry that sums the files of all workers; ``None`` where this process counts for itself."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return None
    forget_dead(directory)
    registry = CollectorRegistry()
    registry.register(_Sum(directory))
    return registry


def states() -> list[WorkerState] | None:
    """The state of every live worker, by process number; ``None`` where this process counts for itself."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return None
    forget_dead(directory)
    values: dict[int, dict[str, float]] = {}
    ready: dict[int, dict[str, float]] = {}
    for metric in _merged(directory, "gauge_liveall_*.db"):
        for sample in metric.samples:
            pid, tenant = int(sample.labels["pid"]), sample.labels.get("tenant")
            if tenant is None:
                values.setdefault(pid, {})[sample.name] = sample.value
            else:
                ready.setdefault(pid, {})[tenant] = sample.value
    return [state(pid, found, ready.get(pid, {})) for pid, found in sorted(values.items())]


class Present(Collector):
    """All that ``registry`` has, without gauges that have no value: one NaN would make a NaN of every sum over it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """What a registry asks for at every scrape."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not isnan(sample.value)]
            yield metric


class _Sum(Collector):
    """All files together, like prometheus-client's own collector but for files that are only just being made."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """What a registry asks for at every scrape."""
        return _merged(self._directory, "*.db")


def _merged(directory: str, pattern: str) -> Iterable[Metric]:
    # A file is empty between its creation and its first page; reading it then would fail the whole scrape.
    files = [path for path in _files(directory, pattern) if _size(path)]
    return cast("Iterable[Metric]", MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]


def _files(directory: str, pattern: str) -> list[str]:
    return glob.glob(os.path.join(glob.escape(directory), pattern))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def state(pid: int, values: Mapping[str, float], ready: Mapping[str, float]) -> WorkerState:
    """What ``values``, by name of metric, and ``ready``, by tenant, say about the worker ``pid``; what they do not say
    is no."""
    return WorkerState(
        pid,
        ready=frozenset(tenant for tenant, value in ready.items() if value == 1),
        leaving=values.get("rt_worker_leaving", 0) == 1,
        seen=values.get("rt_worker_seen_uptime_seconds", 0.0),
    )
