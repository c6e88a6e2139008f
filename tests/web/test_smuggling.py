"""Requests that a proxy in front might read in another way than we do: both HTTP connections refuse them, close, and
never come to what stands behind them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.web import Application

from rt.web.request import Request
from rt.web.router import Router
from rt.web.tenants import Tenants
from tests.listening import KINDS, listening
from tests.waiting import PATIENCE

HOST = b"Host: a\r\n"
POST = b"POST /api/info HTTP/1.1\r\n" + HOST
BEHIND = b"POST /api/behind HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"

HEADS: dict[str, bytes] = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\n{}",
    "a length in other digits": POST + "Content-Length: ²\r\n\r\n{}".encode("latin-1"),
    "an empty length": POST + b"Content-Length: \r\n\r\n{}",
    "a length beyond all numbers": POST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks of something else": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks, then something else": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "almost chunks": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunks behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no coding": POST + b"Transfer-Encoding: \r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKS.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "a bare LF behind the request line": b"POST /api/info HTTP/1.1\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a bare LF behind a header": POST + b"X: y\nContent-Length: 2\r\n\r\n{}",
    "bare LFs only": b"POST /api/info HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "a bare LF as the last line": POST + b"Content-Length: 0\r\n\n",
    "a bare LF in front": b"\n" + POST + b"Content-Length: 0\r\n\r\n",
    "a bare CR in a value": POST + b"X: y\rContent-Length: 2\r\n\r\n{}",
    "a folded header": POST + b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "a folded length": POST + b"Content-Length:\r\n 2\r\n\r\n{}",
    "a folded first header": b"POST /api/info HTTP/1.1\r\n " + HOST + b"Content-Length: 0\r\n\r\n",
    "two hosts": POST + b"Host: b\r\nContent-Length: 0\r\n\r\n",
    "the same host twice": POST + HOST + b"Content-Length: 0\r\n\r\n",
    "no host": b"POST /api/info HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "a blank before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a tab before the colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "no colon": POST + b"nonsense\r\nContent-Length: 0\r\n\r\n",
    "no name": POST + b": y\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": POST + b"X: y\0\r\nContent-Length: 0\r\n\r\n",
    "NUL in a name": POST + b"X\0: y\r\nContent-Length: 0\r\n\r\n",
    "NUL in the target": b"POST /api/\0info HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a control character in a value": POST + b"X: \x01\r\nContent-Length: 0\r\n\r\n",
    "a bracket in a name": POST + b"Content-Length[]: 2\r\nContent-Length: 0\r\n\r\n",
    "bytes in the target": b"POST /api/info\xff HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a blank in the target": b"POST /api /info HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "two blanks in the line": b"POST  /api/info HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a tab in the line": b"POST\t/api/info HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a blank behind the line": b"POST /api/info HTTP/1.1 \r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a blank before the line": b" POST /api/info HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "HTTP/0.9": b"GET /api/info\r\n\r\n",
    "HTTP/2.0": b"POST /api/info HTTP/2.0\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "another protocol": b"POST /api/info RTSP/1.0\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "HTTP in small letters": b"POST /api/info http/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "empty lines without end": b"\r\n\r\n\r\n",
}

BODIES: dict[str, bytes] = {
    "an extension of a chunk": CHUNKS + b"2;a=b\r\n{}\r\n0\r\n\r\n",
    "an empty extension": CHUNKS + b"2;\r\n{}\r\n0\r\n\r\n",
    "an extension with a bare LF": CHUNKS + b"2;\n{}\r\n0\r\n\r\n",
    "a blank behind the size": CHUNKS + b"2 \r\n{}\r\n0\r\n\r\n",
    "a blank before the size": CHUNKS + b" 2\r\n{}\r\n0\r\n\r\n",
    "a signed size": CHUNKS + b"+2\r\n{}\r\n0\r\n\r\n",
    "a size with 0x": CHUNKS + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a size with an underscore": CHUNKS + b"0_2\r\n{}\r\n0\r\n\r\n",
    "no size": CHUNKS + b"\r\n{}\r\n0\r\n\r\n",
    "a bare LF behind the size": CHUNKS + b"2\n{}\r\n0\r\n\r\n",
    "a bare CR behind the size": CHUNKS + b"2\r{}\r\n0\r\n\r\n",
    "a bare LF behind the data": CHUNKS + b"2\r\n{}\n0\r\n\r\n",
    "a chunk that is too short": CHUNKS + b"5\r\n{}\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKS + b"2\r\n{}}\r\n0\r\n\r\n",
    "a trailer": CHUNKS + b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a bare LF at the end": CHUNKS + b"2\r\n{}\r\n0\r\n\n",
    "a size beyond all numbers": CHUNKS + b"fffffffffffffffff2\r\n{}\r\n0\r\n\r\n",
}


class Api:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []

    def door(self, request: Request) -> None:
        """Answer."""
        self.asked.append((request.path, request.body))
        request.reply(200, b"{}")


async def answer(kind: str, sent: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """All that comes back until the server closes, which it must, and what the API was called with."""
    api, tenants = Api(), Tenants(lambda: cast("Any", None))
    tenants.only = cast("Any", SimpleNamespace(api=api))
    router = Router(Application([]), {}, tenants, max_body=1000)
    async with listening(kind, router, timeout=PATIENCE / 2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        got = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
    return got, api.asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", HEADS.values(), ids=HEADS)
def test_a_head_that_can_be_read_in_two_ways(kind: str, sent: bytes) -> None:
    """It is answered 400, alone, and the connection is closed."""
    got, asked = asyncio.run(answer(kind, sent + BEHIND))
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1
    assert asked == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
def test_a_body_that_can_be_read_in_two_ways(kind: str, sent: bytes) -> None:
    """The same."""
    got, asked = asyncio.run(answer(kind, sent + BEHIND))
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1
    assert asked == []


@pytest.mark.parametrize("sent", [*HEADS.values(), *BODIES.values()], ids=[*HEADS, *BODIES])
def test_byte_by_byte(sent: bytes) -> None:
    """Our own connection refuses the same when it comes in pieces."""

    async def run() -> bytes:
        api, tenants = Api(), Tenants(lambda: cast("Any", None))
        tenants.only = cast("Any", SimpleNamespace(api=api))
        router = Router(Application([]), {}, tenants, max_body=1000)
        async with listening("fast", router) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in sent + BEHIND:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            got = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
        assert api.asked == []
        return got

    assert asyncio.run(run()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Content-Length: 2\r\n\r\n{}",
        POST + b"Content-Length:\t2 \r\n\r\n{}",
        CHUNKS + b"1\r\n{\r\n01\r\n}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}",
        b"\r\n" + POST + b"Content-Length: 2\r\n\r\n{}",
    ],
    ids=["length", "blanks around a value", "chunks", "a capital", "an upgrade to what we do not speak", "empty line"],
)
def test_what_everybody_reads_in_one_way(kind: str, sent: bytes) -> None:
    """It is served, and so is what stands behind it."""
    got, asked = asyncio.run(answer(kind, sent + BEHIND.replace(b"Host", b"Connection: close\r\nHost")))
    assert asked == [("/api/info", b"{}"), ("/api/behind", b"")]
    assert got.count(b"HTTP/1.1 200 ") == 2
