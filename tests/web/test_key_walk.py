"""From a token of a key that nobody here knows to a user: judge, fetch, judge again. On the loop that workers run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop

from rt import errors
from rt.errors import Close, Error
from rt.protocol import tokens
from rt.protocol.keys import KeySet
from rt.protocol.tokens import KeysWanted, Verifier
from rt.web.keys import INTERVAL, Keys
from tests.jwks import Endpoint, Signer, body, signer
from tests.tokens import Settings

NOW = 1_700_000_000.0
OLD, NEW, ATTACKER = signer("ES256", "old"), signer("EdDSA", "new"), signer("ES256", "attacker")


class Policy:
    """Nobody comes in without a token."""

    insecure = allow_anonymous_connect_without_token = disallow_anonymous_connection_tokens = False


class Worker:
    """What a worker does with a connection token. ``passed`` moves its clock."""

    def __init__(self, url: str) -> None:
        self.passed = 0.0
        key_set = KeySet()
        self.keys = Keys(url, key_set, clock=lambda: self.passed)
        self.verifier = Verifier(Settings(jwks_public_endpoint=url), key_set)

    async def answer(self, signer: Signer, **header: str) -> str | Error | Close:
        """The user, or what is answered."""
        token = signer.sign({"sub": "42"}, **header)
        try:
            try:
                return tokens.identify(token, self.verifier, Policy(), NOW).user
            except KeysWanted:
                await self.keys.fetch()
                return tokens.identify(token, self.verifier, Policy(), NOW, fetched=True).user
        except errors.Refused as refused:
            return refused.error
        except errors.Closing as closing:
            return closing.close


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that publishes the old key."""
    with Endpoint(OLD) as running:
        yield running


def walk(test: Callable[[Worker], Awaitable[None]], url: str) -> None:
    """Run a test with a worker that trusts this endpoint."""

    async def run() -> None:
        worker = Worker(url)
        try:
            await test(worker)
        finally:
            worker.keys.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_the_first_tokens(endpoint: Endpoint) -> None:
    """A crowd that comes at once costs one fetch, and the forged ones among it are refused for good."""

    async def test(worker: Worker) -> None:
        crowd = [OLD, ATTACKER] * 50
        answers = await asyncio.gather(*(worker.answer(each) for each in crowd))
        assert answers == ["42", errors.INVALID_TOKEN] * 50

    walk(test, endpoint.url)
    assert len(endpoint.paths) == 1


def test_a_flood_of_unknown_names(endpoint: Endpoint) -> None:
    """A thousand tokens with a thousand names of keys: one fetch, and who is known waits for none."""

    async def test(worker: Worker) -> None:
        for i in range(1000):
            assert await worker.answer(ATTACKER, kid=f"k{i}") == errors.INVALID_TOKEN
        assert len(endpoint.paths) == 1
        worker.passed = INTERVAL
        assert await worker.answer(OLD) == "42"
        assert len(endpoint.paths) == 1

    walk(test, endpoint.url)


def test_keys_are_rotated(endpoint: Endpoint) -> None:
    """The first token of a new key brings it; the old key goes with that."""

    async def test(worker: Worker) -> None:
        assert await worker.answer(OLD) == "42"
        endpoint.publish(NEW)
        worker.passed = INTERVAL
        assert await worker.answer(OLD) == "42"
        assert await worker.answer(NEW) == "42"
        assert await worker.answer(OLD) == errors.INVALID_TOKEN

    walk(test, endpoint.url)
    assert len(endpoint.paths) == 2


def test_an_endpoint_that_is_down_from_the_start(endpoint: Endpoint) -> None:
    """Nobody is sent away for good with what may be a good token: they are told to come again, and then let in."""
    good, endpoint.answer = endpoint.answer, body(b"<html>", status=502, kind="text/html")

    async def test(worker: Worker) -> None:
        assert await worker.answer(OLD) == await worker.answer(ATTACKER) == errors.INTERNAL
        assert errors.INTERNAL.temporary
        endpoint.answer = good
        worker.passed = INTERVAL
        assert await worker.answer(OLD) == "42"
        assert await worker.answer(ATTACKER) == errors.INVALID_TOKEN

    walk(test, endpoint.url)


def test_an_endpoint_that_goes_down(endpoint: Endpoint) -> None:
    """Known keys go on as before; what is unknown cannot be decided now."""

    async def test(worker: Worker) -> None:
        assert await worker.answer(OLD) == "42"
        endpoint.answer = body(b"", status=503)
        worker.passed = INTERVAL
        assert await worker.answer(NEW) == errors.INTERNAL
        assert await worker.answer(OLD) == "42"
        assert await worker.answer(ATTACKER, kid="old") == errors.INVALID_TOKEN

    walk(test, endpoint.url)
