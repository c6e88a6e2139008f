"""What the command line prints: nothing that a terminal could take for a command, and no line without an end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt.operator import looks
from rt.operator.shown import WIDEST, table

EVIL = "\x9b31m\u202e\x7f\U000e0041 ok"
PUBLICATION = {"publication": {"offset": 7, "data": EVIL}, "epoch": EVIL, "time": 1.5, "size": 9}
EVENTS: list[dict[str, Any]] = [
    PUBLICATION,
    {"tail": {"channel": EVIL, "node": EVIL, "epoch": EVIL, "offset": 1}},
    {"gap": {"epoch": EVIL, "offset": 1}},
    {"dropped": EVIL},
    {"end": EVIL},
    {"join": {"user": EVIL}},
]


@pytest.mark.parametrize("event", EVENTS)
def test_event_is_printable_on_one_line(event: dict[str, Any]) -> None:
    """In words and as JSON; as JSON it still says the same."""
    assert looks.line(event).isprintable()
    text = looks.raw_line(event)
    assert text.isprintable() and json.loads(text) == event


def test_raw_is_printable_and_says_the_same() -> None:
    """On several lines, characters beyond the 16 bits of an escape too."""
    text = looks.raw([EVIL, {EVIL: 1}])
    assert all(line.isprintable() for line in text.split("\n")) and json.loads(text) == [EVIL, {EVIL: 1}]


def test_event_keeps_its_offset() -> None:
    """Who wants JSON gets what the server sent, also when the line has been made of it."""
    event = {**PUBLICATION, "publication": {"offset": 7, "data": 1}}
    assert "  7  " in looks.line(event)
    assert json.loads(looks.raw_line(event))["publication"]["offset"] == 7


def test_table_cuts_a_name_without_end() -> None:
    """It does not stretch the lines of all others."""
    lines = table(("NAME", "COUNT"), [["x" * 5000, 1], ["y", 2]]).splitlines()
    assert max(map(len, lines)) < WIDEST + 20 and "…" in lines[1]
