"""What is wrong with a config: one mistake is one line, and all of them are told at once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

_BARE = re.compile(r"[A-Za-z0-9_./:+%@*-]+")
_SHOWN = 40
_LISTED = 100


class Place(NamedTuple):
    """Where something is written: a file and its line from 1, or an environment variable (``$NAME``) and line 0."""

    file: str
    line: int


class Problem(NamedTuple):
    """One mistake: where it is, at which key, what was found there, and what is allowed instead.

    ``line`` is 0 where there is none (an environment variable, a file that cannot be read); ``path`` is empty where the
    mistake is not about one key. No field ever holds the value of a secret.
    """

    file: str
    line: int
    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        at = f"{self.path}: " if self.path else ""
        return f"{where}: {at}found {self.found}, expected {self.allowed}"


class ConfigError(Exception):
    """A config that must not be used; ``problems`` holds every mistake, those of the file first, by line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = sorted(problems, key=lambda problem: (problem.line == 0, problem.file, problem.line))

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_LISTED]]
        if len(self.problems) > _LISTED:
            lines.append(f"and {len(self.problems) - _LISTED} more")
        return "\n".join(lines)


def shown(text: str) -> str:
    """``text`` as a mistake may print it: on one line, not long, without control characters."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return cut if _BARE.fullmatch(cut) else json.dumps(cut)
