"""What changed between two runs: ``bench/compare OLD NEW`` prints a line for each figure that both or one of them has.

Costs of different machines or busy hours differ by a factor of two, so the ratio to the yardstick is compared where
there is one, and the cost itself only where there is none. A change of less than ``--noise`` (default 10 %) is not
spoken of. Exit status 1 when something became dearer by more than that, or has no figure any more.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import Figure, read


@dataclass(frozen=True)
class Change:
    """One line: what, the value before and after, and by how much it changed (0.1 is a tenth more)."""

    what: str
    before: str
    after: str
    by: float | None = None
    worse: bool = False


def value(figure: Figure) -> float | None:
    """What is compared: the ratio, or else the cost."""
    return None if figure.refused else figure.ratio if figure.ratio is not None else figure.cpu_us


def shown(figure: Figure | None) -> str:
    """A figure in a word or two."""
    if figure is None:
        return "not measured"
    if figure.refused:
        return "no figure"
    if figure.ratio is not None:
        return f"{figure.ratio:.3g} × {figure.yardstick}"
    return f"{figure.cpu_us:.3g} µs" if figure.cpu_us is not None else ""


def changes(old: list[Figure], new: list[Figure], noise: float) -> list[Change]:
    """In the order of the old table, then what is new. A figure of the peers or a yardstick is never worse."""
    before, after = ({figure.what: figure for figure in figures} for figures in (old, new))
    found = []
    for what in [*before, *(name for name in after if name not in before)]:
        then, now = before.get(what), after.get(what)
        was, new_value = (value(figure) if figure else None for figure in (then, now))
        ours = (now or then or Figure(what)).group not in ("floor", "stock", "peers")
        if was and new_value is not None:
            by = new_value / was - 1
            if abs(by) >= noise:
                found.append(Change(what, shown(then), shown(now), by, worse=ours and by > 0))
        elif shown(then) != shown(now):
            gone = ours and was is not None and now is not None
            found.append(Change(what, shown(then), shown(now), worse=gone))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="what changed between two runs of the bench")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--noise", type=float, default=0.1, help="a change of less is not spoken of (0.1 is 10 %%)")
    options = parser.parse_args()
    (machine, old), (other, new) = read(options.old), read(options.new)
    if machine != other:
        print(f"different machines: {machine} and {other}; compare the ratios only\n")
    found = changes(old, new, options.noise)
    print(f"{len(found)} of {len({figure.what for figure in [*old, *new]})} changed by {options.noise:.0%} or more\n")
    print("| what | before | after | |\n|---|---|---|---|")
    for change in found:
        by = "" if change.by is None else f"{change.by:+.0%}"
        print(f"| {change.what} | {change.before} | {change.after} | {by}{' worse' if change.worse else ''} |")
    return 1 if any(change.worse for change in found) else 0


if __name__ == "__main__":
    sys.exit(main())
