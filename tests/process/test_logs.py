"""Log lines: single, free of secrets, limited, and never waited for."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import logs
from rt.logs import Flood, Limited, Limiter, Line, Writer, escape, fields, redact
from tests.servers import ROOT
from tests.tokens import KEY
from tests.waiting import eventually_now


def line(name: str, message: str, *args: object, journald: bool = False, **extra: object) -> str:
    """``message`` as it would be written."""
    record = logging.LogRecord(name, logging.WARNING, "file.py", 1, message, args, None)
    record.fields = extra
    return Line("worker 1", journald=journald).format(record)


@given(st.text())
def test_a_record_is_one_line_of_printable_text(text: str) -> None:
    """Whatever a client sends: no line end, no control character, nothing that cannot be encoded."""
    escaped = escape(text)
    assert escaped.splitlines() in ([escaped], [])
    assert escaped.encode().decode() == escaped
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in escaped)


def test_the_parts_of_a_line() -> None:
    """Time, level, logger, process, message, and fields, quoted where they need it."""
    text = line("rt.x", "took %s", "long", code=3, why="no answer", empty="")
    stamp, level, rest = text.split(maxsplit=2)
    assert stamp.endswith("Z") and level == "warning"
    assert rest == "rt.x[worker 1] took long code=3 why='no answer' empty=''"


def test_journald_gets_a_priority_instead_of_a_time() -> None:
    """The journal has its own clock."""
    assert line("rt.x", "hello", journald=True) == "<4>rt.x[worker 1] hello"


def test_a_traceback_is_one_line() -> None:
    """Also what an exception says."""
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        record = logging.LogRecord("rt", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    text = Line("").format(record)
    assert "\n" not in text and r"ValueError: bad\nvalue" in text


def test_a_line_is_bounded() -> None:
    """A megabyte in a message does not go to the log."""
    assert len(line("rt", "x" * 1_000_000)) < logs.MAX_LINE + 200


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"404 GET /sse?channel=a&token={TOKEN} (127.0.0.1) 0.5ms",
        f"Uncaught exception GET /ws?{TOKEN} HTTPServerRequest(uri='/ws?{TOKEN}')",
        f"headers Authorization: Bearer {TOKEN}",
        f"{{'Authorization': 'apikey {TOKEN}'}}",
        f"X-API-Key: {TOKEN}",
        f"token={TOKEN}",
    ],
)
def test_no_token_of_a_request_gets_into_the_log(text: str) -> None:
    """Tornado writes whole URIs and headers; a line has neither query nor token."""
    for token in (TOKEN, "not-a-jwt-but-secret-0123"):
        written = line("tornado.access", text.replace(TOKEN, token))
        assert token not in written and "[redacted]" in written


def test_our_own_lines_lose_queries_and_jwts_only() -> None:
    """A question mark in a sentence stays; a URI's query and a token do not."""
    assert redact("who is it? nobody") == "who is it? nobody"
    assert redact("GET /a?b=c done") == "GET /a?[redacted] done"
    assert redact(f"got {TOKEN}.") == "got [redacted]."


def test_one_event_in_ten_seconds_and_the_rest_counted() -> None:
    """Each class on its own; the line after a silence says how many there were."""
    now = 100.0
    limiter = Limiter(10.0, lambda: now)
    assert [limiter.admit("a"), limiter.admit("a"), limiter.admit("a"), limiter.admit("b")] == [0, None, None, 0]
    now = 110.0
    assert [limiter.admit("a"), limiter.admit("b"), limiter.admit("a")] == [2, 0, None]


def test_a_limiter_does_not_grow() -> None:
    """Even when somebody makes classes out of what clients send."""
    limiter = Limiter()
    for number in range(5000):
        assert limiter.admit(number) == 0
    assert len(limiter._seen) <= logs.MAX_CLASSES


def test_a_limited_logger(caplog: pytest.LogCaptureFixture) -> None:
    """All levels are limited alike, and exceptions are told once."""
    now = 0.0
    limited = Limited(logging.getLogger("rt.test"), 10.0, lambda: now)
    calls: list[Callable[..., None]] = [limited.info, limited.warning, limited.error]
    with caplog.at_level(logging.INFO):
        for call in calls:
            call(call.__name__, "%s happened", call.__name__, number=1)
            call(call.__name__, "again")
        now = 11.0
        limited.error("error", "later")
        try:
            raise KeyError("x")
        except KeyError:
            limited.exception("exception", "failed")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["info happened", "warning happened", "error happened", "later", "failed"]
    assert caplog.records[3].__dict__["fields"] == {"suppressed": 1}
    assert caplog.records[4].exc_info is not None


def test_a_flood_from_other_loggers_is_held_back() -> None:
    """Ten thousand bad handshakes are one line; our own loggers are left alone."""
    flood = Flood()
    theirs = [logging.LogRecord("tornado.general", 30, "h.py", 7, "bad %s", (n,), None) for n in range(10_000)]
    ours = [logging.LogRecord("rt.web", 30, "h.py", 7, "bad", (), None) for _ in range(10)]
    assert sum(map(bool, map(flood.filter, theirs))) == 1
    assert sum(map(bool, map(flood.filter, ours))) == 10


def test_a_blocked_reader_stops_nobody() -> None:
    """A full pipe: put() returns at once, the queue is bounded, and the lost lines are counted and told later."""
    reader, writer_fd = os.pipe()
    os.set_blocking(writer_fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer_fd, b"x" * 4096)
    os.set_blocking(writer_fd, True)
    writer = Writer(writer_fd, limit=100)
    writer.start()
    began = time.monotonic()
    for _ in range(5000):
        writer.put("x" * 200)
    assert time.monotonic() - began < 2.0
    assert writer.dropped >= 4899
    assert not writer.flush(0.01)
    told = b""
    while b"log lines dropped count=" not in told:
        told += os.read(reader, 65536)
        writer.put("now")
    writer.close()
    writer.join(5)
    assert not writer.is_alive()
    os.close(reader)
    os.close(writer_fd)


def test_a_reader_that_is_gone_stops_nobody() -> None:
    """A closed pipe: lines are dropped and counted."""
    reader, writer_fd = os.pipe()
    os.close(reader)
    writer = Writer(writer_fd)
    writer.start()
    writer.put("a")
    eventually_now(lambda: writer.dropped == 1)
    writer.close()
    os.close(writer_fd)


def test_setup_in_a_process() -> None:
    """All loggers of a process write single lines to stderr; debug output of the store's driver never does."""
    code = f"""
import logging
from rt import logs
writer = logs.setup("w", level=logging.DEBUG)
logging.getLogger("rt.a").info("one\\ntwo", extra=logs.fields(n=1))
logging.getLogger("tornado.general").warning("GET /x?token={KEY}")
logging.getLogger("push_response").debug("payload")
logging.getLogger("redis.connection").debug("payload")
logging.getLogger("rt.a").info("%d", "no number")
writer.close()
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second, third = ended.stderr.splitlines()
    assert first.endswith(r"info    rt.a[w] one\ntwo n=1")
    assert second.endswith("GET /x?[redacted]")
    assert "could not be formatted" in third
    assert KEY not in ended.stderr and "payload" not in ended.stderr


def test_fields_are_an_extra() -> None:
    """They can be given to any logger."""
    assert json.dumps(fields(a=1)) == '{"fields": {"a": 1}}'


def test_lines_that_are_lost_can_be_counted() -> None:
    """What the metric of dropped lines reads: of the writer that this process has."""
    reader, writer_fd = os.pipe()
    os.close(reader)
    code = "import logging\nfrom rt import logs\nassert logs.dropped() == 0\nwriter = logs.setup()\n"
    code += "logging.getLogger('rt').error('lost')\nwriter.flush(5)\nprint(logs.dropped())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer_fd, text=True)
    os.close(writer_fd)
    assert ended.stdout.strip() == "1"
