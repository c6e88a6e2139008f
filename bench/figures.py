"""What is measured, and when it is not true: a figure, its refusal, its place in the table and in the file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BUSIEST = 0.90
PUNCTUAL = 0.98  # of the requests that a rate asks for


class Refused(Exception):
    """A measurement that would not be true."""


class Overloaded(Refused):
    """The load's core had no time left: another round may be better, when something else on the machine took it."""


@dataclass
class Figure:
    """One measured thing: microseconds of server CPU per unit, against a yardstick, or why there is no figure.

    ``what`` is its name, which stays the same from one version to the next. ``at`` says where in its group it belongs
    (door, subscribers, publications in flight, ...), ``bar`` how large the ratio may be, ``beside`` holds ratios to
    other figures of the same run, ``asked`` other things that have a bar (measured, at most), ``more`` what was seen on
    the way.
    """

    what: str
    group: str = ""
    at: dict[str, Any] = field(default_factory=dict)
    cpu_us: float | None = None
    ratio: float | None = None
    yardstick: str = ""
    bar: float | None = None
    refused: str = ""
    beside: dict[str, float] = field(default_factory=dict)
    asked: dict[str, list[float]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def check(seen: dict[str, Any], busy: float, wanted: float = 0.0) -> None:
    """Refuse what the load has ``seen`` when it is not sound: something was cut, refused, lost or given twice, fewer
    requests went out than were ``wanted``, or the load's core was more ``busy`` than it may be."""
    if seen["cut"] or seen["refused"] or seen["unanswered"]:
        raise Refused(
            f"{seen['cut']} subscribers cut, {seen['refused']} requests refused, {seen['unanswered']} unanswered"
        )
    if seen["deliveries"] != seen["expected"]:
        raise Refused(f"{seen['deliveries']} of {seen['expected']} deliveries")
    if busy > BUSIEST:
        raise Overloaded(f"the load's core was {busy:.0%} busy")
    if wanted and seen["publications"] < wanted * PUNCTUAL:
        raise Overloaded(f"{seen['publications']} of {wanted:.0f} publications went out in time")


def median(rounds: Sequence[tuple[float, Any]]) -> tuple[float, Any]:
    """The round with the median cost; of two in the middle the dearer one."""
    return sorted(rounds, key=lambda pair: pair[0])[len(rounds) // 2]


def within(value: float, most: float) -> str:
    """Whether a bar is met, in a word."""
    return "within" if value <= most else "**above**"


def row(figure: Figure) -> str:
    """One line of the table."""
    if figure.refused:
        return f"| {figure.what} | no figure: {figure.refused.splitlines()[0]} | | |"
    ratio = f"{figure.ratio:.3g} × {figure.yardstick}" if figure.ratio is not None else ""
    if figure.ratio is not None and figure.bar:
        ratio += f" ({within(figure.ratio, figure.bar)} {figure.bar:g})"
    more = [f"{value:.2f} × {name}" for name, value in figure.beside.items()]
    more += [f"{value:.3g} {name} ({within(value, most)} {most:g})" for name, (value, most) in figure.asked.items()]
    if "per_second" in figure.more:
        more.append(f"{figure.more['per_second']:,}/s")
    latency = figure.more.get("latency_us", {})
    if latency.get("samples"):
        more.append(f"p50 {latency['p50'] / 1000:.1f} ms, p99 {latency['p99'] / 1000:.1f} ms")
    if "rss_bytes_per_connection" in figure.more and "KB RSS each" not in figure.asked:
        more.append(f"{figure.more['rss_bytes_per_connection'] / 1000:.1f} KB RSS each")
    if "said" in figure.more:
        more.append(figure.more["said"])
    cost = f"{figure.cpu_us:.3g} µs" if figure.cpu_us is not None else ""
    return f"| {figure.what} | {cost} | {ratio} | {'; '.join(more)} |"


def machine() -> dict[str, Any]:
    """Where this ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


def write(path: Path, figures: list[Figure], options: dict[str, Any]) -> None:
    """The report of a run: where it ran, with which options, and all figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "options": options, "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Figure]]:
    """The machine and the figures of a report; fields of later versions are left out."""
    report = json.loads(path.read_text())
    known = set(Figure.__dataclass_fields__)
    figures = [
        Figure(**{name: value for name, value in figure.items() if name in known}) for figure in report["figures"]
    ]
    return report.get("machine", {}), figures
