"""The tables of docs/performance.md, filled from a report: ``python bench/page.py [REPORT [PAGE]]``.

A table stands between ``<!-- bench: NAME -->`` and ``<!-- end -->``. NAME is ``machine``, ``bars``, ``fan-out``, or one
or more groups of rows. A table whose rows were not measured stays as it is. The plots go to the folder ``plots`` beside
the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import plots
from bench.figures import Figure, read, row

PART = re.compile(r"(<!-- bench: ([a-z -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
DOORS = {"sdk": "WebSocket", "ws": "`/ws`", "sse": "SSE"}
HEAD = "| what | CPU each | against the yardstick | |\n|---|---|---|---|\n"


def filled(page: str, machine: dict[str, Any], figures: list[Figure]) -> str:
    """The text of the page with the tables of these figures."""

    def fill(part: re.Match[str]) -> str:
        table = _table(part[2], machine, figures)
        return f"{part[1]}{table}{part[3]}" if table else part[0]

    return PART.sub(fill, page)


def _table(name: str, machine: dict[str, Any], figures: list[Figure]) -> str:
    if name == "machine":
        said = f"{machine['cpu'] or 'unknown CPU'}, {machine['cores']} cores, Linux {machine['kernel']}"
        return f"{said}, Python {machine['python']}.\n"
    if name == "bars":
        return bars(figures)
    if name == "fan-out":
        return fan_out(figures)
    wanted = [figure for figure in figures if figure.group in name.split()]
    return HEAD + "".join(f"{row(figure)}\n" for figure in wanted) if wanted else ""


def bars(figures: list[Figure]) -> str:
    """All figures that have a bar, and whether they are within."""
    lines = []
    for figure in figures:
        asked = {name: (value, most) for name, (value, most) in figure.asked.items()}
        if figure.bar is not None and figure.ratio is not None:
            asked = {f"× {figure.yardstick}": (figure.ratio, figure.bar), **asked}
        elif figure.bar is not None:
            lines.append(f"| {figure.what} | no figure | {figure.bar:g} | |\n")
        for name, (value, most) in asked.items():
            said = "yes" if value <= most else f"**no**, {value / most - 1:.0%} above"
            lines.append(f"| {figure.what} | {value:.3g} {name} | {most:g} | {said} |\n")
    return "| what | measured | bar | within |\n|---|---|---|---|\n" + "".join(lines) if lines else ""


def fan_out(figures: list[Figure]) -> str:
    """A line for each door and number of subscribers, a column for each number of publications in flight."""
    ours = [figure for figure in figures if figure.group == "fan-out"]
    flights = sorted({figure.at["in_flight"] for figure in ours if "in_flight" in figure.at})
    if not flights:
        return ""
    cells: dict[tuple[str, int, bool], dict[int, str]] = {}
    for figure in ours:
        at = figure.at
        line = cells.setdefault((at["door"], at["subs"], at["history"]), {})
        if "in_flight" in at and figure.cpu_us is not None:
            ratio = f", **{figure.ratio:.2g} ×**" if figure.ratio is not None else ""
            line[at["in_flight"]] = f"{figure.cpu_us:.2g} µs{ratio}"
    head = "| subscribers, door | " + " | ".join(f"{count} in flight" for count in flights) + " |\n"
    text = head + "|---" * (len(flights) + 1) + "|\n"
    for (door, subs, history), line in cells.items():
        name = f"{subs:,} {DOORS[door]}{'' if history else ', no history'}"
        text += f"| {name} | " + " | ".join(line.get(count, "–") for count in flights) + " |\n"
    return text


def fill(path: Path, machine: dict[str, Any], figures: list[Figure]) -> None:
    """Fill the tables of a page, and draw the plots beside it."""
    path.write_text(filled(path.read_text(), machine, figures))
    plots.draw(figures, path.parent / "plots")


def main() -> int:
    words = [*sys.argv[1:], "var/bench.json", "docs/performance.md"]
    report, page = (words[0], words[1]) if len(sys.argv) > 2 else (words[0], "docs/performance.md")
    fill(Path(page), *read(Path(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
