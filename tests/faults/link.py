"""A line between a server and its store that can fail: ``with Link(store) as link: ... link.url``.

It runs in a process of its own (:mod:`tests.faults.relay`), so it goes on whatever the test does, and ends with the
test's process even when that is killed. It stands before a store on a Unix socket or on TCP, and listens on either. TLS
does not pass through.

Faults are ``with`` blocks, can be laid over each other, and are in force when the block is entered. Each takes ``to``,
a piece of the name that a connection gave itself (``CLIENT SETNAME``): a worker's are ``<worker>-commands`` and
``<worker>-subscriber``, so ``to=SUBSCRIBER`` hits what workers hear and leaves what they say. "" means all. A ``way``
is ``up`` to the store, ``down`` to the server, or ``both``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self
from urllib.parse import quote, unquote, urlsplit

from tests import processes
from tests.faults import process

Way = Literal["up", "down", "both"]

SUBSCRIBER = "-subscriber"
"""In the name of the connection over which a worker hears."""

COMMANDS = "-commands"
"""In the name of the one over which it asks and publishes."""

NOWHERE = "unix:///nowhere"
"""Where there is no store: who is led there is let in and closed at once."""

ANSWER = 10.0
"""Seconds within which the line's process does what it is asked, unless it is hung."""


class Reachable(Protocol):
    """Something with a store's URL."""

    @property
    def url(self) -> str:
        """``unix://PATH`` or ``redis://HOST:PORT``."""


class Link:
    """See the head of this module. ``seed`` is that of the jitter; ``tcp`` says on what it listens. What passes a
    ``raw`` line need not be replies, as between a primary and its replica: it swallows nothing."""

    def __init__(self, target: Reachable | str, *, tcp: bool = False, seed: int = 0, raw: bool = False) -> None:
        self._target = _url(target)
        _place(self._target)
        self._seed = seed
        self._raw = raw
        self._ids = itertools.count(1)
        self._turn = threading.Lock()
        self._made = tempfile.TemporaryDirectory(prefix="rt-link-")
        self._address: Any = ["127.0.0.1", 0] if tcp else str(Path(self._made.name) / "link.sock")
        self._control: socket.socket
        self._answers: Any
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(ANSWER)
        self._answers = self._control.makefile("rb")
        program = str(Path(__file__).with_name("relay.py"))
        settings = json.dumps({"address": self._address, "seed": self._seed, "raw": self._raw})
        with theirs:
            # In a process group of its own a Ctrl-C is not for it, and should we die while it is hung, the kernel wakes
            # and ends it: that is what happens to an orphaned group with a stopped member (setpgid(2)).
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", program, str(theirs.fileno()), settings],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._address = json.loads(self._answers.readline())
        self.point(self._target)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._answers.close()
        self._control.close()
        self._process.kill()
        self._process.wait(ANSWER)
        self._made.cleanup()

    # What it is

    @property
    def url(self) -> str:
        """Where it listens, with the user and password of the store's URL."""
        login = urlsplit(self._target).netloc.rpartition("@")[0]
        place = quote(self._address) if isinstance(self._address, str) else ":".join(map(str, self._address))
        scheme = "unix" if isinstance(self._address, str) else "redis"
        return f"{scheme}://{login + '@' if login else ''}{place}"

    @property
    def port(self) -> int:
        """Where it listens, on TCP."""
        return int(self._address[1])

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def clients(self, to: str = "") -> list[str]:
        """The names of the connections that go through it now; "" for one that gave none."""
        names: list[str] = self._ask("look")["clients"]
        return [name for name in names if to in name]

    def count(self, what: Literal["accepted", "swallowed", "cut", "up", "down"]) -> int:
        """How many connections came, pushes were swallowed, connections were cut by :meth:`cut_after`, bytes went up or
        down, since it began."""
        return int(self._ask("look")["counts"][what])

    # Where it leads

    def point(self, target: Reachable | str, to: str = "") -> None:
        """New connections go to ``target`` from now on. Those that are there stay where they are: see
        :meth:`reset`."""
        url = _url(target)
        self._ask("point", target=_place(url), to=to)
        if not to:
            self._target = url

    @contextlib.contextmanager
    def pointed_at(self, target: Reachable | str, to: str = "") -> Iterator[None]:
        """Connections are cut and go to ``target``; after the block they are cut again and go where they went
        before."""
        before = self._target
        self.point(target, to)
        self.reset(to)
        try:
            yield
        finally:
            if to:
                self._ask("unpoint", to=to)
            else:
                self.point(before)
            self.reset(to)

    # It passes on, but badly

    @contextlib.contextmanager
    def slow(self, latency: float, jitter: float = 0.0, way: Way = "down", to: str = "") -> Iterator[None]:
        """All comes ``latency`` seconds later, give or take up to ``jitter``, in order."""
        with self._fault("slow", way, to, latency=latency, jitter=jitter):
            yield

    @contextlib.contextmanager
    def narrow(self, rate: float, way: Way = "both", to: str = "") -> Iterator[None]:
        """At most ``rate`` bytes per second, for each connection and way."""
        with self._fault("narrow", way, to, rate=rate):
            yield

    @contextlib.contextmanager
    def sliced(self, size: int = 1, pause: float = 0.0, way: Way = "both", to: str = "") -> Iterator[None]:
        """All comes in pieces of ``size`` bytes, with ``pause`` seconds after each."""
        with self._fault("slice", way, to, size=size, pause=pause):
            yield

    # It passes nothing on, and nobody is told

    @contextlib.contextmanager
    def black_hole(self, way: Way = "both", to: str = "", *, reset: bool = False) -> Iterator[None]:
        """Nothing passes, no end of a connection either; new connections are accepted and hear nothing. What waited
        goes on after the block, as after a cable was pulled and put back; with ``reset`` all that is there is reset
        instead, as by a middle box that has forgotten it."""
        with self._fault("hole", way, to):
            yield
            if reset:
                self.reset(to)

    def hung(self) -> contextlib.AbstractContextManager[None]:
        """Its whole process stands still: like a black hole, but even connecting ends when the kernel's queue is
        full. Nothing else can be asked of it meanwhile."""
        return process.stopped(self.pid)

    @contextlib.contextmanager
    def swallowing(self, *kinds: str, every: int = 1, about: str = "", to: str = "") -> Iterator[None]:
        """Of the pushes of these kinds (``message``, ``subscribe``, ``unsubscribe``, ``pong``) whose pub/sub's name
        holds ``about``, every so many-th of a connection does not come through. All else does, PONG too."""
        with self._fault("swallow", "down", to, kinds=kinds, every=every, about=about):
            yield

    def deaf(self, to: str = "") -> contextlib.AbstractContextManager[None]:
        """Nothing that is published comes through, while PING is answered and subscribes are confirmed."""
        return self.swallowing("message", to=to)

    def dropping(self, every: int, about: str = "", to: str = "") -> contextlib.AbstractContextManager[None]:
        """Every so many-th message of a pub/sub whose name holds ``about`` does not come through. ``{`` + channel +
        ``}`` is in a channel's, ``probe:`` in that of a probe."""
        return self.swallowing("message", every=every, about=about, to=to)

    # It breaks

    def reset(self, to: str = "") -> int:
        """Reset all connections; how many. On Unix sockets, which know no reset, they are closed."""
        return int(self._ask("reset", to=to))

    def close(self, to: str = "") -> int:
        """Close all connections politely; how many. What was under way is lost."""
        return int(self._ask("close", to=to))

    def half_close(self, way: Way, to: str = "") -> int:
        """Say to whom that way leads that nothing more comes, and go on in the other direction; how many ways."""
        return int(self._ask("half", ways=_ways(way), to=to))

    @contextlib.contextmanager
    def cut_after(
        self, size: int, way: Way = "down", to: str = "", *, of: str = "", times: int = 1, hard: bool = True
    ) -> Iterator[None]:
        """A connection is cut when exactly ``size`` bytes have gone that way, counted from the beginning of the block,
        or from where ``of`` goes up for the first time (for ``up``: from its first byte). ``times`` connections at
        most, 0 for all. ``hard`` with a reset."""
        if way == "both":
            raise ValueError("a cut counts the bytes of one way")
        with self._fault("cut", way, to, after=size, of=of, times=times, hard=hard):
            yield

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens: whoever connects is refused. Who is connected stays so."""
        self._ask("refuse")
        try:
            yield
        finally:
            self._ask("accept")

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens, and all connections are reset."""
        with self.refusing():
            self.reset()
            yield

    # Talking to the process

    @contextlib.contextmanager
    def _fault(self, kind: str, way: Way, to: str, **values: Any) -> Iterator[None]:
        number = next(self._ids)
        self._ask("begin", id=number, kind=kind, ways=_ways(way), to=to, **values)
        try:
            yield
        finally:
            self._ask("end", id=number)

    def _ask(self, do: str, **values: Any) -> Any:
        with self._turn:
            self._control.sendall(json.dumps({"do": do, **values}).encode() + b"\n")
            line = self._answers.readline()
        assert line and processes.alive(self.pid), f"the line's process is gone: {do}"
        return json.loads(line)


def _ways(way: Way) -> Sequence[str]:
    return ["up", "down"] if way == "both" else [way]


def _url(target: Reachable | str) -> str:
    return target if isinstance(target, str) else target.url


def _place(url: str) -> str | list[Any]:
    """Where a URL leads: a path, or host and port."""
    parts = urlsplit(url)
    if parts.scheme not in ("unix", "redis"):
        raise ValueError(f"no line leads to {parts.scheme}://")
    return unquote(parts.path) if parts.scheme == "unix" else [parts.hostname or "localhost", parts.port or 6379]
