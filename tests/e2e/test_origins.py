"""Which pages may come in: the same list at every door, whatever else a request says."""

from __future__ import annotations

import asyncio

import pytest

from tests.clients import Http, Response
from tests.raw import RawSocket, upgrade
from tests.servers import ORIGIN, OVER_BOTH, Server
from tests.tokens import connection_token

pytestmark = OVER_BOTH

SOCKETS = {
    "sdk": "/connection/websocket",
    "ws": "/ws?channel=x",
    "uni_websocket": "/connection/uni_websocket",
}
STREAMS = {
    "sse": "/sse?channel=x",
    "uni_sse": "/connection/uni_sse?cf_connect=%7B%22subs%22%3A%7B%22x%22%3A%7B%7D%7D%7D",
}

FOREIGN = [
    "https://evil.example.com",
    "null",
    f"{ORIGIN}.evil.example",
    "https://evil-app.example.com",
    "https://xapp.example.com",
    "http://app.example.com",
    f"{ORIGIN}:8443",
    f"{ORIGIN}@evil.example",
    "https://app.example.com%2eevil.example",
    "file://",
    "",
]
WELCOME = [ORIGIN, "HTTPS://APP.EXAMPLE.COM", f"{ORIGIN}:443"]
CLAIMS = [{}, {"Sec-Fetch-Site": "same-origin"}, {"Cookie": "session=stolen"}, {"Host": "app.example.com"}]


async def status(server: Server, door: str, headers: dict[str, str]) -> Response:
    """What a request with these headers is answered at ``door``."""
    async with RawSocket(server) as raw:
        if door in SOCKETS:
            changes = {name.replace("-", "_"): value for name, value in headers.items()}
            await raw.send(upgrade(SOCKETS[door], **changes))
        else:
            lines = [f"{name}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
            await raw.send("\r\n".join([f"GET {STREAMS[door]} HTTP/1.1", *lines, "", ""]).encode("latin-1"))
        return await raw.head()


@pytest.mark.parametrize("door", [*SOCKETS, *STREAMS])
def test_foreign_pages(whole: Server, door: str) -> None:
    """None of them comes in, whatever the request says beside, and none may read the answer."""

    async def run() -> None:
        for origin in FOREIGN:
            for claims in CLAIMS:
                response = await status(whole, door, {"Origin": origin, **claims})
                assert response.status in (403, 400), (origin, claims)
                assert "access-control-allow-origin" not in response.headers

    asyncio.run(run())


@pytest.mark.parametrize("door", [*SOCKETS, *STREAMS])
def test_pages_of_the_list(whole: Server, door: str) -> None:
    """Those of the list come in, however their address is written; so does who has no page at all."""

    async def run() -> None:
        good = 101 if door in SOCKETS else 200
        for origin in WELCOME:
            response = await status(whole, door, {"Origin": origin})
            assert response.status == good, origin
            if door in STREAMS:
                assert response.headers["access-control-allow-origin"] == origin
        assert (await status(whole, door, {})).status == good

    asyncio.run(run())


def test_asking_before(whole: Server) -> None:
    """A browser that asks first is told what it may send, if its page is on the list."""

    async def run() -> None:
        for path in ("/sse", "/connection/uni_sse"):
            headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
            headers |= {"Access-Control-Request-Headers": "content-type,last-event-id"}
            async with Http(whole) as http:
                response = await http.request("OPTIONS", path, headers=headers)
                assert response.status == 204
                assert response.headers["access-control-allow-origin"] == ORIGIN
            async with Http(whole) as http:
                response = await http.request("OPTIONS", path, headers={**headers, "Origin": FOREIGN[0]})
                assert "access-control-allow-origin" not in response.headers

    asyncio.run(run())


def test_a_posted_connect_request(whole: Server) -> None:
    """A page that is not on the list cannot post a connect request either, even with a stolen token."""

    async def run() -> None:
        body = f'{{"token":"{connection_token("42")}"}}'.encode()
        async with Http(whole) as http:
            headers = {"Origin": "https://evil.example.com", "Content-Type": "application/json"}
            response = await http.request("POST", "/connection/uni_sse", body, headers)
            assert response.status == 403

    asyncio.run(run())
