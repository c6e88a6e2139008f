"""What the encoder writes, parsed back by a reader made from the text of the standard."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.protocol import sse


class Event(NamedTuple):
    """What a listener of an EventSource sees."""

    type: str
    data: str
    last_event_id: str


class EventSource:
    """A reader of event streams as WHATWG HTML section 9.2.6 describes it, step by step."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.retry: int | None = None
        self.id_buffer = self.type_buffer = self.data_buffer = ""

    def read(self, stream: bytes) -> list[Event]:
        """Interpret a whole stream; what is not ended by a blank line is discarded."""
        text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
        for line in re.split("\r\n|\r|\n", text)[:-1]:
            self._line(line)
        return self.events

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            self._field(name, value.removeprefix(" "))

    def _field(self, name: str, value: str) -> None:
        if name == "event":
            self.type_buffer = value
        elif name == "data":
            self.data_buffer += value + "\n"
        elif name == "id" and "\0" not in value:
            self.id_buffer = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry = int(value)

    def _dispatch(self) -> None:
        if self.data_buffer:
            event = Event(self.type_buffer or "message", self.data_buffer.removesuffix("\n"), self.id_buffer)
            self.events.append(event)
        self.type_buffer = self.data_buffer = ""


def normal(text: str) -> str:
    """The text with every line end as LF, which is all that an event stream can carry."""
    return re.sub("\r\n|\r", "\n", text)


# Text full of what could break out of a field.
hostile = st.text(
    st.sampled_from("\r\n\0:\u0085\u2028\u2029\ufeff \tdataid€\U0001f600") | st.characters(codec="utf-8"), max_size=40
)
line = hostile.filter(lambda text: not set(text) & set("\r\n\0"))


@pytest.mark.parametrize(
    ("data", "fields", "expected"),
    [
        (b"{}", {}, b"data: {}\n\n"),
        (b"", {}, b"data: \n\n"),
        (b"x", {"id": "a.1,-"}, b"id: a.1,-\ndata: x\n\n"),
        (b"x", {"event": "gap"}, b"event: gap\ndata: x\n\n"),
        (b"x", {"id": "e.2", "event": "gap"}, b"id: e.2\nevent: gap\ndata: x\n\n"),
        (b"a\nb\rc\r\nd", {}, b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (b"\n\r", {}, b"data: \ndata: \ndata: \n\n"),
        (b"x\n\nid: 9", {}, b"data: x\ndata: \ndata: id: 9\n\n"),
        ("\u0085\u2028".encode(), {}, b"data: \xc2\x85\xe2\x80\xa8\n\n"),
    ],
)
def test_an_event_is_written_line_by_line(data: bytes, fields: dict[str, str], expected: bytes) -> None:
    """Fields come in a fixed order, one data line for each line of the data, and a blank line ends the event."""
    assert sse.event(data, **fields) == expected


@settings(deadline=None)
@given(hostile, st.none() | line, st.none() | line)
def test_an_event_is_read_back(data: str, id: str | None, event: str | None) -> None:
    """Whatever the data holds, a reader sees exactly one event with that data, id and name."""
    got = EventSource().read(sse.event(data.encode(), id=id, event=event))
    assert got == [Event(event or "message", normal(data), id or "")]


@settings(deadline=None)
@given(st.lists(st.tuples(hostile, line, line, line), max_size=6))
def test_a_stream_is_read_back(blocks: list[tuple[str, str, str, str]]) -> None:
    """Events between comments, heartbeats and retry lines are all seen, in order, and nothing else is."""
    source = EventSource()
    stream = sse.retry(1000)
    for data, id, event, remark in blocks:
        stream += sse.event(data.encode(), id=id, event=event) + sse.comment(remark) + sse.HEARTBEAT
    expected = [Event(event or "message", normal(data), id) for data, id, event, _ in blocks]
    assert source.read(stream) == expected
    assert source.retry == 1000


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\r\nb", "\n", "a\0b", "x\r"])
def test_fields_of_one_line_refuse_line_ends_and_nul(bad: str) -> None:
    """An id, a name or a comment cannot forge another field."""
    with pytest.raises(ValueError, match="CR, LF and NUL"):
        sse.event(b"x", id=bad)
    with pytest.raises(ValueError, match="CR, LF and NUL"):
        sse.event(b"x", event=bad)
    with pytest.raises(ValueError, match="CR, LF and NUL"):
        sse.comment(bad)


def test_text_that_is_no_unicode_is_refused() -> None:
    """A lone surrogate has no UTF-8 form; that is a ValueError too."""
    with pytest.raises(ValueError, match="surrogates"):
        sse.event(b"x", id="\ud800")


def test_an_event_without_id_keeps_the_last_one() -> None:
    """A reader's position moves only with an id; an empty one makes it forget."""
    source = EventSource()
    stream = sse.event(b"1", id="a.1") + sse.event(b"2") + sse.event(b"3", id="")
    assert [event.last_event_id for event in source.read(stream)] == ["a.1", "a.1", ""]


def test_retry_is_a_number_of_milliseconds() -> None:
    """The reconnect delay is written in digits; a negative one is refused, since a reader would ignore it."""
    assert sse.retry(0) == b"retry: 0\n\n"
    assert sse.retry(1500) == b"retry: 1500\n\n"
    with pytest.raises(ValueError, match="negative"):
        sse.retry(-1)


def test_a_heartbeat_is_invisible() -> None:
    """Heartbeats and comments give a listener nothing."""
    assert EventSource().read(sse.HEARTBEAT + sse.comment("data: x") + sse.HEARTBEAT) == []
