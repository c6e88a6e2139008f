"""The demo page's own doors: its files, the kill switch, and the ticking price."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

from rt.errors import StoreError
from rt.web import demo

Fetch = Callable[..., Awaitable[HTTPResponse]]


class Workers:
    """A registry that answers with ``nodes``, or fails."""

    def __init__(self, *nodes: bytes, down: bool = False) -> None:
        self.nodes = list(nodes)
        self.down = down

    async def workers(self) -> list[bytes]:
        if self.down:
            raise StoreError("gone", definite=True)
        return self.nodes


def node(name: str, pid: int) -> bytes:
    """A registry entry, with fields that the demo does not know."""
    return json.dumps({"uid": "u", "name": name, "pid": pid, "version": "1"}).encode()


@contextmanager
def serving(registry: Workers) -> Iterator[Fetch]:
    """Serve the demo on a free port; yields a coroutine function that asks it something."""
    sock, port = bind_unused_port()
    server = HTTPServer(Application(demo.handlers(registry)))
    server.add_sockets([sock])

    async def fetch(path: str, origin: str | None = "same", **options: Any) -> HTTPResponse:
        base = f"http://127.0.0.1:{port}"
        headers = {} if origin is None else {"Origin": base if origin == "same" else origin}
        return await AsyncHTTPClient().fetch(HTTPRequest(base + path, headers=headers, **options), raise_error=False)

    try:
        yield fetch
    finally:
        server.stop()


def ask(registry: Workers, path: str, **options: Any) -> HTTPResponse:
    """One request to a demo of its own."""

    async def run() -> HTTPResponse:
        with serving(registry) as fetch:
            return await fetch(path, **options)

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/", "/demo/demo.js", "/demo/demo.css", "/demo/icon.svg"])
def test_files_carry_the_security_headers(path: str) -> None:
    """The page and what it loads come with a policy that allows nothing foreign and nothing inline."""
    response = ask(Workers(), path)
    assert response.code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/demo/nothing.js", "/demo/..%2f..%2fdemo.py", "/demo/%2e%2e/%2e%2e/demo.py", "/demo//etc/passwd"]
)
def test_nothing_outside_the_folder_is_served(path: str) -> None:
    """Neither a missing file nor a way out of the folder gives anything but an error with the same headers."""
    response = ask(Workers(), path)
    assert response.code in (403, 404)
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_page_has_nothing_inline_or_foreign() -> None:
    """The markup keeps to its own policy, and the scripts never build markup from text."""
    page = (demo.STATIC / "index.html").read_text()
    assert "<style" not in page and " style=" not in page and " onclick" not in page
    assert page.count("<script") == page.count('<script type="module" src="demo/')
    for script in demo.STATIC.glob("*.js"):
        text = script.read_text()
        assert not [
            word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "https://") if word in text
        ]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that would have been sent."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def test_kill_ends_the_named_worker(killed: list[tuple[int, int]]) -> None:
    """The worker of that name gets SIGKILL; entries that are no worker are passed over."""
    registry = Workers(b"not json", b'{"name":"a"}', node("b", os.getppid()), node("a", os.getpid()))
    response = ask(registry, "/demo/kill", method="POST", body='{"node":"a"}')
    assert response.code == 202
    assert killed == [(os.getpid(), signal.SIGKILL)]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"body": '{"node":"a"}', "origin": "https://evil.example"}, 403),
        ({"body": '{"node":"a"}', "origin": "null"}, 403),
        ({"body": '{"node":"a"}', "origin": None}, 403),
        ({"body": "{"}, 400),
        ({"body": '{"node":7}'}, 400),
        ({"body": json.dumps({"node": "a" * 2000})}, 400),
        ({"body": '{"node":"init"}'}, 404),
        ({"body": '{"node":"unknown"}'}, 404),
    ],
)
def test_kill_refuses(options: dict[str, Any], status: int, killed: list[tuple[int, int]]) -> None:
    """A foreign page, a wrong body, an unknown name and a process that is no worker of ours are refused."""
    registry = Workers(node("a", os.getpid()), node("init", 1))
    assert ask(registry, "/demo/kill", method="POST", **options).code == status
    assert not killed


def test_kill_says_when_the_store_is_away(killed: list[tuple[int, int]]) -> None:
    """Without the registry nobody is killed, and the page is told why."""
    assert ask(Workers(down=True), "/demo/kill", method="POST", body='{"node":"a"}').code == 503
    assert not killed


def test_siblings_have_the_same_parent() -> None:
    """Only this process and its siblings count as workers of this server."""
    assert demo.is_sibling(os.getpid())
    assert not demo.is_sibling(os.getppid())
    assert not demo.is_sibling(2**22 + 1)


def test_ticker_publishes_prices_until_stopped() -> None:
    """Each tick is one JSON object with price and clock; stop() leaves no task behind."""
    ticks: list[tuple[str, bytes]] = []

    async def run() -> None:
        enough = asyncio.Event()

        async def publish(channel: str, data: bytes) -> None:
            ticks.append((channel, data))
            if len(ticks) == 1:
                raise StoreError("away", definite=True)
            if len(ticks) == 5:
                enough.set()

        ticker = demo.Ticker(publish, interval=0.001, seed=1)
        ticker.start()
        await asyncio.wait_for(enough.wait(), 5)
        await ticker.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert {channel for channel, _ in ticks} == {"prices:demo"}
    assert all(set(json.loads(data)) == {"symbol", "price", "t"} for _, data in ticks)


def test_price_stays_positive() -> None:
    """A long walk neither dies at zero nor runs away."""

    async def publish(channel: str, data: bytes) -> None:
        raise AssertionError("not started")

    ticker = demo.Ticker(publish, seed=7)
    prices = [json.loads(ticker.tick())["price"] for _ in range(20_000)]
    assert 10 < min(prices) < max(prices) < 1000
