"""bench/compare: which changes are spoken of, and which are a step back."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.compare import changes
from bench.figures import Figure, write

ROOT = Path(__file__).resolve().parent.parent.parent


def figure(
    what: str, ratio: float | None = None, cpu: float = 1.0, group: str = "fan-out", refused: str = ""
) -> Figure:
    """A figure of a run."""
    return Figure(what, group, cpu_us=None if refused else cpu, ratio=ratio, yardstick="floor", refused=refused)


def test_ratio_counts_where_there_is_one() -> None:
    """On a slower machine the cost doubles and the ratio does not: nothing changed."""
    assert changes([figure("a", 1.0, cpu=5.0)], [figure("a", 1.05, cpu=10.0)], noise=0.1) == []
    (change,) = changes([figure("a", 1.0)], [figure("a", 1.2)], noise=0.1)
    assert change.worse and change.by is not None and abs(change.by - 0.2) < 1e-9
    (change,) = changes([figure("a", 1.0)], [figure("a", 0.5)], noise=0.1)
    assert not change.worse


def test_cost_counts_without_ratio() -> None:
    """Idle connections and the like have no yardstick."""
    (change,) = changes([figure("idle", cpu=10.0)], [figure("idle", cpu=15.0)], noise=0.1)
    assert (change.before, change.after, change.worse) == ("10 µs", "15 µs", True)


def test_lost_figure_is_worse_and_new_one_is_not() -> None:
    """What was measured before and is refused now is a step back; a row that is new, or was not asked for, is none."""
    old, new = [figure("a", 1.0), figure("b", 1.0)], [figure("a", refused="lost"), figure("c", 1.0)]
    assert [(change.what, change.after, change.worse) for change in changes(old, new, noise=0.1)] == [
        ("a", "no figure", True),
        ("b", "not measured", False),
        ("c", "1 × floor", False),
    ]


def test_yardsticks_are_never_worse() -> None:
    """The floor and the peers are not ours to mend."""
    for group in ("floor", "stock", "peers"):
        (change,) = changes([figure("a", cpu=1.0, group=group)], [figure("a", cpu=2.0, group=group)], noise=0.1)
        assert not change.worse


def test_compare_command_prints_what_changed(tmp_path: Path) -> None:
    """The command reads two reports, and its exit status says whether something became dearer."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write(old, [figure("a", 1.0), figure("b", 1.0)], {})
    write(new, [figure("a", 2.0), figure("b", 1.0)], {})
    done = subprocess.run([ROOT / "bench" / "compare", old, new], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "| a | 1 × floor | 2 × floor | +100% worse |" in done.stdout
    assert "| b |" not in done.stdout
    same = subprocess.run([ROOT / "bench" / "compare", old, old], capture_output=True, text=True, timeout=60)
    assert same.returncode == 0
