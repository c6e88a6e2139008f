"""Fetching keys: once for everybody, bounded whatever the endpoint does, and never without the keys that are known."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rt.logs import Limited
from rt.protocol.keys import SET_SIZE_MAX, KeySet
from rt.web import keys as module
from rt.web.keys import INTERVAL, MAX_AGE, Keys
from tests.certificates import write_certificate
from tests.jwks import Endpoint, body, drip, flood, jwks, signer
from tests.waiting import eventually

OLD, NEW = signer("ES256", "old"), signer("ES256", "new")
MIB = 1024 * 1024


class Clock:
    """A time that stands still until the test says otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test sees its own lines."""
    monkeypatch.setattr(module, "limited", Limited(module.log))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that publishes one key."""
    with Endpoint(OLD) as running:
        yield running


def running(test: Callable[[Keys, Clock], Awaitable[None]], url: str, timeout: float = 5.0) -> None:
    """Run a test with what fetches from ``url``."""

    async def run() -> None:
        clock = Clock()
        keys = Keys(url, KeySet(), timeout=timeout, clock=clock)
        try:
            await test(keys, clock)
        finally:
            keys.close()

    asyncio.run(run())


def test_keys_are_fetched(endpoint: Endpoint) -> None:
    """What the endpoint publishes is known after one request to its address."""

    async def test(keys: Keys, clock: Clock) -> None:
        assert not keys.key_set.reached
        await keys.fetch()
        assert keys.key_set.reached and keys.key_set.knows("old")

    running(test, endpoint.url)
    assert endpoint.paths == ["/keys.json"]


def test_all_who_wait_share_one_fetch(endpoint: Endpoint) -> None:
    """A hundred connections that want the same keys cost one request, and one that gives up disturbs nobody."""
    asked, go = threading.Event(), threading.Event()
    serve = endpoint.answer

    def slow(handler: Any) -> None:
        asked.set()
        go.wait(5)
        serve(handler)

    endpoint.answer = slow

    async def test(keys: Keys, clock: Clock) -> None:
        waiting = [asyncio.create_task(keys.fetch()) for _ in range(100)]
        await eventually(asked.is_set)
        waiting.pop(0).cancel()
        assert not any(task.done() for task in waiting)
        go.set()
        await asyncio.gather(*waiting)
        assert keys.key_set.knows("old")

    running(test, endpoint.url)
    assert len(endpoint.paths) == 1


def test_a_flood_of_unknown_keys_is_one_fetch_per_interval(endpoint: Endpoint) -> None:
    """Those in between return at once, whether the fetch went well or not."""

    async def test(keys: Keys, clock: Clock) -> None:
        for _ in range(1000):
            await keys.fetch()
        clock.now += INTERVAL - 0.1
        await keys.fetch()
        assert len(endpoint.paths) == 1
        clock.now += 0.1
        endpoint.answer = body(b"", status=500)
        for _ in range(1000):
            await keys.fetch()
        assert len(endpoint.paths) == 2

    running(test, endpoint.url)


def test_new_keys_replace_the_old(endpoint: Endpoint) -> None:
    """The set is what the endpoint published last."""

    async def test(keys: Keys, clock: Clock) -> None:
        await keys.fetch()
        endpoint.publish(NEW)
        clock.now += INTERVAL
        await keys.fetch()
        assert keys.key_set.knows("new") and not keys.key_set.knows("old")

    running(test, endpoint.url)


def bad_answers() -> dict[str, Any]:
    """What an endpoint may say that is no key set."""
    elsewhere = {"Location": "http://169.254.169.254/latest/meta-data/"}
    return {
        "HTML": body(b"<!doctype html><title>Sign in</title>", kind="text/html"),
        "HTML as JSON": body(b"<html></html>"),
        "nothing": body(b""),
        "an empty set": body(b'{"keys":[]}'),
        "cut JSON": body(jwks(NEW)[:-2]),
        "gzip": body(b"\x1f\x8b\x08\x00\x00", Content_Encoding="gzip"),
        "500": body(jwks(NEW), status=500),
        "404": body(jwks(NEW), status=404),
        "401": body(jwks(NEW), status=401, WWW_Authenticate="Basic"),
        "201": body(jwks(NEW), status=201),
        "204": body(b"", status=204),
        "301": body(jwks(NEW), status=301, **elsewhere),
        "302": body(jwks(NEW), status=302, **elsewhere),
        "307": body(jwks(NEW), status=307, **elsewhere),
        "308": body(jwks(NEW), status=308, **elsewhere),
        "10 MiB that say so": body(b" " * (10 * MIB)),
        "a length of 10 MiB and a close": body(jwks(NEW), Content_Length=str(10 * MIB)),
        "a length that is none": body(jwks(NEW), Content_Length="x"),
        "more than it said": body(jwks(NEW), Content_Length="5"),
        "10 MiB in chunks": flood(10 * MIB, chunked=True),
        "10 MiB until the close": flood(10 * MIB),
        "a header of 1 MiB": body(jwks(NEW), X_Long="x" * MIB),
        "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        "a close": lambda handler: None,
    }


@pytest.mark.parametrize("name", bad_answers())
def test_a_bad_answer_leaves_the_keys(endpoint: Endpoint, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes instead of a key set, the old keys stay, one line says so, and the next fetch heals it."""
    caplog.set_level(logging.INFO, "rt")

    async def test(keys: Keys, clock: Clock) -> None:
        await keys.fetch()
        caplog.clear()
        good, endpoint.answer = endpoint.answer, bad_answers()[name]
        clock.now += INTERVAL
        await keys.fetch()
        assert keys.key_set.knows("old") and not keys.key_set.knows("new")
        assert not keys.key_set.reached
        (line,) = [record for record in caplog.records if record.name == "rt.web"]
        assert line.getMessage() == "the keys of tokens cannot be fetched"
        assert "169" not in str(line.__dict__["fields"])
        endpoint.answer = good
        clock.now += INTERVAL
        await keys.fetch()
        assert keys.key_set.reached

    running(test, endpoint.url)
    assert endpoint.paths == ["/keys.json"] * 3


def test_a_redirect_reaches_nobody(endpoint: Endpoint) -> None:
    """Not even an address that would answer."""
    with Endpoint(NEW) as other:
        endpoint.answer = body(b"", status=302, Location=other.url)

        async def test(keys: Keys, clock: Clock) -> None:
            await keys.fetch()
            assert len(keys.key_set) == 0 and not keys.key_set.reached

        running(test, endpoint.url)
        assert not other.paths


@pytest.mark.parametrize("slowness", ["no answer", "no end of the headers", "no end of the body"])
def test_a_slow_endpoint_is_given_up(endpoint: Endpoint, slowness: str) -> None:
    """The time counts for the whole answer, however steadily bytes come."""

    def stubborn(handler: Any) -> None:
        if slowness == "no end of the headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        endpoint.ended.wait(10)

    endpoint.answer = drip(endpoint.ended) if slowness == "no end of the body" else stubborn

    async def test(keys: Keys, clock: Clock) -> None:
        begin = time.monotonic()
        await asyncio.gather(*(keys.fetch() for _ in range(20)))
        assert 0.2 <= time.monotonic() - begin < 3
        assert not keys.key_set.reached

    running(test, endpoint.url, timeout=0.25)
    assert len(endpoint.paths) == 1


def test_an_endpoint_that_is_down() -> None:
    """Nobody listens: no keys, and no exception."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))

        async def test(keys: Keys, clock: Clock) -> None:
            await keys.fetch()
            assert len(keys.key_set) == 0 and not keys.key_set.reached

        running(test, f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_a_name_that_is_unknown() -> None:
    """A host that does not exist is no exception either."""

    async def test(keys: Keys, clock: Clock) -> None:
        await keys.fetch()
        assert not keys.key_set.reached

    running(test, "http://keys.invalid/")


def test_an_endpoint_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    """Over TLS the other side must prove its name: a certificate that nobody vouches for brings no keys."""
    with Endpoint(OLD) as endpoint:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_certificate(tmp_path))
        endpoint.wrap(context)

        async def test(keys: Keys, clock: Clock) -> None:
            await keys.fetch()
            assert len(keys.key_set) == 0 and not keys.key_set.reached

        running(test, endpoint.url)
        assert not endpoint.paths


def test_a_flapping_endpoint(endpoint: Endpoint) -> None:
    """Good and bad in turns: after the first good answer the keys never go."""
    good, bad = endpoint.answer, body(b"", status=503)

    async def test(keys: Keys, clock: Clock) -> None:
        for turn in range(10):
            endpoint.answer = bad if turn % 2 else good
            await keys.fetch()
            assert keys.key_set.reached == (turn % 2 == 0)
            assert keys.key_set.knows("old")
            clock.now += INTERVAL

    running(test, endpoint.url)


def test_keys_in_use_are_refreshed_when_they_are_old(endpoint: Endpoint) -> None:
    """Not before an hour, not when nobody uses them, and nobody waits for it."""

    async def test(keys: Keys, clock: Clock) -> None:
        keys.key_set.find("old", "ES256")
        assert not endpoint.paths
        await keys.fetch()
        endpoint.publish(NEW)
        clock.now += MAX_AGE
        assert keys.key_set.find("old", "ES256") and len(endpoint.paths) == 1
        clock.now += 1
        for _ in range(10):
            assert keys.key_set.find("old", "ES256")
        await eventually(lambda: keys.key_set.knows("new"))
        assert not keys.key_set.find("old", "ES256")
        assert len(endpoint.paths) == 2

    running(test, endpoint.url)


def test_old_keys_stay_while_the_endpoint_is_down(endpoint: Endpoint) -> None:
    """However long that is; it is asked again, every interval, while they are used."""

    async def test(keys: Keys, clock: Clock) -> None:
        await keys.fetch()
        endpoint.answer = body(b"", status=503)
        for day in range(3):
            clock.now += 86400
            assert keys.key_set.find("old", "ES256")
            await keys.fetch()
            assert len(endpoint.paths) == day + 2
        assert keys.key_set.find("old", "ES256")

    running(test, endpoint.url)


def test_one_line_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint that stays away fills no log, and nothing of the address but the host is told."""
    caplog.set_level(logging.INFO, "rt.web")

    async def test(keys: Keys, clock: Clock) -> None:
        for _ in range(5):
            await keys.fetch()
            clock.now += INTERVAL

    running(test, "http://user:secret@127.0.0.1:1/path?key=secret")
    (line,) = caplog.records
    assert "secret" not in str(line.__dict__) and line.__dict__["fields"]["host"] == "127.0.0.1"


def test_the_return_is_told_once(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    """When the keys are here, at first and after a failure, one line says so; further fetches are silent."""
    caplog.set_level(logging.INFO, "rt.web")

    async def test(keys: Keys, clock: Clock) -> None:
        for _ in range(3):
            await keys.fetch()
            clock.now += INTERVAL

    running(test, endpoint.url)
    assert [record.getMessage() for record in caplog.records] == ["the keys of tokens are here"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_after_the_close_nothing_is_fetched(endpoint: Endpoint, when: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits goes on at once, the keys stay, and nothing is left that could complain."""
    asked = threading.Event()

    def silent(handler: Any) -> None:
        asked.set()
        endpoint.ended.wait(10)

    endpoint.answer = silent

    async def test(keys: Keys, clock: Clock) -> None:
        keys.key_set.take(jwks(OLD))
        if when == "before":
            keys.close()
        waiting = asyncio.create_task(keys.fetch())
        if when == "meanwhile":
            await eventually(asked.is_set)
            keys.close()
        async with asyncio.timeout(2):
            await waiting
        clock.now += MAX_AGE * 2
        assert keys.key_set.find("old", "ES256")
        await keys.fetch()
        keys.close()

    running(test, endpoint.url)
    assert len(endpoint.paths) == (when == "meanwhile")
    assert not caplog.records


def test_the_largest_answer_that_is_taken(endpoint: Endpoint) -> None:
    """One MiB is read, in each way that an answer can end; a byte more is not."""
    text = jwks(OLD).ljust(SET_SIZE_MAX)

    def until_close(data: bytes) -> Any:
        def answer(handler: Any) -> None:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(data)

        return answer

    async def test(keys: Keys, clock: Clock) -> None:
        for answer, good in (
            (body(text), True),
            (body(text + b" "), False),
            (until_close(text), True),
            (until_close(text + b" "), False),
        ):
            endpoint.answer = answer
            await keys.fetch()
            assert keys.key_set.reached == good
            clock.now += INTERVAL

    running(test, endpoint.url)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/keys", "http://127.0.0.1:99999/keys", ""])
def test_an_address_that_cannot_be_asked(url: str) -> None:
    """What no rule of the config let through is a failure like any other."""

    async def test(keys: Keys, clock: Clock) -> None:
        await keys.fetch()
        assert not keys.key_set.reached

    running(test, url)
