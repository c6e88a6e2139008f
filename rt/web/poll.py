"""The sockets of clients, watched by an epoll of our own, which the loop watches as one descriptor.

What the loop does for each of its own costs as much as reading from it: a handle, two objects, four system calls to
begin and two to end. There are as many of these sockets as there are clients, and each needs no more than one callback.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any, Protocol

Callback = Callable[[], None]

MOST = 1024  # sockets served before the loop gets its turn


class Watcher(Protocol):
    """Calls back when a descriptor can be read or written; an event loop is one, too. To add again replaces."""

    def add_reader(self, fd: int, callback: Callback, /) -> Any: ...
    def remove_reader(self, fd: int, /) -> Any: ...
    def add_writer(self, fd: int, callback: Callback, /) -> Any: ...
    def remove_writer(self, fd: int, /) -> Any: ...


class Poll:
    """Level-triggered, like the loop: who does not take everything is called again. A descriptor must be removed before
    it is closed. An exception of a callback is told to the loop, and the others go on."""

    __slots__ = ("_epoll", "_loop", "_readers", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        """Watch nothing any more. Harmless when it is closed already."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._readers.clear()
            self._writers.clear()

    def add_reader(self, fd: int, callback: Callback, /) -> None:
        """Call ``callback`` as long as something can be read."""
        self._add(fd, callback, self._readers, self._writers, select.EPOLLIN)

    def add_writer(self, fd: int, callback: Callback, /) -> None:
        """Call ``callback`` as long as something can be written."""
        self._add(fd, callback, self._writers, self._readers, select.EPOLLOUT)

    def remove_reader(self, fd: int, /) -> None:
        """Call it no more, also not for what has happened already."""
        self._remove(fd, self._readers, self._writers, select.EPOLLOUT)

    def remove_writer(self, fd: int, /) -> None:
        """Call it no more, also not for what has happened already."""
        self._remove(fd, self._writers, self._readers, select.EPOLLIN)

    def _add(
        self, fd: int, callback: Callback, mine: dict[int, Callback], others: dict[int, Callback], event: int
    ) -> None:
        if fd not in mine and not self._epoll.closed:
            if fd in others:
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
            else:
                self._epoll.register(fd, event)
        mine[fd] = callback

    def _remove(self, fd: int, mine: dict[int, Callback], others: dict[int, Callback], left: int) -> None:
        if mine.pop(fd, None) is not None and not self._epoll.closed:
            if fd in others:
                self._epoll.modify(fd, left)
            else:
                self._epoll.unregister(fd)

    def _turn(self) -> None:
        readers, writers = self._readers, self._writers
        readable, writable = ~select.EPOLLOUT, ~select.EPOLLIN  # a broken connection shows in either way
        for fd, events in self._epoll.poll(0, MOST):
            try:
                if events & readable and (callback := readers.get(fd)) is not None:
                    callback()
                if events & writable and (callback := writers.get(fd)) is not None:
                    callback()
            except Exception as error:
                self._loop.call_exception_handler({"message": "a socket's callback failed", "exception": error})


def watcher(loop: asyncio.AbstractEventLoop) -> Poll | asyncio.AbstractEventLoop:
    """What watches the sockets of clients: the loop itself, where there is no epoll."""
    return Poll(loop) if hasattr(select, "epoll") else loop
