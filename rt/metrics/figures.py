"""What operators are shown, in the console and by ``server.py status``, made of two readings of the metrics: rates, and
quantiles of what lies between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from prometheus_client import Metric

GAUGES = {
    "connections": "rt_connections",
    "subscriptions": "rt_subscriptions",
    "channels": "rt_channels",
    "users": "rt_users",
    "waiting": "rt_waiting",
    "behind": "rt_behind",
    "paced": "rt_paced",
}
"""Sums over the workers, by their name in an answer."""

RATES = {
    "published": "rt_store_published_total",
    "deliveries": "rt_deliveries_total",
    "sent_bytes": "rt_sent_bytes_total",
    "received_messages": "rt_received_messages_total",
    "connects": "rt_connects_total",
    "disconnects": "rt_disconnects_total",
    "api": "rt_api_requests_total",
}
"""Counters of which it is shown how fast they grow."""

PARTED = {
    "transports": ("rt_connections", "transport"),
    "drops": ("rt_drops_total", "reason"),
    "left_out": ("rt_left_out_total", "reason"),
    "slow": ("rt_slow_total", "reason"),
    "refusals": ("rt_refusals_total", "reason"),
    "limit_hits": ("rt_limit_hits_total", "on"),
    "recoveries": ("rt_recoveries_total", "outcome"),
}
"""What is told apart by one label."""

LATENCY = "rt_delivery_latency_seconds"
LAG = "rt_loop_lag_seconds"
CONNECTED = "rt_store_connected"
PROBE_AGE = "rt_store_probe_age_seconds"

_HISTOGRAMS = (LATENCY, LAG)
_LABELS = dict(PARTED.values()) | {f"{name}_bucket": "le" for name in _HISTOGRAMS}
_WANTED = frozenset({*GAUGES.values(), *RATES.values(), *_LABELS, CONNECTED, PROBE_AGE})
_FAMILIES = frozenset({*(name.removesuffix("_total") for name in _WANTED), *_HISTOGRAMS})

Key = tuple[str, str, str]


class Reading(NamedTuple):
    """The values at ``at`` (seconds, monotonic), by (sample, tenant, one label); the tenant of a process's is ""."""

    at: float
    values: Mapping[Key, float]


class Quantiles(msgspec.Struct, frozen=True, gc=False):
    """In seconds; nothing where nothing was observed."""

    p50: float | None = None
    p99: float | None = None


class Figures(msgspec.Struct, frozen=True, gc=False):
    """One moment. ``rates`` and what is in ``parts`` but the transports are per second."""

    gauges: dict[str, float]
    rates: dict[str, float]
    parts: dict[str, dict[str, float]]
    latency: Quantiles
    lag: Quantiles
    store_connected: bool
    probe_age: float


def read(metrics: Iterable[Metric], at: float) -> Reading:
    """Keep what the console shows."""
    values: defaultdict[Key, float] = defaultdict(float)
    for metric in metrics:
        if metric.name not in _FAMILIES:
            continue
        for sample in metric.samples:
            # NaN is what a tenant's gauges are that is no longer here.
            if (sample.name in _WANTED) and sample.value == sample.value:
                label = sample.labels.get(_LABELS.get(sample.name, ""), "")
                values[sample.name, sample.labels.get("tenant", ""), label] += sample.value
    return Reading(at, values)


def figures(readings: Sequence[Reading], tenant: str = "") -> Figures:
    """The newest of ``readings`` (ascending, at least one), with rates since the one before and quantiles since the
    first. With ``tenant`` only what is counted for that one."""
    last, before, first = readings[-1], readings[-2 if len(readings) > 1 else -1], readings[0]
    seconds = last.at - before.at
    now, grown, since = _of(last, tenant), _grown(last, before, tenant), _grown(last, first, tenant)

    def rate(name: str, label: str | None = None) -> float:
        return _total(grown, name, label) / seconds if seconds > 0 else 0.0

    parts = {}
    for part, (name, _) in PARTED.items():
        labels = sorted({key[1] for key in now if key[0] == name})
        gauge = name in GAUGES.values()
        parts[part] = {label: now[name, label] if gauge else rate(name, label) for label in labels}
    return Figures(
        gauges={figure: _total(now, name) for figure, name in GAUGES.items()},
        rates={figure: rate(name) for figure, name in RATES.items()},
        parts=parts,
        latency=_quantiles(since, LATENCY),
        lag=_quantiles(_grown(last, first, ""), LAG),
        store_connected=_reaches(last, tenant),
        probe_age=max((last.values[key] for key in _keys(last, PROBE_AGE, tenant)), default=0.0),
    )


def _of(reading: Reading, tenant: str) -> Mapping[tuple[str, str], float]:
    """By (sample, label), over all tenants or of one."""
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for (name, owner, label), value in reading.values.items():
        if not tenant or owner == tenant:
            found[name, label] += value
    return found


def _grown(last: Reading, before: Reading, tenant: str) -> Mapping[tuple[str, str], float]:
    now, then = _of(last, tenant), _of(before, tenant)
    # Nothing falls but where all was counted anew.
    return {key: max(0.0, value - then.get(key, 0.0)) for key, value in now.items()}


def _total(values: Mapping[tuple[str, str], float], name: str, label: str | None = None) -> float:
    if label is not None:
        return values.get((name, label), 0.0)
    return sum(value for (found, _), value in values.items() if found == name)


def _keys(reading: Reading, name: str, tenant: str) -> list[Key]:
    return [key for key in reading.values if key[0] == name and (not tenant or key[1] == tenant)]


def _reaches(reading: Reading, tenant: str) -> bool:
    """Whether every store is connected; not where nothing is known of any."""
    keys = _keys(reading, CONNECTED, tenant)
    return bool(keys) and all(reading.values[key] >= 1 for key in keys)


def _quantiles(grown: Mapping[tuple[str, str], float], name: str) -> Quantiles:
    buckets = sorted((float(label), count) for (found, label), count in grown.items() if found == f"{name}_bucket")
    return Quantiles(p50=quantile(buckets, 0.5), p99=quantile(buckets, 0.99))


def quantile(buckets: Sequence[tuple[float, float]], part: float) -> float | None:
    """The value below which ``part`` of the observations lie, from cumulative (upper bound, count); even within a
    bucket, as PromQL's ``histogram_quantile`` has it. None where there are none; beyond the last bound: that bound."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, low, below = part * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
