"""rt.broker.link: one connection, and what each call on it is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rt.broker import StoreSettings, link
from rt.broker.link import Link
from rt.broker.refusal import Refusal
from rt.broker.settings import Address
from rt.errors import StoreError
from tests.brokers import asynchronous, outcome
from tests.certificates import write_certificate
from tests.stores import Store, free_port
from tests.waiting import eventually

GREETING = b"+OK\r\n"


@contextlib.asynccontextmanager
async def connected(url: str, timeout: float = 1.0, **settings: object) -> AsyncIterator[Link]:
    """A link that is closed in the end."""
    address = Address.of(StoreSettings(url=url, **settings))  # type: ignore[arg-type]
    made = await Link.connect(address, name="test", timeout=timeout, connect_timeout=2.0)
    try:
        yield made
    finally:
        made.close(StoreError("the test is over", definite=False))


@contextlib.asynccontextmanager
async def scripted(folder: Path, answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[str]:
    """A server that greets, and after the next bytes does what ``answer`` says. Gives its URL."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(65536)
        writer.write(GREETING)
        if await reader.read(65536):
            answer(writer)
        with contextlib.suppress(OSError):
            await reader.read()

    server = await asyncio.start_unix_server(serve, str(folder / "scripted.sock"))
    try:
        yield f"unix://{folder / 'scripted.sock'}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


@asynchronous
async def test_replies_come_in_order(shared_store: Store) -> None:
    """Of every type, from one write."""
    async with connected(shared_store.url) as made:
        calls = [made.call("ECHO", str(n)) for n in range(100)]
        others = [made.call("STRLEN", "no such key"), made.call("GET", "no such key"), made.call("NO-SUCH-COMMAND")]
        assert await asyncio.gather(*calls) == [str(n).encode() for n in range(100)]
        assert await others[0] == 0
        assert await others[1] is None
        error = await outcome(others[2])
        assert isinstance(error, Refusal) and error.kind == "other" and error.definite


@asynchronous
async def test_a_large_value_goes_both_ways(shared_store: Store) -> None:
    """Larger than any buffer between."""
    value = b"x" * (8 * 1024 * 1024)
    async with connected(shared_store.url, timeout=10.0) as made:
        assert await made.call("ECHO", value) == value


@asynchronous
async def test_the_connection_has_a_name(shared_store: Store) -> None:
    """For whoever reads CLIENT LIST."""
    async with connected(shared_store.url) as made:
        assert await made.call("CLIENT", "GETNAME") == b"test"


@asynchronous
async def test_what_was_written_is_unknown_and_the_rest_is_definite(store: Store) -> None:
    """When the link ends before the replies came."""
    async with connected(store.url) as made:
        with store.paused():
            written = made.call("ECHO", "1")
            await asyncio.sleep(0.01)
            unwritten = made.call("ECHO", "2")
            made.close(StoreError("cut by the test", definite=False))
            errors = await asyncio.gather(written, unwritten, made.call("ECHO", "3"), return_exceptions=True)
        assert [error.definite for error in errors] == [False, True, True]  # type: ignore[union-attr]


@asynchronous
async def test_the_oldest_call_ends_the_link_at_the_timeout(store: Store) -> None:
    """Not before, and not much later; the younger ones are told at the same moment."""
    async with connected(store.url, timeout=0.2) as made:
        with store.paused():
            began = time.monotonic()
            old = made.call("ECHO", "1")
            await asyncio.sleep(0.1)
            young = made.call("ECHO", "2")
            assert isinstance(await outcome(old), StoreError)
            assert young.done() and made.gone.is_set()
            assert 0.19 < time.monotonic() - began < 0.35
            young.exception()


@asynchronous
async def test_a_loop_that_was_busy_itself_reads_before_it_judges(shared_store: Store) -> None:
    """The reply was there in time."""
    large = b"x" * 2_000_000  # more than one write and one read
    async with connected(shared_store.url, timeout=0.2) as made:
        call = made.call("ECHO", large)
        await asyncio.sleep(0)  # written as far as it goes
        time.sleep(0.4)  # the whole process stood still
        assert await call == large
        assert not made.gone.is_set()


@asynchronous
async def test_too_many_calls_are_refused_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are not touched."""
    monkeypatch.setattr(link, "MAX_PENDING", 10)
    async with connected(store.url) as made:
        with store.paused():
            calls = [made.call("ECHO", str(n)) for n in range(12)]
            for refused in calls[10:]:
                error = refused.exception()
                assert isinstance(error, Refusal) and error.kind == "full" and error.definite
        assert await asyncio.gather(*calls[:10]) == [str(n).encode() for n in range(10)]


@asynchronous
async def test_bytes_that_wait_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that reads nothing gets nothing more; when it reads again, calls are taken again."""
    monkeypatch.setattr(link, "MAX_WAITING", 1024 * 1024)
    async with connected(store.url, timeout=10.0) as made:
        calls = []
        with store.paused():
            for _ in range(100):
                calls.append(made.call("STRLEN", b"x" * 100_000))
                await asyncio.sleep(0)
            refused = [call for call in calls if call.done()]
            assert refused and made.congested
            assert all(isinstance(call.exception(), Refusal) for call in refused)
        await asyncio.gather(*(call for call in calls if call not in refused))
        assert not made.congested
        assert await made.call("ECHO", "1") == b"1"


@pytest.mark.parametrize(
    ("reply", "word"),
    [(b"HTTP/1.1 400 Bad Request\r\n", "not RESP"), (b"+1\r\n+2\r\n", "nobody asked"), (b"", "closed")],
    ids=["not RESP", "one too many", "end of file"],
)
@asynchronous
async def test_confusion_ends_the_link(tmp_path: Path, reply: bytes, word: str) -> None:
    """It is not mended: replies would reach the wrong calls."""

    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        if not reply:
            writer.write_eof()

    async with scripted(tmp_path, answer) as url, connected(url) as made:
        call = made.call("PING")
        await eventually(made.gone.is_set)
        assert word in str(made.reason)
        await outcome(call)


@asynchronous
async def test_connecting_has_a_bound(store: Store) -> None:
    """A stopped store takes the connection and says nothing."""
    address = Address.of(StoreSettings(url=store.url))
    with store.paused():
        began = time.monotonic()
        error = await outcome(Link.connect(address, name="test", timeout=0.2, connect_timeout=0.2))
        assert isinstance(error, StoreError) and error.definite
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///no/such/socket", "redis://no-such-host.invalid"])
@asynchronous
async def test_nobody_there(url: str) -> None:
    """A StoreError that says so."""
    error = await outcome(Link.connect(Address.of(StoreSettings(url=url)), name="t", timeout=1, connect_timeout=2))
    assert isinstance(error, StoreError) and error.definite


@pytest.mark.needs("redis-server")
@asynchronous
async def test_tls_with_a_ca_of_our_own(tmp_path: Path) -> None:
    """Checked against the CA file; refused without it; taken unchecked where the settings say so."""
    port = free_port()
    certificate, key = write_certificate(tmp_path)
    options = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients",
    "no",
               "--tls-ca-cert-file", certificate]  # fmt: skip
    with Store("redis-server", options=options):
        url = f"rediss://localhost:{port}"
        async with connected(url, ca_file=certificate) as made:
            assert await made.call("ECHO", b"x" * 100_000) == b"x" * 100_000
        async with connected(url, verify=False) as made:
            assert await made.call("PING") == b"PONG"
        error = await outcome(Link.connect(Address.of(StoreSettings(url=url)), name="t", timeout=1, connect_timeout=2))
        assert isinstance(error, StoreError) and "certificate" in str(error).lower()
