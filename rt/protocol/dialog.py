"""The order of things in one conversation: who may speak when, and whether the other side still lives.

State changes, all of them::

    NEW --connect--> CONNECTING --connected()--> CONNECTED
                          `------refused()-----> REFUSED

Before the connect is answered nothing else is carried out; the caller keeps what was sent behind it. After a refused
connect whatever follows is discarded, because clients send their subscribes along with the connect without waiting.
"""

from __future__ import annotations

from enum import Enum
from math import inf

from rt import errors


class State(Enum):
    """Where a conversation stands."""

    NEW = 0
    CONNECTING = 1
    CONNECTED = 2
    REFUSED = 3


class Heartbeat:
    """Asks now and then whether the other side lives. All times are seconds of one monotonic clock.

    A ping goes out every ``interval``; when nothing at all comes back within ``timeout``, the other side is gone. Any
    byte counts as life, but the pongs are counted too: one that no ping asked for breaks the protocol. While a
    command is being served nobody reads, so the deadline rests (:meth:`rest`, :meth:`resume`).
    """

    __slots__ = ("_awaited", "_deadline", "_interval", "_next_ping", "_resting", "_timeout")

    def __init__(self, interval: float, timeout: float, *, now: float, share: float) -> None:
        """Start. ``share`` in [0, 1) spreads the first ping over 0.5 to 1.0 of the interval from ``now``."""
        self._interval = interval
        self._timeout = timeout
        self._next_ping = now + interval * (0.5 + share / 2)
        self._deadline = inf
        self._awaited = 0
        self._resting = 0  # how many reasons there are

    def due(self) -> float:
        """When to call :meth:`beat` next. It may have become later by then, never earlier, except by :meth:`resume`."""
        return self._next_ping if self._resting else min(self._next_ping, self._deadline)

    def beat(self, now: float) -> bool:
        """Whether to send a ping now (it is counted as sent); :class:`errors.Closing` (3012) when nothing came back."""
        if now >= self._deadline and not self._resting:
            raise errors.Closing(errors.NO_PONG)
        if now < self._next_ping:
            return False
        self._next_ping = now + self._interval
        self._awaited += 1
        # An older ping still unanswered keeps its deadline.
        self._deadline = min(self._deadline, now + self._timeout)
        return True

    def heard(self) -> None:
        """Bytes came in, whatever they are."""
        self._deadline = inf

    def pong(self) -> None:
        """A pong came in; :class:`errors.Closing` (3501) when no ping is waiting for one."""
        if self._awaited == 0:
            raise errors.Closing(errors.BAD_COMMAND, "a pong without a ping")
        self._awaited -= 1
        self._deadline = inf

    @property
    def resting(self) -> bool:
        """Whether nobody reads just now."""
        return self._resting > 0

    def rest(self) -> None:
        """Reading stops, so silence means nothing; until :meth:`resume` was called as often."""
        self._resting += 1

    def resume(self, now: float) -> None:
        """Reading goes on; a pong that is due has the whole timeout again. Before any rest it does nothing else."""
        self._resting = max(self._resting - 1, 0)
        if self._deadline != inf:
            self._deadline = now + self._timeout


class Dialog:
    """Decides over each command of one connection, in the order they came."""

    __slots__ = ("heartbeat", "state")

    def __init__(self) -> None:
        self.state = State.NEW
        self.heartbeat: Heartbeat | None = None

    def accept(self, kind: str) -> bool:
        """Whether to carry out a command of this ``kind`` (empty for a pong), well-formed or not.

        False: nothing more to do with it, it was a pong or it is discarded. :class:`errors.Closing` (3501): something
        other than a connect came first, or a second connect, or a pong that nobody asked for. An accepted connect
        must be answered by :meth:`connected` or :meth:`refused` before the next command is handed in.
        """
        if self.state is State.CONNECTED:
            return self._connected(kind)
        if self.state is State.REFUSED:
            return False
        if self.state is State.CONNECTING or kind != "connect":
            raise errors.Closing(errors.BAD_COMMAND, "the first command must be connect, and it must be answered first")
        self.state = State.CONNECTING
        return True

    def connected(self, heartbeat: Heartbeat | None = None) -> None:
        """The connect succeeded. Without a heartbeat no pings are sent, and every pong is one too many."""
        self.state = State.CONNECTED
        self.heartbeat = heartbeat

    def refused(self) -> None:
        """The connect was answered with an error; the connection will be closed soon."""
        self.state = State.REFUSED

    def _connected(self, kind: str) -> bool:
        if kind == "connect":
            raise errors.Closing(errors.BAD_COMMAND, "a second connect")
        if kind:
            return True
        if self.heartbeat is None:
            raise errors.Closing(errors.BAD_COMMAND, "a pong without a ping")
        self.heartbeat.pong()
        return False
