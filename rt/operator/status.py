"""``server.py status``: how a running server is, from two looks at its metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from rt.metrics.figures import Figures, figures, read
from rt.operator.door import Door, Unanswered
from rt.operator.shown import facts, rate, seconds, table

_WORKER = ("name", "pid", "num_clients", "num_users", "num_subs", "num_channels", "uptime", "version")


class _Readiness(msgspec.Struct, frozen=True):
    ready: bool = False
    reasons: list[str] = []


def status(door: Door, tenant: str, between: float) -> tuple[str, bool]:
    """The whole table, for ``tenant`` or over all; and whether the server is ready. ``between`` the two looks lie so
    many seconds, over which rates and times are taken. Unanswered when nobody answers."""
    first = _scrape(door)
    before = read(first, time.monotonic())
    time.sleep(between)
    last = _scrape(door)
    now = figures([before, read(last, time.monotonic())], tenant)
    _, body = door.get(f"/ready?tenant={tenant}" if tenant else "/ready")
    try:
        readiness = msgspec.json.decode(body, type=_Readiness)
    except ValueError:
        raise Unanswered("/ready is not answered as by a server of this kind") from None
    state = "ready" if readiness.ready else "NOT READY: " + "; ".join(readiness.reasons)
    text = facts([("state", state), ("version", ", ".join(_versions(last)) or "-"), *_facts(now)])
    return f"{text}\n{_workers(door)}", readiness.ready


def _scrape(door: Door) -> list[Metric]:
    code, body = door.get("/metrics")
    if code != 200:
        raise Unanswered(f"/metrics is answered with the status {code}")
    try:
        return list(text_string_to_metric_families(body.decode()))
    except ValueError:
        raise Unanswered("/metrics is not answered as by a server of this kind") from None


def _versions(metrics: list[Metric]) -> list[str]:
    samples = [sample for metric in metrics for sample in metric.samples if sample.name == "rt_build_info"]
    return sorted({sample.labels.get("version", "") for sample in samples})


def _facts(now: Figures) -> list[tuple[str, str]]:
    gauges, rates, parts = now.gauges, now.rates, now.parts
    return [
        ("store", f"{'connected' if now.store_connected else 'AWAY'}, heard {seconds(now.probe_age)} ago"),
        ("connections", _count(gauges["connections"]) + _parted(parts["transports"], _count)),
        ("users", _count(gauges["users"])),
        ("subscriptions", _count(gauges["subscriptions"])),
        ("channels", _count(gauges["channels"])),
        ("published", rate(rates["published"])),
        ("deliveries", rate(rates["deliveries"])),
        ("latency", f"p50 {seconds(now.latency.p50)}, p99 {seconds(now.latency.p99)}"),
        ("loop lag", f"p50 {seconds(now.lag.p50)}, p99 {seconds(now.lag.p99)}"),
        ("connects", rate(rates["connects"]) + _parted(parts["recoveries"], rate)),
        ("disconnects", rate(rates["disconnects"])),
        ("waiting to enter", _count(gauges["waiting"])),
        ("slow", f"{_count(gauges['behind'])} behind, {_count(gauges['paced'])} paced"),
        ("dropped", rate(sum(parts["drops"].values())) + _parted(parts["drops"], rate)),
        ("limit hits", rate(sum(parts["limit_hits"].values())) + _parted(parts["limit_hits"], rate)),
        ("API calls", rate(rates["api"])),
    ]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _parted(parts: Mapping[str, float], shown: Any) -> str:
    """The parts that are not nothing, in brackets."""
    some = [f"{name} {shown(value)}" for name, value in parts.items() if value]
    return f" ({', '.join(some)})" if some else ""


def _workers(door: Door) -> str:
    """The workers of all hosts that share the store, as the API has them; a sentence where it does not say."""
    try:
        nodes = door.call("info")["nodes"]
    except Unanswered as why:
        return f"no list of workers: {why}\n"
    heads = ("WORKER", "PID", "CONNECTIONS", "USERS", "SUBSCRIPTIONS", "CHANNELS", "UP", "VERSION")
    return table(heads, [[_cell(name, node.get(name, "")) for name in _WORKER] for node in nodes])


def _cell(name: str, value: Any) -> str | int:
    if name == "uptime" and isinstance(value, int):
        return seconds(value)
    return value if isinstance(value, int) and name != "pid" else str(value)
