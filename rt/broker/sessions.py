"""What outlives a connection: for each user a hash in the store, and a mark that says whether anybody has one.

Most installations use no sessions, and most connections have none; so that these cost no read at every connect,
whoever writes one leaves the mark, and :attr:`Sessions.used` says whether it must be looked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rt import errors
from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.scripts import RESTORE, SESSION
from rt.broker.streams import nothing
from rt.broker.together import together
from rt.errors import StoreError

MAX_FIELDS = 1024
"""Fields that a session may have."""

BATCH = 500
"""Sessions that one call of the script lets live on."""


class Sessions:
    """The calls about sessions; :class:`rt.broker.Broker` says what each promises."""

    __slots__ = ("_keys", "_loop", "_pipeline", "_reading", "used")

    def __init__(self, pipeline: Pipeline, keys: Keys) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipeline = pipeline
        self._keys = keys
        self._reading: asyncio.Future[Any] | None = None
        self.used = True
        """Whether anybody may have a session. True as long as it is not known."""

    def look(self) -> None:
        """Read the mark anew. To be called when everything the workers say is heard from now on: whoever writes the
        first session after the reading says so."""
        self.used = True
        reading = self._reading = self._pipeline.call("EXISTS", self._keys.sessions)
        reading.add_done_callback(self._looked)

    def found(self) -> None:
        """Somebody uses sessions, or may; a reading under way that says otherwise is too old."""
        self.used = True
        self._reading = None

    def _looked(self, reading: asyncio.Future[Any]) -> None:
        if reading.exception() is None and reading is self._reading:
            self._reading = None
            self.used = bool(reading.result())

    def session(self, user: str) -> asyncio.Future[dict[str, bytes]]:
        """See :meth:`rt.broker.Broker.session`."""
        done: asyncio.Future[dict[str, bytes]] = self._loop.create_future()

        def read(reply: asyncio.Future[Any]) -> None:
            if done.done():
                reply.exception()
                return
            try:
                flat = reply.result()
                done.set_result({field.decode(): value for field, value in zip(flat[::2], flat[1::2], strict=True)})
            except StoreError as error:
                done.set_exception(error)
            except (TypeError, ValueError, AttributeError):
                done.set_exception(StoreError("the store holds a session that is none", definite=True))

        self._pipeline.call("HGETALL", self._keys.session(user)).add_done_callback(read)
        return done

    def update(
        self, user: str, changes: Mapping[str, bytes], remove: Sequence[str], ttl: float
    ) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.update_session`."""
        self.found()
        args: list[str | bytes | int] = [len(changes)]
        for field, value in changes.items():
            args += (field, value)
        return self._run((self._keys.session(user),), ttl, (*args, *remove))

    def restore(
        self, user: str, fields: Sequence[tuple[str, bytes, Sequence[str]]], ttl: float
    ) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.restore_session`."""
        self.found()
        args: list[str | bytes | int] = [max(int(ttl * 1000), 1), self._keys.control, MAX_FIELDS]
        for field, value, rivals in fields:
            args += (field, value, len(rivals), *rivals)
        keys = (self._keys.sessions, self._keys.session(user))
        return self._pipeline.run(RESTORE, keys, tuple(args), nothing, repeatable=True)

    def touch(self, users: Sequence[str], ttl: float) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.touch_sessions`."""
        calls = []
        for start in range(0, len(users) or 1, BATCH):
            names = tuple(self._keys.session(user) for user in users[start : start + BATCH])
            calls.append(self._run(names, ttl, (0,)))
        return together(calls)

    def _run(self, names: tuple[str, ...], ttl: float, args: tuple[str | bytes | int, ...]) -> asyncio.Future[None]:
        args = (max(int(ttl * 1000), 1), self._keys.control, MAX_FIELDS, *args)
        done: asyncio.Future[None] = self._loop.create_future()
        self._pipeline.run(SESSION, (self._keys.sessions, *names), args, int, repeatable=True).add_done_callback(
            lambda reply: _settle(done, reply)
        )
        return done


def _settle(done: asyncio.Future[None], reply: asyncio.Future[int]) -> None:
    error = reply.exception()
    if error is None and reply.result() < 0:
        error = errors.Refused(errors.LIMIT_EXCEEDED, "a session has too many fields")
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
