"""The router, over a real socket: which door a request goes to, when, and what becomes of one that waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from tornado.web import Application

from rt.config import Client, Config, Connections, Limits
from rt.logs import Limited
from rt.web import router as routing
from rt.web.entrance import Entrance, StreamDoor
from rt.web.request import Request
from rt.web.router import Router
from rt.web.tenants import Tenants
from tests.listening import KINDS, listening
from tests.waiting import eventually

LIMIT = 2048
CHANGES = b"HTTP/1.1 101 Mine\r\n\r\n"
Send = Callable[[bytes], Awaitable[bytes]]


class FakeHub:
    """As much of a hub as the router asks."""

    config = Config(client=Client(message_size_limit=LIMIT), limits=Limits(connections=Connections(wait=0.0)))


class FakeEntrance:
    """As much of an entrance as the router asks."""

    hub = FakeHub()


class FakeApi:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def door(self, request: Request) -> None:
        """Answer with the body that came."""
        self.bodies.append(request.body)
        request.reply(200, b"api:" + request.body)


class FakeTenant:
    """The only tenant."""

    name = "default"

    def __init__(self) -> None:
        self.entrance = FakeEntrance()
        self.api = FakeApi()


class Place:
    """A server with one stream door at /door, and connections to it."""

    def __init__(self, door: StreamDoor) -> None:
        tenants = Tenants(lambda: cast("Any", None))
        tenant = FakeTenant()
        self.api = tenant.api
        tenants.only = cast("Any", tenant)
        self.router = Router(Application([]), {"/door": door}, tenants, max_body=LIMIT * 2)
        self.port = 0

    async def connect(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that has sent ``request``."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """All that comes back for ``request`` until the server closes, or says nothing more for a moment."""
        reader, writer = await self.connect(request)
        got = b""
        with contextlib.suppress(TimeoutError):
            while part := await asyncio.wait_for(reader.read(65536), 0.3):
                got += part
        writer.close()
        return got


@pytest.fixture(params=KINDS)
def http(request: pytest.FixtureRequest) -> str:
    """Every test here runs over both HTTP connections."""
    return cast("str", request.param)


@contextlib.asynccontextmanager
async def serving(http: str, door: StreamDoor) -> AsyncIterator[Place]:
    """A place whose stream door is ``door``."""
    place = Place(door)
    async with listening(http, place.router) as place.port:
        try:
            yield place
        finally:
            await place.router.stop()


def taking(before: Callable[[], Awaitable[None]] | None = None) -> StreamDoor:
    """A door that takes the socket over, after ``before``, and echoes the request's body and what came behind."""

    def take(request: Request) -> None:
        sink, behind = request.take_over()
        sink.send(CHANGES + request.body + behind)
        sink.close()

    async def wait_and_take(request: Request) -> None:
        assert before is not None
        await before()
        take(request)

    def door(entrance: Entrance, request: Request) -> Awaitable[None] | None:
        if before is None:
            take(request)
            return None
        return wait_and_take(request)

    return door


async def a_turn() -> None:
    """Several turns of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("before", [None, a_turn], ids=["at once", "after waiting"])
@pytest.mark.parametrize(
    ("request_bytes", "echo"),
    [
        (b"GET /door HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"POST /door HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", b"body"),
        (
            b"POST /door HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
            b"body",
        ),
        (b"POST /door HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["get", "post", "chunks", "empty"],
)
def test_a_stream_takes_the_socket_over(
    http: str, before: Callable[[], Awaitable[None]] | None, request_bytes: bytes, echo: bytes
) -> None:
    """From the headers, or from the end of the body, at once or after waiting for something."""

    async def run() -> bytes:
        async with serving(http, taking(before)) as place:
            got = await place.ask(request_bytes)
            assert not place.router.entering
            return got

    assert asyncio.run(run()) == CHANGES + echo


def test_a_body_that_is_too_large_is_refused_before_it_is_read(http: str) -> None:
    """413 by the length announced, and by what came, in chunks; the door is not called."""
    head = b"POST /door HTTP/1.1\r\nHost: a\r\n"
    chunk = b"%x\r\n%b\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1))

    async def run() -> list[bytes]:
        async with serving(http, taking()) as place:
            announced = await place.ask(head + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
            return [announced, await place.ask(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)]

    for answer in asyncio.run(run()):
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET /door HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /door HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"],
    ids=["get", "post"],
)
def test_a_peer_that_leaves_is_waited_for_no_more(
    http: str, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What its door waits for is cancelled, and nothing of it is left or logged."""
    ended: list[str] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def run() -> None:
        async with serving(http, taking(for_ever)) as place:
            _, writer = await place.connect(request_bytes)
            await eventually(lambda: len(place.router.entering) == 1)
            writer.close()
            await eventually(lambda: not place.router.entering)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert ended == ["cancelled"]
    assert not caplog.records


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_door_that_waits_too_long_is_given_up(http: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told to come back, and the connection is closed."""
    monkeypatch.setattr(routing, "PATIENCE", 0.05)
    request = f"{method} /door HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()

    async def run() -> bytes:
        async with serving(http, taking(asyncio.Event().wait)) as place:  # type: ignore[arg-type]
            return await place.ask(request)

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in answer


def test_a_stop_turns_away_who_still_waits(http: str) -> None:
    """Nobody is left hanging on a door whose worker leaves."""

    async def run() -> bytes:
        async with serving(http, taking(asyncio.Event().wait)) as place:  # type: ignore[arg-type]
            reader, writer = await place.connect(b"GET /door HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: len(place.router.entering) == 1)
            await place.router.stop()
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after waiting"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_door_that_fails_is_500(
    http: str, method: str, late: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one line for the operator, and no query in it."""

    async def fail_later() -> None:
        await a_turn()
        raise RuntimeError("mine")

    def door(entrance: Entrance, request: Request) -> Awaitable[None] | None:
        if late:
            return fail_later()
        raise RuntimeError("mine")

    async def run() -> bytes:
        async with serving(http, door) as place:
            return await place.ask(
                f"{method} /door?token=secret HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
            )

    monkeypatch.setattr(routing, "log", Limited(logging.getLogger("rt.web")))  # which has said nothing yet
    assert asyncio.run(run()).startswith(b"HTTP/1.1 500 ")
    assert "a door failed" in caplog.text and "secret" not in caplog.text


def test_the_next_request_of_a_connection_is_served_after_one_that_was_turned_away(http: str) -> None:
    """A door that answers late leaves the connection to HTTP."""

    async def turn_away(request: Request) -> None:
        await a_turn()
        request.reply(403)

    def door(entrance: Entrance, request: Request) -> Awaitable[None] | None:
        return turn_away(request)

    async def run() -> bytes:
        async with serving(http, door) as place:
            api = b"POST /api/info HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
            posted = b"POST /door HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            return await place.ask(posted + api)

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 403 ") and answer.endswith(b"api:{}")


def test_many_requests_ahead(http: str) -> None:
    """Each is answered, in their order, however many one connection sends at once."""
    api = b"POST /api/info HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n%04d"

    async def run() -> bytes:
        async with serving(http, taking()) as place:
            return await place.ask(b"".join(api % number for number in range(500)))

    answers = asyncio.run(run()).split(b"api:")[1:]
    assert [answer[:4] for answer in answers] == [b"%04d" % number for number in range(500)]


def test_nothing_is_served_behind_an_answer_that_ends_the_connection(http: str) -> None:
    """A client that goes on there is not heard: it may be one that does not know where its request ended."""

    async def run() -> tuple[bytes, list[bytes]]:
        async with serving(http, taking()) as place:
            large = b"POST /door HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (LIMIT + 1)
            api = b"POST /api/info HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
            got = await place.ask(large + b"x" * (LIMIT + 1) + api)
            return got, place.api.bodies

    got, bodies = asyncio.run(run())
    assert got.startswith(b"HTTP/1.1 413 ") and got.count(b"HTTP/1.1") == 1
    assert bodies == []


@pytest.mark.parametrize(("method", "closes"), [("GET", True), ("POST", False)])
def test_an_answer_says_whether_the_connection_ends(http: str, method: str, closes: bool) -> None:
    """One that is given before the request was read ends it; a client must not send the next one there."""

    def door(entrance: Entrance, request: Request) -> None:
        request.reply(403)

    async def run() -> bytes:
        async with serving(http, door) as place:
            return await place.ask(f"{method} /door HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())

    assert (b"Connection: close\r\n" in asyncio.run(run())) is closes
