"""What the bench draws, and the tables that it fills in a page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench import page, plots
from bench.figures import Figure

MACHINE = {"cpu": "a CPU", "cores": 2, "kernel": "6.1", "python": "3.11"}


def fan_out(subs: int, flight: int, cost: float, **more: object) -> Figure:
    """A figure of WebSocket subscribers."""
    at = {"door": "sdk", "subs": subs, "in_flight": flight, "history": True}
    return Figure(f"{subs} {flight}", "fan-out", at, cost, cost / 5, "floor", bar=1.5, **more)  # type: ignore[arg-type]


FIGURES = [
    Figure("floor 1", "floor", {"subs": 1000, "bytes": 86}, 5.0),
    Figure("floor 5", "floor", {"subs": 5000, "bytes": 86}, 8.0),
    fan_out(1000, 1, 6.0),
    fan_out(5000, 1, 9.0),
    fan_out(1000, 8, 1.0),
]


def test_scale_is_logarithmic() -> None:
    """A decade takes as much room wherever it lies; one value alone lies in the middle."""
    assert plots.scale(1, 100, 0, 200, 10) == 100
    assert plots.scale(1, 100, 200, 0, 1) == 200
    assert plots.scale(5, 5, 0, 200, 5) == 100


def test_ticks_enclose_the_values() -> None:
    """From the last round number below to the first above."""
    assert plots.ticks(0.3, 4.0) == [0.2, 0.5, 1, 2, 5]
    assert plots.ticks(1.0, 10.0) == [1, 2, 5, 10]


def test_names_of_lines_do_not_lie_on_each_other() -> None:
    """Names at the ends of lines are moved apart, in the order of the lines."""
    assert plots.spread([100.0, 101.0, 50.0], apart=10) == [100.0, 110.0, 50.0]


def test_chart_is_svg_with_all_points() -> None:
    """Well-formed, a circle for each point, hostile names shown as text."""
    root = ElementTree.fromstring(plots.chart("a < b", "x", "y", {"<i>": [(1, 2.0), (10, 3.0)], "empty": []}))
    kinds = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert kinds.count("circle") == 2
    assert "<i>" in {element.text for element in root.iter()}


def test_plots_of_what_was_measured(tmp_path: Path) -> None:
    """Only plots that have a line are drawn."""
    plots.draw(FIGURES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["subscribers.svg"]
    assert "8 in flight" in (tmp_path / "subscribers.svg").read_text()


def test_page_tables_are_filled(tmp_path: Path) -> None:
    """Tables between their marks are exchanged; the text around them, and what was not measured, stays."""
    target = tmp_path / "page.md"
    marks = "a\n<!-- bench: machine -->\nold\n<!-- end -->\nb\n<!-- bench: fan-out -->\n<!-- end -->\n"
    target.write_text(marks + "<!-- bench: storm idle -->\nkept\n<!-- end -->\n<!-- bench: bars -->\n<!-- end -->\n")
    page.fill(target, MACHINE, FIGURES)
    text = target.read_text()
    assert "a\n<!-- bench: machine -->\na CPU, 2 cores, Linux 6.1, Python 3.11.\n<!-- end -->\nb\n" in text
    assert "| 1,000 WebSocket | 6 µs, **1.2 ×** | 1 µs, **0.2 ×** |" in text
    assert "| 5,000 WebSocket | 9 µs, **1.8 ×** | – |" in text
    assert "kept" in text
    assert "| 5000 1 | 1.8 × floor | 1.5 | **no**, 20% above |" in text
    page.fill(target, MACHINE, FIGURES)
    assert target.read_text() == text
