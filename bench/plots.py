"""How cost grows, drawn: SVG of our own, small enough to be kept beside the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from bench.figures import Figure

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 40, 48
COLOURS = ("#7f7f7f", "#2f6fde", "#d9662b", "#3a9a5b", "#a24fc0", "#c23b55")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600;font-size:14px}.g{stroke:#ddd}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}.g{stroke:#444}}"
)


def scale(low: float, high: float, start: float, end: float, value: float) -> float:
    """The place of ``value`` on a logarithmic axis from ``low`` to ``high`` that is drawn from ``start`` to ``end``."""
    if high <= low:
        return (start + end) / 2
    return start + (end - start) * math.log(value / low) / math.log(high / low)


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from the last one that is not above ``low`` to the first that is not below ``high``."""
    steps = [digit * 10.0**power for power in range(-4, 8) for digit in (1, 2, 5)]
    first = max(step for step in steps if step <= low * 1.0001)
    last = min(step for step in steps if step >= high * 0.9999)
    return [step for step in steps if first <= step <= last]


def chart(title: str, across: str, up: str, series: dict[str, Points]) -> str:
    """Lines over two logarithmic axes. Values must be above 0; a series without points is left out."""
    series = {name: sorted(points) for name, points in series.items() if points}
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    grid = ticks(min(ys), max(ys))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return scale(xs[0], xs[-1], LEFT, right, x), scale(grid[0], grid[-1], bottom, TOP, y)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"',
        f'  aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="t" x="{LEFT}" y="20">{escape(title)}</text>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="rotate(-90 14 {HEIGHT / 2:.0f})" x="14" y="{HEIGHT / 2:.0f}" text-anchor="middle">',
        f"{escape(up)}</text>",
    ]
    for step in grid:
        y = place(xs[0], step)[1]
        lines.append(f'<path class="g" d="M{LEFT} {y:.1f}H{right}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{step:g}</text>')
    for x in xs:
        lines.append(f'<text x="{place(x, grid[0])[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{x:,.0f}</text>')
    ends = spread([place(*points[-1])[1] for points in series.values()])
    for (name, points), end, colour in zip(series.items(), ends, COLOURS * 2, strict=False):
        places = [place(x, y) for x, y in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        lines.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        lines.append(
            f'<text x="{places[-1][0] + 10:.1f}" y="{end + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def spread(places: Sequence[float], apart: float = 15.0) -> list[float]:
    """The same places, moved down until they are so far apart: for the names at the ends of lines."""
    moved = list(places)
    below = -math.inf
    for index in sorted(range(len(moved)), key=lambda index: moved[index]):
        moved[index] = below = max(moved[index], below + apart)
    return moved


def points(figures: Iterable[Figure], group: str, over: str, **at: object) -> Points:
    """What figures of a group say, over one of the things they were taken at; the last of each place counts."""
    found = {}
    for figure in figures:
        same = figure.group == group and all(figure.at.get(name) == value for name, value in at.items())
        if same and figure.cpu_us and over in figure.at:
            found[float(figure.at[over])] = figure.cpu_us
    return sorted(found.items())


def charts(figures: list[Figure]) -> dict[str, str]:
    """The plots by the names of their files. A plot of fewer than two places is none."""
    flights = sorted({figure.at["in_flight"] for figure in figures if "in_flight" in figure.at})
    by_subs = {"floor: one send() each": points(figures, "floor", "subs", bytes=86)}
    by_bytes = {"floor: one send() each": points(figures, "floor", "bytes", subs=_smallest(figures))}
    for count in flights:
        at = {"door": "sdk", "history": True, "in_flight": count}
        by_subs[f"{count} in flight"] = points(figures, "fan-out", "subs", **at)
        by_bytes[f"{count} in flight"] = points(figures, "growth", "bytes", in_flight=count)
    by_channels = {"publish": points(figures, "publish", "channels", way="publish", heard=True)}
    by_workers = {f"{count} in flight": points(figures, "workers", "workers", in_flight=count) for count in flights}
    cost = "µs of CPU per delivery"
    wanted: dict[str, tuple[str, str, str, dict[str, Points]]] = {
        "subscribers": ("Cost of a delivery, by subscribers (WebSocket)", "subscribers of the channel", cost, by_subs),
        "bytes": ("Cost of a delivery, by size", "bytes of a frame", cost, by_bytes),
        "channels": ("Cost of a publish, by channels", "channels", "µs of CPU per publish", by_channels),
        "workers": ("Cost of a delivery, by workers", "workers on one core", cost, by_workers),
    }
    return {
        f"{name}.svg": chart(title, across, up, series)
        for name, (title, across, up, series) in wanted.items()
        if any(len(line) > 1 for name, line in series.items() if not name.startswith("floor"))
    }


def _smallest(figures: list[Figure]) -> int | None:
    return min(
        (figure.at["subs"] for figure in figures if figure.group == "growth" and "subs" in figure.at), default=None
    )


def draw(figures: list[Figure], folder: Path) -> None:
    """Write them into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in charts(figures).items():
        (folder / name).write_text(text)
