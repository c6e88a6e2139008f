"""Requests that no good client sends, to every door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.clients import Http, PlainSocket, SdkClient
from tests.eventsource import EventSource
from tests.raw import TEXT, RawSocket, frame, upgrade
from tests.servers import API_KEY, ORIGIN, OVER_BOTH, Server

pytestmark = OVER_BOTH

SDK = "/connection/websocket"
HEAD = b"Host: localhost\r\n"
CONNECT = frame(TEXT, b'{"id":1,"connect":{}}')

HANDSHAKES: list[tuple[str, bytes, int]] = [
    ("no key", upgrade(SDK, Sec_WebSocket_Key=None), 400),
    ("a short key", upgrade(SDK, Sec_WebSocket_Key="abc"), 400),
    ("no version", upgrade(SDK, Sec_WebSocket_Version=None), 426),
    ("version 8", upgrade(SDK, Sec_WebSocket_Version="8"), 426),
    ("version 99", upgrade(SDK, Sec_WebSocket_Version="99"), 426),
    ("no host", upgrade(SDK, Host=None), 400),
    ("no upgrade", upgrade(SDK, Upgrade=None), 426),
    ("upgrade to something else", upgrade(SDK, Upgrade="h2c"), 426),
    ("no connection header", upgrade(SDK, Connection="keep-alive"), 426),
    ("HTTP/1.0", upgrade(SDK).replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
    ("POST", upgrade(SDK).replace(b"GET", b"POST"), 405),
    ("a foreign origin", upgrade(SDK, Origin="https://evil.example.com"), 403),
    ("an origin that only begins right", upgrade(SDK, Origin=f"{ORIGIN}.evil.example"), 403),
    ("origin null", upgrade(SDK, Origin="null"), 403),
    (
        "a foreign origin that claims to be this one",
        upgrade(SDK, Origin="https://e.example", Sec_Fetch_Site="same-origin"),
        403,
    ),
    ("protobuf", upgrade(f"{SDK}?format=protobuf"), 101),
    ("a foreign origin at ws", upgrade("/ws?channel=x", Origin="https://evil.example.com"), 403),
    ("ws without a channel", upgrade("/ws"), 400),
    ("ws with 17 channels", upgrade("/ws?" + "&".join(f"channel=c{number}" for number in range(17))), 400),
    ("ws with a bad channel", upgrade("/ws?channel=a%7Bb"), 400),
    ("ws with bad escapes", upgrade("/ws?channel=%ff%fe"), 400),
    ("ws with an unknown namespace", upgrade("/ws?channel=nowhere:x"), 404),
    ("ws with a closed channel", upgrade("/ws?channel=closed:x"), 403),
]

REQUESTS: list[tuple[str, bytes, int]] = [
    ("an unknown path", b"GET /nowhere HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    ("a path upwards", b"GET /../../etc/passwd HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    ("the internal port's pages", b"GET /metrics HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    ("GET on the API", b"GET /api/publish HTTP/1.1\r\n" + HEAD + b"\r\n", 405),
    ("the API without a key", b"POST /api/publish HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}", 401),
    ("POST on sse", b"POST /sse?channel=x HTTP/1.1\r\n" + HEAD + b"Content-Length: 0\r\n\r\n", 405),
    ("sse without a channel", b"GET /sse HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    ("sse with a bad channel", b"GET /sse?channel=a%0ab HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    ("sse with a closed channel", b"GET /sse?channel=closed:x HTTP/1.1\r\n" + HEAD + b"\r\n", 403),
    (
        "sse from a foreign origin",
        b"GET /sse?channel=x HTTP/1.1\r\nOrigin: https://e.example\r\n" + HEAD + b"\r\n",
        403,
    ),
    ("no request line", b"\x00\x01\x02\r\n\r\n", 400),
    ("half a request line", b"GET\r\n\r\n", 400),
    ("a header without a colon", b"GET / HTTP/1.1\r\n" + HEAD + b"nonsense\r\n\r\n", 400),
    ("two lengths", b"POST /api/info HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    (
        "length and chunks",
        b"POST /api/info HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    ("a negative length", b"POST /api/info HTTP/1.1\r\n" + HEAD + b"Content-Length: -2\r\n\r\n", 400),
    ("headers of 20 KiB", b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431),
    ("two thousand headers", b"GET / HTTP/1.1\r\n" + HEAD + b"X: y\r\n" * 2000 + b"\r\n", 404),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("TLS to a plain port", bytes.fromhex("16030100a5010000a10303") + b"x" * 160 + b"\r\n\r\n", 400),
]


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in HANDSHAKES], ids=[row[0] for row in HANDSHAKES])
def test_bad_handshakes(server: Server, sent: bytes, status: int) -> None:
    """Every handshake against RFC 6455 or our rules is refused with its status."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(sent)
            response = await raw.head()
            assert response.status == status
            if response.status == 426:
                assert response.headers["sec-websocket-version"] == "13"

    asyncio.run(run())


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_bad_requests(server: Server, sent: bytes, status: int) -> None:
    """Every request that is wrong is answered with its status."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(sent)
            assert (await raw.response()).status == status

    asyncio.run(run())


@pytest.mark.parametrize("door", ["sdk", "ws", "sse"])
def test_an_allowed_origin(server: Server, channel: str, door: str) -> None:
    """A page of the allow-list comes in through every door; an event stream also tells the browser so."""

    async def run() -> None:
        if door == "sdk":
            async with SdkClient(server, origin=ORIGIN) as client:
                await client.subscribe(channel)
        elif door == "ws":
            async with PlainSocket(server, [channel], origin=ORIGIN):
                pass
        else:
            async with EventSource(server, [channel], headers={"Origin": ORIGIN}) as stream:
                assert stream.response is not None
                assert stream.response.headers["access-control-allow-origin"] == ORIGIN
                assert "origin" in stream.response.headers["vary"].lower()

    asyncio.run(run())


def test_headers_of_an_event_stream(server: Server, channel: str) -> None:
    """Nothing on the way may buffer or keep the stream, and the browser is told when to come back."""

    async def run() -> None:
        async with EventSource(server, [channel]) as stream:
            assert stream.response is not None
            headers = stream.response.headers
            assert headers["content-type"].startswith("text/event-stream")
            assert "no-store" in headers["cache-control"]
            assert headers["x-accel-buffering"] == "no"
            assert "transfer-encoding" not in headers
            assert stream.parser.retry is not None

    asyncio.run(run())


def test_frames_right_behind_the_handshake(server: Server) -> None:
    """What a client sends without waiting for the answer to its handshake is not lost."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(upgrade(SDK) + CONNECT)
            assert (await raw.head()).status == 101
            assert json.loads((await raw.frame()).payload)["id"] == 1

    asyncio.run(run())


def test_extensions_and_subprotocols_are_declined_in_silence(server: Server) -> None:
    """What we do not speak is not granted."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(upgrade(SDK, Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=99"))
            response = await raw.head()
            assert response.status == 101
            assert "sec-websocket-extensions" not in response.headers
            assert "sec-websocket-protocol" not in response.headers
        async with RawSocket(server) as raw:
            await raw.send(upgrade(SDK, Sec_WebSocket_Protocol="other, centrifuge-json"))
            response = await raw.head()
            assert response.headers["sec-websocket-protocol"] == "centrifuge-json"

    asyncio.run(run())


def test_a_protobuf_client_is_refused_for_good(server: Server) -> None:
    """It gets no subprotocol it could take for a yes: a status of 400, or a close after which it does not come back."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(upgrade(SDK, Sec_WebSocket_Protocol="centrifuge-protobuf"))
            response = await raw.head()
            assert "sec-websocket-protocol" not in response.headers
            if response.status == 101:
                assert (await raw.shut()).code in (3501, 3506)
            else:
                assert response.status == 400

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"", 400), (b"\xff", 400), (b'{"channel":' + b"[" * 5000, 400)]
)
def test_bad_bodies(server: Server, body: bytes, status: int) -> None:
    """A body that is no JSON object is a bad request."""

    async def run() -> None:
        async with Http(server) as http:
            response = await http.request("POST", "/api/publish", body, {"X-API-Key": API_KEY})
            assert response.status == status

    asyncio.run(run())


def test_a_head_beyond_all_measure(server: Server) -> None:
    """It is not even read to its end."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.send(b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"x" * 200_000)
            assert await raw.hung_up()

    asyncio.run(run())


def test_a_body_that_is_too_large(server: Server) -> None:
    """It is refused with 413 before it is read."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            head = f"X-API-Key: {API_KEY}\r\nContent-Length: {100 << 20}\r\n\r\n"
            await raw.send(b"POST /api/publish HTTP/1.1\r\n" + HEAD + head.encode())
            assert (await raw.response()).status == 413

    asyncio.run(run())


def test_a_head_that_takes_too_long(start_server: Callable[..., Server]) -> None:
    """A request whose head comes byte by byte is cut at the header timeout; whoever is inside already is not."""

    async def run() -> None:
        server = start_server({"server": {"header_timeout": "500ms"}})
        async with SdkClient(server) as inside, RawSocket(server) as raw, RawSocket(server) as mute:
            await raw.send(b"GET /sse?channel=x HTTP/1.1\r\nHost: loc")
            assert await raw.hung_up()
            assert await mute.hung_up()
            assert not inside.gone
            await inside.subscribe("x")

    asyncio.run(run())


def test_a_connection_that_never_says_who_it_is(start_server: Callable[..., Server]) -> None:
    """A WebSocket without a connect command is closed as stale (3502)."""

    async def run() -> None:
        server = start_server({"client": {"stale_close_delay": "300ms"}})
        async with RawSocket(server) as raw:
            await raw.handshake()
            assert (await raw.shut()).code == 3502

    asyncio.run(run())


def test_more_connections_than_allowed(start_server: Callable[..., Server]) -> None:
    """Beyond the limit a connection is refused before it costs anything, and one that leaves makes room."""

    async def run() -> None:
        server = start_server({"server": {"workers": 1}, "limits": {"connections": {"total": 2}}})
        async with SdkClient(server), SdkClient(server) as second:
            for path in (SDK, "/ws?channel=x"):
                async with RawSocket(server) as raw:
                    await raw.send(upgrade(path))
                    response = await raw.head()
                    assert response.status == 503
                    assert "retry-after" in response.headers
            async with EventSource(server, ["x"]) as turned_away:
                assert (turned_away.connected, turned_away.gone) == ({}, True)
                assert turned_away.parser.retry is not None
            await second.close()
            async with SdkClient(server):
                pass

    asyncio.run(run())


def test_secrets_are_in_no_log(start_server: Callable[..., Server]) -> None:
    """Neither tokens, nor keys, nor query strings, nor payloads are logged, whatever goes wrong with their request."""

    async def run() -> None:
        server = start_server()
        secret = "a-secret-that-nobody-may-log"
        requests = [
            f"GET /sse?channel=x&token={secret} HTTP/1.1",
            f"GET /ws?token={secret} HTTP/1.1",
            f"GET /nowhere?{secret} HTTP/1.1",
            f"POST /api/publish?api_key={secret} HTTP/1.1",
            f"GET /{'x' * 10}%0a{secret} HTTP/1.1 {secret}",
        ]
        for line in requests:
            async with RawSocket(server) as raw:
                head = f"Authorization: Bearer {secret}\r\nX-API-Key: {secret}\r\nContent-Length: 0\r\n\r\n"
                await raw.send(f"{line}\r\n".encode() + HEAD + head.encode())
                await raw.response()
        async with RawSocket(server) as raw:
            await raw.handshake()
            await raw.send(frame(TEXT, json.dumps({"id": 1, "connect": {"token": secret, "data": secret}}).encode()))
            await raw.shut()
        assert secret not in server.log()

    asyncio.run(run())
