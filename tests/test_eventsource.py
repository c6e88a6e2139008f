"""The tests' own event stream parser follows the HTML standard, so that what it reads is what a browser would."""

from __future__ import annotations

import pytest

from tests.eventsource import Event, Parser

STREAM = (
    b": hello\nretry: 1500\n\nevent: a\nid: 1\ndata: x\ndata:  y\n\n"
    b"data\n\nid\ndata: z\n\nevent: lost\n\ndata: unfinished"
)
EVENTS = [Event("a", "x\n y", "1"), Event("message", "", "1"), Event("message", "z", "")]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_ending_gives_the_same_events(end: bytes) -> None:
    """LF, CR and CRLF all end a line."""
    parser = Parser()
    assert parser.feed(b"\xef\xbb\xbf" + STREAM.replace(b"\n", end)) == EVENTS
    assert (parser.comments, parser.retry) == (1, 1500)


def test_every_way_of_cutting_gives_the_same_events() -> None:
    """How the bytes arrive does not matter."""
    data = STREAM.replace(b"\n", b"\r\n")
    for size in range(1, len(data)):
        parser = Parser()
        cuts = [data[start : start + size] for start in range(0, len(data), size)]
        assert [event for cut in cuts for event in parser.feed(cut)] == EVENTS


def test_an_id_with_nul_is_ignored() -> None:
    """The standard drops it, so a server must never send one."""
    assert Parser().feed(b"id: 1\nid: 2\0\ndata: x\n\n") == [Event("message", "x", "1")]
