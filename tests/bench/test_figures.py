"""The bench: what it refuses to say, what it makes of several rounds, and what stands in its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.figures import Figure, Overloaded, Refused, check, median, read, row, write

SOUND: dict[str, Any] = {
    "cut": 0,
    "refused": 0,
    "unanswered": 0,
    "deliveries": 500,
    "expected": 500,
    "publications": 5,
}


def test_sound_round_is_accepted() -> None:
    """Everything arrived, nobody was cut, the load had time."""
    check(SOUND, busy=0.89)
    check(SOUND, busy=0.5, wanted=5)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"deliveries": 499}, "499 of 500 deliveries"),
        ({"deliveries": 501}, "501 of 500 deliveries"),
        ({"cut": 1}, "1 subscribers cut"),
        ({"refused": 2}, "2 requests refused"),
        ({"unanswered": 3}, "3 unanswered"),
    ],
)
def test_unsound_round_is_refused(wrong: dict[str, int], word: str) -> None:
    """A delivery too few or too many, a cut, a refusal: each is said, and is no reason to try again."""
    with pytest.raises(Refused, match=word) as caught:
        check({**SOUND, **wrong}, busy=0.1)
    assert not isinstance(caught.value, Overloaded)


def test_busy_load_is_refused() -> None:
    """Above 90 % of its core the load is what was measured; another round may be better."""
    with pytest.raises(Overloaded, match="91% busy"):
        check(SOUND, busy=0.91)


def test_late_publications_are_refused() -> None:
    """A rate that was not kept is no figure."""
    with pytest.raises(Overloaded, match="5 of 6 publications"):
        check(SOUND, busy=0.1, wanted=6)


def test_median_round() -> None:
    """The round in the middle is taken whole; of two the dearer one."""
    assert median([(3.0, "c"), (1.0, "a"), (2.0, "b")]) == (2.0, "b")
    assert median([(1.0, "a"), (2.0, "b")]) == (2.0, "b")
    assert median([(1.0, "a")]) == (1.0, "a")


def test_row_says_whether_bar_is_met() -> None:
    """A ratio stands beside its bar; a refused figure shows no number at all."""
    figure = Figure("x", cpu_us=9.0, ratio=1.2, yardstick="floor", bar=1.5, beside={"WebSocket": 1.03})
    assert row(figure) == "| x | 9 µs | 1.2 × floor (within 1.5) | 1.03 × WebSocket |"
    figure.asked["ms p99"] = [21.0, 20.0]
    assert row(figure).endswith("1.03 × WebSocket; 21 ms p99 (**above** 20) |")
    figure.ratio = 1.6
    assert "(**above** 1.5)" in row(figure)
    assert row(Figure("x", refused="3 of 4 deliveries")) == "| x | no figure: 3 of 4 deliveries | | |"


def test_report_is_read_back(tmp_path: Path) -> None:
    """What a run wrote is what is read; the machine is in it."""
    figures = [Figure("x", "fan-out", {"subs": 5}, 1.0, 2.0, "floor"), Figure("y", refused="why")]
    write(tmp_path / "new" / "bench.json", figures, {"json": tmp_path})
    machine, again = read(tmp_path / "new" / "bench.json")
    assert again == figures
    assert set(machine) == {"cpu", "cores", "kernel", "python"}
