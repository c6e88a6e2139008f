"""The epoll that watches the sockets of clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rt.web.poll import Poll


@contextmanager
def _watched() -> Iterator[tuple[Poll, socket.socket, socket.socket]]:
    """A poll of the running loop, and two ends of a connection."""
    poll = Poll(asyncio.get_running_loop())
    here, there = socket.socketpair()
    here.setblocking(False)
    try:
        with here, there:
            yield poll, here, there
    finally:
        poll.close()


def _run(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(check(), 5))


def _taking(sock: socket.socket, taken: asyncio.Event) -> Callable[[], None]:
    """A reader that takes what there is, and says so."""

    def readable() -> None:
        sock.recv(65536)
        taken.set()

    return readable


def _once(poll: Poll, sock: socket.socket, called: asyncio.Event) -> Callable[[], None]:
    """A writer that is called once, and says so."""

    def writable() -> None:
        poll.remove_writer(sock.fileno())
        called.set()

    return writable


def test_a_reader_is_called_as_long_as_something_is_there() -> None:
    """Who does not take everything at once is called again."""

    async def check() -> None:
        with _watched() as (poll, here, there):
            got: list[bytes] = []
            whole = asyncio.Event()

            def readable() -> None:
                got.append(here.recv(2))
                if b"".join(got) == b"abcdef":
                    whole.set()

            poll.add_reader(here.fileno(), readable)
            there.sendall(b"abcdef")
            await whole.wait()
            assert got == [b"ab", b"cd", b"ef"]

    _run(check)


def test_a_callback_takes_the_place_of_the_one_before() -> None:
    """A socket that is taken over has another reader from then on."""

    async def check() -> None:
        with _watched() as (poll, here, there):
            called = asyncio.Event()
            poll.add_reader(here.fileno(), lambda: pytest.fail("the old one was called"))
            poll.add_reader(here.fileno(), _taking(here, called))
            there.sendall(b"x")
            await called.wait()

    _run(check)


def test_reading_and_writing_come_and_go_alone() -> None:
    """To stop one of them leaves the other one as it is."""

    async def check() -> None:
        with _watched() as (poll, here, there):
            fd, read, written = here.fileno(), asyncio.Event(), asyncio.Event()
            poll.add_reader(fd, _taking(here, read))
            poll.add_writer(fd, _once(poll, here, written))
            await written.wait()
            there.sendall(b"x")
            await read.wait()
            written.clear()
            poll.add_writer(fd, written.set)
            poll.remove_reader(fd)
            read.clear()
            there.sendall(b"x")
            await written.wait()
            assert not read.is_set()
            poll.remove_writer(fd)

    _run(check)


def test_what_was_removed_is_not_called_for_what_had_happened() -> None:
    """Of two sockets that are ready together, the first one's callback may close the second."""

    async def check() -> None:
        with _watched() as (poll, one, other):
            called: list[int] = []

            def readable(mine: socket.socket, its: socket.socket) -> None:
                called.append(mine.fileno())
                poll.remove_reader(mine.fileno())
                poll.remove_reader(its.fileno())

            poll.add_reader(one.fileno(), lambda: readable(one, other))
            poll.add_reader(other.fileno(), lambda: readable(other, one))
            one.sendall(b"x")
            other.sendall(b"x")
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(called) == 1

    _run(check)


def test_a_failing_callback_stops_nobody_else() -> None:
    """The loop is told of it, and the others are served in the same turn."""

    async def check() -> None:
        with _watched() as (poll, one, other):
            told: list[dict[str, Any]] = []
            served = asyncio.Event()
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

            def fail() -> None:
                one.recv(9)
                raise ZeroDivisionError

            poll.add_reader(one.fileno(), fail)
            poll.add_reader(other.fileno(), _taking(other, served))
            one.sendall(b"x")
            other.sendall(b"x")
            await served.wait()
            await asyncio.sleep(0)
            assert [type(context["exception"]) for context in told] == [ZeroDivisionError]

    _run(check)


def test_a_peer_that_leaves_is_noticed_by_who_writes_only() -> None:
    """A connection that breaks wakes whoever watches it, in whatever direction."""

    async def check() -> None:
        with _watched() as (poll, here, there):
            woken = asyncio.Event()
            with pytest.raises(BlockingIOError):
                while True:
                    here.send(bytes(65536))
            poll.add_writer(here.fileno(), _once(poll, here, woken))
            there.close()
            await woken.wait()

    _run(check)


def test_nothing_is_called_after_the_end() -> None:
    """Closed, it may still be told to forget what it had."""

    async def check() -> None:
        with _watched() as (poll, here, there):
            poll.add_reader(here.fileno(), lambda: pytest.fail("it was called"))
            poll.close()
            poll.close()
            there.sendall(b"x")
            await asyncio.sleep(0)
            poll.remove_reader(here.fileno())

    _run(check)
