"""Mistakes as text."""

from __future__ import annotations

import pytest

from rt.config.problem import ConfigError, Problem, shown


def test_one_mistake_is_one_line() -> None:
    """Place, key, found and allowed; without a line or a key these are left out."""
    assert str(Problem("a.yaml", 3, "server.port", "x", "y")) == "a.yaml:3: server.port: found x, expected y"
    assert str(Problem("$RT_X", 0, "", "x", "y")) == "$RT_X: found x, expected y"


def test_mistakes_are_in_order_and_not_endless() -> None:
    """Those of the file come first, by line; after a hundred the rest is a number."""
    problems = [Problem("$A", 0, "", "x", "y"), *(Problem("f", line, "", "x", "y") for line in range(150, 0, -1))]
    lines = str(ConfigError(problems)).splitlines()
    assert lines[0].startswith("f:1:")
    assert len(lines) == 101
    assert lines[-1] == "and 51 more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8000", "8000"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a\nb", '"a\\nb"'),
        ("\u202e", '"\\u202e"'),
        ("x" * 50, "x" * 37 + "..."),
    ],
)
def test_found_text_is_short_and_harmless(text: str, expected: str) -> None:
    """A found text cannot break the line, turn it around or fill the screen."""
    assert shown(text) == expected
