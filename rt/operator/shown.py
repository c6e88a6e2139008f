"""Text for a terminal: tables, and what others chose made harmless.

Names, users and payloads come from anywhere. Whatever a terminal could take for more than a character is written as an
escape.
"""

from __future__ import annotations

from collections.abc import Sequence

Cell = str | int | float

WIDEST = 80
"""Characters of one cell of a table: a name as long as a token would stretch the lines of all others."""


def visible(text: str) -> str:
    """The text on one line, with every character that does not print as an escape.

    >>> visible("a\\x1b[2J\\u202eb")
    'a\\\\x1b[2J\\\\u202eb'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Columns, numbers to the right; what is wider than :data:`WIDEST` is cut."""
    cells = [[_fitted(visible(cell)) if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in rows]
    widths = [max([len(head), *(len(row[at]) for row in cells)]) for at, head in enumerate(heads)]
    right = [bool(rows) and not isinstance(rows[0][at], str) for at in range(len(heads))]
    lines = ["  ".join(_aligned(row, widths, right)) for row in [list(heads), *cells]]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _fitted(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _aligned(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    return [cell.rjust(width) if at else cell.ljust(width) for cell, width, at in zip(row, widths, right, strict=True)]


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """One fact a line, with their names in a column."""
    width = max((len(name) for name, _ in pairs), default=0)
    return "".join(f"{name.ljust(width)}  {visible(value)}\n" for name, value in pairs)


def seconds(value: float | None) -> str:
    """A time as people read it.

    >>> [seconds(value) for value in (None, 0.0, 0.00042, 0.0123, 1.25, 75, 8000, 200000)]
    ['-', '0', '0.42 ms', '12.3 ms', '1.2 s', '1m 15s', '2h 13m', '2d 7h']
    """
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.3g} ms" if value else "0"
    if value < 60:
        return f"{value:.3g}s".replace("s", " s") if value >= 10 else f"{value:.1f} s"
    for unit, below, size in (("d", "h", 86400), ("h", "m", 3600), ("m", "s", 60)):
        if value >= size:
            whole, rest = divmod(int(value), size)
            return f"{whole}{unit} {rest // _SMALLER[below]}{below}"
    return ""


_SMALLER = {"h": 3600, "m": 60, "s": 1}


def size(value: float) -> str:
    """Bytes as people read them.

    >>> [size(value) for value in (0, 1023, 4096, 3 * 2**20)]
    ['0 B', '1023 B', '4.0 KiB', '3.0 MiB']
    """
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def rate(value: float) -> str:
    """So many a second."""
    return f"{value:,.1f}/s" if 0 < value < 100 else f"{value:,.0f}/s"
