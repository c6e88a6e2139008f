"""Tornado's RequestHandlers over both HTTP connections, and what our own one promises besides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from tornado.httputil import HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from rt.logs import Limited
from rt.web import http1, line
from rt.web.http1 import Http1
from tests.listening import KINDS, listening
from tests.waiting import PATIENCE, eventually

LARGE = b"x" * 1_000_000
LAST = b"Host: a\r\nConnection: close\r\n"
GET_LAST = b"GET /echo HTTP/1.1\r\n" + LAST + b"\r\n"


class Echo(RequestHandler):
    """Says what it was asked."""

    def prepare(self) -> None:
        """Nothing that differs from run to run."""
        self.clear_header("Date")
        self.clear_header("Server")
        self.clear_header("Etag")

    def compute_etag(self) -> None:
        """None."""

    def get(self) -> None:
        """The address."""
        self.write(f"{self.request.protocol} {self.request.remote_ip} {self.get_query_argument('n', '')}")

    def head(self) -> None:
        """As GET."""
        self.get()

    def post(self) -> None:
        """The body."""
        self.write(self.request.body)


class Streaming(Echo):
    """An answer in parts, each when the one before is out."""

    async def get(self) -> None:  # type: ignore[override]
        """Three parts."""
        for part in ("a", "bc", "def"):
            self.write(part)
            await self.flush()

    async def head(self) -> None:  # type: ignore[override]
        """As GET."""
        await self.get()


class Large(Echo):
    """More than a socket takes."""

    async def get(self) -> None:  # type: ignore[override]
        """In two parts."""
        self.write(LARGE)
        await self.flush()
        self.write(LARGE)


@stream_request_body
class Uploaded(Echo):
    """A body that is taken in parts, slowly."""

    def prepare(self) -> None:
        """Nothing has come."""
        super().prepare()
        self.size = 0

    async def data_received(self, chunk: bytes) -> None:
        """A part."""
        await asyncio.sleep(0)
        self.size += len(chunk)

    def post(self) -> None:
        """How much it was."""
        self.write(str(self.size))


class Failing(RequestHandler):
    """A handler with a mistake."""

    def get(self) -> None:
        """Never answers."""
        raise HTTPError(418)


class Waiting(RequestHandler):
    """Answers when it is told to."""

    event: asyncio.Event
    left = 0

    async def get(self) -> None:
        """At last."""
        await type(self).event.wait()
        self.write("at last")

    def on_connection_close(self) -> None:
        """The peer is gone."""
        type(self).left += 1


HANDLERS: list[tuple[str, type[RequestHandler]]] = [
    ("/echo", Echo),
    ("/streaming", Streaming),
    ("/large", Large),
    ("/uploaded", Uploaded),
    ("/failing", Failing),
    ("/waiting", Waiting),
]


@contextlib.asynccontextmanager
async def serving(kind: str, **options: Any) -> AsyncIterator[int]:
    """The port of a server of the handlers."""
    Waiting.event, Waiting.left = asyncio.Event(), 0
    application = Application(cast("Any", HANDLERS), log_function=lambda handler: None)
    async with listening(kind, application, **options) as port:
        yield port


async def ask(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


def answers(kind: str, sent: bytes, **options: Any) -> bytes:
    """All that comes back for ``sent`` until the server closes."""

    async def run() -> bytes:
        async with serving(kind, **options) as port:
            return await ask(port, sent)

    return asyncio.run(run())


def get(path: bytes, fields: bytes = LAST, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, path, version, fields)


SAME: dict[str, bytes] = {
    "the last request": GET_LAST,
    "kept alive": get(b"/echo?n=1", b"Host: a\r\n") + GET_LAST,
    "many ahead": b"".join(get(b"/echo?n=%d" % number, b"Host: a\r\n") for number in range(100)) + GET_LAST,
    "HEAD": get(b"/echo", method=b"HEAD"),
    "OPTIONS": get(b"/echo", method=b"OPTIONS"),
    "HTTP/1.0": get(b"/echo", b"", b"1.0"),
    "HTTP/1.0, kept alive": get(b"/echo", b"Connection: keep-alive\r\n", b"1.0") + get(b"/echo", b"", b"1.0"),
    "parts": get(b"/streaming"),
    "parts without a body": get(b"/streaming", method=b"HEAD"),
    "a body": b"POST /echo HTTP/1.1\r\n" + LAST + b"Content-Length: 4\r\n\r\nbody",
    "an empty body": b"POST /echo HTTP/1.1\r\n" + LAST + b"Content-Length: 0\r\n\r\n",
    "chunks": b"POST /echo HTTP/1.1\r\n" + LAST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
    "a body and the next request": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" + GET_LAST,
    "a streamed body": b"POST /uploaded HTTP/1.1\r\n%bContent-Length: 300000\r\n\r\n%b" % (LAST, b"x" * 300_000),
    "nobody's path": get(b"/nowhere"),
    "a failure": get(b"/failing"),
    "absolute form": get(b"http://a/echo"),
}


@pytest.mark.parametrize("sent", SAME.values(), ids=SAME)
def test_both_answer_the_same(sent: bytes) -> None:
    """Whatever a handler does, a client sees no difference."""
    ours, theirs = answers("fast", sent), answers("tornado", sent)
    assert comparable(ours) == comparable(theirs)


def comparable(answered: bytes) -> list[list[bytes]]:
    """The lines of the answers; only we say that the connection ends to a client that did not expect it to go on."""
    return [sorted(set(part.split(b"\r\n")) - {b"Connection: close"}) for part in answered.split(b"HTTP/1.1 ")]


@pytest.mark.parametrize("kind", KINDS)
def test_in_parts_to_an_old_client(kind: str) -> None:
    """It is sent no chunks, and the end of the connection is the end of the answer."""
    answered = answers(kind, get(b"/streaming", b"", b"1.0"))
    assert answered.endswith(b"\r\n\r\nabcdef") and b"Transfer-Encoding" not in answered


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_larger_than_a_socket(kind: str) -> None:
    """It comes whole, and the next request is served behind it."""
    answered = answers(kind, get(b"/large", b"Host: a\r\n") + GET_LAST, send_buffer=4096)
    assert answered.count(b"x") >= 2 * len(LARGE) and answered.endswith(b"127.0.0.1 ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_is_asked_for(kind: str) -> None:
    """Expect: 100-continue is answered before the body is sent."""

    async def run() -> bytes:
        async with serving(kind) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /echo HTTP/1.1\r\n" + LAST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert first.startswith(b"HTTP/1.1 100 ")
            writer.write(b"body")
            answered = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            return answered

    assert asyncio.run(run()).endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_hears_that_its_client_left(kind: str) -> None:
    """And its answer goes nowhere."""

    async def run() -> None:
        async with serving(kind) as port:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(get(b"/waiting"))
            await asyncio.sleep(0.05)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            await eventually(lambda: Waiting.left == 1)
            Waiting.event.set()
            assert (await ask(port, GET_LAST)).endswith(b"127.0.0.1 ")

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: ", b"POST /echo HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_head_that_does_not_come(kind: str, sent: bytes) -> None:
    """The connection is cut in time."""
    assert answers(kind, sent, timeout=0.2) == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [b"Content-Length: 5\r\n\r\nbod", b"Transfer-Encoding: chunked\r\n\r\n5\r\nbod"])
def test_a_body_that_does_not_come(kind: str, how: bytes) -> None:
    """The same."""
    assert answers(kind, b"POST /echo HTTP/1.1\r\nHost: a\r\n" + how, timeout=0.2) == b""


# What Tornado does in another way


def test_a_peer_that_closed_its_side_gets_its_answers() -> None:
    """All of them, as it has asked for them."""

    async def run() -> bytes:
        async with serving("fast") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get(b"/waiting", b"Host: a\r\n") + get(b"/echo?n=2", b"Host: a\r\n"))
            writer.write_eof()
            await asyncio.sleep(0.05)
            Waiting.event.set()
            answered = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            return answered

    answered = asyncio.run(run())
    assert b"at last" in answered and answered.endswith(b"127.0.0.1 2")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHo", b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"]
)
def test_a_peer_that_closed_its_side_too_early(sent: bytes) -> None:
    """There is nothing to answer."""

    async def run() -> bytes:
        async with serving("fast") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            answered = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            return answered

    assert asyncio.run(run()) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2_000_000, 431),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000, 413),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n" + b"x" * 2_000_000, 413),
    ],
    ids=["line", "endless header", "body", "endless chunk"],
)
def test_what_is_too_large(sent: bytes, status: int) -> None:
    """The peer can read why, although what it sends is not."""
    answered = answers("fast", sent, max_body=1000)
    assert answered.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close\r\n" in answered


def test_requests_ahead_are_not_taken_without_end() -> None:
    """What a peer sends while it is not answered stays with it."""
    flood = get(b"/waiting", b"Host: a\r\n") + get(b"/echo", b"Host: a\r\n") * 200_000

    async def run() -> None:
        async with serving("fast") as port:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(False)
            loop, sent = asyncio.get_running_loop(), 0
            with contextlib.suppress(TimeoutError):
                while sent < len(flood):
                    await asyncio.wait_for(loop.sock_sendall(sock, flood[sent : sent + 65536]), 0.3)
                    sent += 65536
            sock.close()
            assert sent < len(flood)

    asyncio.run(run())


def test_a_peer_that_takes_nothing_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut, and its handler hears of it."""
    monkeypatch.setattr(line, "STALLED", 0.2)

    async def run() -> None:
        async with serving("fast", timeout=0.2, send_buffer=4096) as port:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(get(b"/large"))
            await asyncio.sleep(1.0)
            sock.setblocking(False)
            got = b"x"
            with contextlib.suppress(ConnectionError):
                total = 0
                while got:
                    got = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 20), PATIENCE)
                    total += len(got)
                assert total < len(LARGE)
            sock.close()

    asyncio.run(run())


def test_a_connection_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait longer for its next one than for its first, but not for ever."""
    monkeypatch.setattr(http1, "IDLE", 0.6)

    async def run() -> float:
        async with serving("fast", timeout=0.2) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get(b"/echo", b"Host: a\r\n"))
            await asyncio.wait_for(reader.readuntil(b"127.0.0.1 "), PATIENCE)
            loop = asyncio.get_running_loop()
            start = loop.time()
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()
            return loop.time() - start

    assert asyncio.run(run()) > 0.5


def test_a_worker_that_leaves() -> None:
    """Who waits for nothing is let go, who is being answered after that."""

    async def run() -> None:
        async with serving_own() as (own, port):
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
            busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
            busy_writer.write(get(b"/waiting", b"Host: a\r\n"))
            await eventually(lambda: len(own.open) == 2)
            await asyncio.sleep(0.05)
            own.leave()
            assert await asyncio.wait_for(idle.read(), PATIENCE) == b""
            Waiting.event.set()
            answered = await asyncio.wait_for(busy.read(), PATIENCE)
            assert b"at last" in answered and b"Connection: close\r\n" in answered
            idle_writer.close()
            busy_writer.close()

    asyncio.run(run())


def test_a_worker_that_parts_says_so() -> None:
    """In the answer that is under way, too, and in the next to who waits for none; nobody is closed without a word."""

    async def run() -> None:
        async with serving_own() as (own, port):
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
            busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
            busy_writer.write(get(b"/waiting", b"Host: a\r\n"))
            await eventually(lambda: len(own.open) == 2 and any(each._state == line.WORK for each in own.open))
            own.part()
            idle_writer.write(get(b"/waiting", b"Host: a\r\n"))
            Waiting.event.set()
            for reader in (busy, idle):
                answered = await asyncio.wait_for(reader.read(), PATIENCE)
                assert b"at last" in answered and b"Connection: close\r\n" in answered
            idle_writer.close()
            busy_writer.close()

    asyncio.run(run())


def test_a_worker_that_leaves_answers_what_it_has_not_read_yet() -> None:
    """A request in the socket's buffer: to close over it would leave its sender not knowing what was done."""

    async def run() -> bytes:
        async with serving_own() as (own, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port)) as sock:
                await eventually(lambda: len(own.open) == 1)
                sock.sendall(get(b"/echo", b"Host: a\r\n"))  # the loop has no turn before the next line
                own.leave()
                sock.setblocking(False)
                return await asyncio.wait_for(loop.sock_recv(sock, 65536), PATIENCE)

    answered = asyncio.run(run())
    assert answered.startswith(b"HTTP/1.1 200 ") and b"Connection: close\r\n" in answered


@contextlib.asynccontextmanager
async def serving_own(delegate: HTTPServerConnectionDelegate | None = None) -> AsyncIterator[tuple[Http1, int]]:
    """Our own server of the handlers, or of ``delegate``, itself, and its port."""
    found: list[Http1] = []
    Waiting.event, Waiting.left = asyncio.Event(), 0
    application = delegate or Application(cast("Any", HANDLERS), log_function=lambda handler: None)
    async with listening("fast", application, found=found) as port:
        yield found[0], port


class Delegate(HTTPServerConnectionDelegate, HTTPMessageDelegate):
    """One that does what a test wants, at one of its calls."""

    def __init__(self, at: str, act: Callable[[], Awaitable[None] | None]) -> None:
        self.at, self.act = at, act
        self.closed = 0

    def start_request(self, server_conn: object, request_conn: object) -> HTTPMessageDelegate:
        return self

    def headers_received(self, start_line: object, headers: object) -> Awaitable[None] | None:
        return self.act() if self.at == "headers" else None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self.act() if self.at == "data" else None

    def finish(self) -> None:
        if self.at == "finish":
            self.act()

    def on_connection_close(self) -> None:
        self.closed += 1


async def fail_later() -> None:
    """Fail, but not at once."""
    await asyncio.sleep(0)
    raise RuntimeError("mine")


def fail() -> None:
    """Fail."""
    raise RuntimeError("mine")


@pytest.mark.parametrize(
    ("at", "act"),
    [("headers", fail), ("data", fail), ("finish", fail), ("headers", fail_later), ("data", fail_later)],
    ids=["headers", "data", "finish", "headers, later", "data, later"],
)
def test_a_delegate_that_fails(
    at: str, act: Callable[[], Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 500 and one line in the log, without the request."""
    monkeypatch.setattr(http1, "log", Limited(logging.getLogger("rt.web")))
    delegate = Delegate(at, act)

    async def run() -> bytes:
        async with serving_own(delegate) as (_, port):
            sent = b"POST /?secret HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
            return await ask(port, sent + get(b"/behind"))

    answered = asyncio.run(run())
    assert answered.startswith(b"HTTP/1.1 500 ") and answered.count(b"HTTP/1.1") == 1
    assert caplog.text.count("a request failed") == 1 and "secret" not in caplog.text
    assert delegate.closed == (at != "finish")


def test_a_delegate_hears_of_a_peer_that_leaves_in_the_middle() -> None:
    """Of a body, and while it waits itself."""

    async def run() -> None:
        for at in ("headers", "none"):
            delegate = Delegate(at, lambda: asyncio.Event().wait())  # type: ignore[arg-type,return-value]
            async with serving_own(delegate) as (own, port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbod")
                await eventually(lambda: own.open)
                await asyncio.sleep(0.05)
                writer.close()
                await eventually(lambda: not own.open)
                assert delegate.closed == 1

    asyncio.run(run())


def test_an_answer_that_breaks_its_own_word() -> None:
    """More or fewer bytes than announced end the connection: the next answer would be read as part of this one."""

    class Lying(Echo):
        def get(self) -> None:
            self.set_header("Content-Length", "5")
            self.write("four" if self.get_query_argument("n") == "4" else "sixsix")

    async def run(query: bytes) -> bytes:
        application = Application([("/lying", Lying)], log_function=lambda handler: None)
        async with listening("fast", application) as port:
            return await ask(port, get(b"/lying?n=" + query, b"Host: a\r\n") + GET_LAST)

    with contextlib.suppress(StreamClosedError):
        for query in (b"4", b"6"):
            assert asyncio.run(run(query)).count(b"HTTP/1.1") <= 1
