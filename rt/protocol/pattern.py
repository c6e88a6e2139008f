"""Patterns of channel names: the globs of the server API's ``channels``.

``*`` stands for any run of characters (colons too), ``?`` for one, ``[abc]``, ``[a-z]`` and ``[!a-z]`` for one of a
set or none of it, ``{a,b*}`` for either, nested too, and ``\\`` takes the next character as it is. No pattern takes
more time than its size times the length of a name: braces become a bounded list of patterns without braces, and a run
between two stars, once found, is not looked for again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

from rt import errors

LENGTH_MAX = 255
"""Characters of a pattern."""
ALTERNATIVES_MAX = 128
"""Patterns without braces that one with braces may stand for."""
PARTS_MAX = 4096
"""Characters of all these patterns together."""
DEPTH_MAX = 8
"""Braces within braces."""

_ANY = "*"  # in a list of parts; every other part is the regular expression of one character
_Parts = tuple[str, ...]


def compile(glob: str) -> Callable[[str], bool]:
    """What says whether a name matches as a whole; an empty ``glob`` matches all.

    :class:`errors.Refused` (107) for a pattern that is too long, is left open, or stands for too many.
    """
    if not glob:
        return lambda name: True
    if len(glob) > LENGTH_MAX:
        raise errors.Refused(errors.BAD_REQUEST, "a pattern has at most 255 characters")
    patterns = dict.fromkeys(_Reader(glob).sequence())
    if sum(map(len, patterns)) > PARTS_MAX:
        raise _too_many()
    matches = re.compile("|".join(map(_expression, patterns)), re.DOTALL).fullmatch
    return lambda name: matches(name) is not None


def _expression(parts: _Parts) -> str:
    """The regular expression of a pattern without braces.

    The first place where what follows a star fits is as good as any later one, so it is never given up (an atomic
    group); only the last run must stand at the end.
    """
    first, *others = _runs(parts)
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{run})" for run in middle if run) + (f".*{last}" if last else ".*")


def _runs(parts: _Parts) -> list[str]:
    """The parts between the stars, joined."""
    runs = [""]
    for part in parts:
        if part == _ANY:
            runs.append("")
        else:
            runs[-1] += part
    return runs


class _Reader:
    """Reads a glob from left to right, once."""

    __slots__ = ("_at", "_depth", "_glob")

    def __init__(self, glob: str) -> None:
        self._glob = glob
        self._at = 0
        self._depth = 0

    def sequence(self) -> list[_Parts]:
        """The patterns that what comes next stands for, up to the end, or inside braces the end of one alternative."""
        ends = (",", "}", "") if self._depth else ("",)
        patterns: list[_Parts] = [()]
        while self._peek() not in ends:
            patterns = _joined(patterns, self._next())
        return patterns

    def _next(self) -> list[_Parts]:
        character = self._take()
        if character == "{":
            return self._alternatives()
        if character == "*":
            return [(_ANY,)]
        if character == "?":
            return [(".",)]
        if character == "[":
            return [(self._set(),)]
        return [(re.escape(self._take() if character == "\\" else character),)]

    def _alternatives(self) -> list[_Parts]:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise _too_many()
        patterns = self.sequence()
        while self._take() == ",":
            patterns += self.sequence()
        self._depth -= 1
        return patterns

    def _set(self) -> str:
        """One character of a set; a range has a lower and an upper end, and a set is not empty."""
        inverted = self._peek() == "!"
        if inverted:
            self._take()
        members = ""
        while self._peek() != "]":
            low = high = self._member()
            if self._peek() == "-":
                self._take()
                high = self._member()
            if high < low:
                raise _bad()
            members += f"{re.escape(low)}-{re.escape(high)}"
        self._take()
        if not members:
            raise _bad()
        return f"[{'^' if inverted else ''}{members}]"

    def _member(self) -> str:
        character = self._take()
        if character in "]-":
            raise _bad()
        return self._take() if character == "\\" else character

    def _peek(self) -> str:
        return self._glob[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise _bad()
        self._at += 1
        return character


def _joined(heads: list[_Parts], tails: list[_Parts]) -> list[_Parts]:
    """Every head followed by every tail."""
    if len(heads) * len(tails) > ALTERNATIVES_MAX:
        raise _too_many()
    return [head + tail for head, tail in product(heads, tails)]


def _bad() -> errors.Refused:
    return errors.Refused(errors.BAD_REQUEST, "not a pattern")


def _too_many() -> errors.Refused:
    return errors.Refused(errors.BAD_REQUEST, "a pattern stands for too many")
