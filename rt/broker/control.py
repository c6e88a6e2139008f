"""What this worker carries out because a worker says so: commands, and questions that it answers.

A *command* is a publication on an internal stream, so a worker whose subscriber was away for a while reads what it
missed when it is back. Each is carried out once by each worker, whatever is sent, heard or read again: the position in
the stream tells what is missing, and the id of each command whether it is known already. A *question* is for those who
hear it now. Who hears a command or question answers it, on the asker's own pub/sub; who only reads it does not, since
nobody waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from functools import partial

from rt.broker import bus, message
from rt.broker.asking import STREAM_META_TTL, STREAM_SIZE
from rt.broker.counters import Counters
from rt.broker.keys import Keys
from rt.broker.message import Answer, Message
from rt.broker.pipeline import Pipeline
from rt.broker.streams import read
from rt.broker.trouble import QUIET
from rt.protocol.publication import Page, Position, Publication

log = logging.getLogger("rt.broker")

Carry = Callable[[bytes], "bytes | asyncio.Future[bytes]"]

PAGE = 100
"""Commands in one read."""

MAX_KNOWN = 4 * STREAM_SIZE
"""Ids that are remembered. All that can be read again must be among them."""

MAX_READS = 3
"""How often the stream is read for what was heard meanwhile, before that is taken as it comes."""

AGAIN = 1.0
"""Seconds after which a read that failed is tried again, should no connection come up before."""


class Control:
    """The commands and questions that this worker hears.

    ``on_heard`` is called for every command, before it is carried out.
    """

    __slots__ = (
        "_carry_out", "_counters", "_keys", "_known", "_loop", "_must_read", "_on_heard", "_pipeline", "_position",
        "_reading", "_reads", "_stopped", "_timer", "_told", "_waiting", "_who",
    )  # fmt: skip

    def __init__(self, pipeline: Pipeline, keys: Keys, counters: Counters, on_heard: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipeline = pipeline
        self._keys = keys
        self._counters = counters
        self._on_heard = on_heard
        self._carry_out: Carry
        # A name may be taken by two processes by mistake, and is taken again after a restart.
        self._who = b"%016x" % random.getrandbits(64)
        self._position: Position | None = None
        self._known: dict[str, asyncio.Future[bytes] | None] = {}  # None: carried out
        self._reading = False
        self._must_read = False  # once more after the read under way
        self._reads = 0
        self._waiting: deque[Publication] = deque(maxlen=STREAM_SIZE)  # heard while reading
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._told = -QUIET  # when it was last said that something may have been missed

    def start(self, carry_out: Carry) -> None:
        """``carry_out`` gets each command and question in order, and gives the answer."""
        self._carry_out = carry_out

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    # Following the stream

    def hear(self, payload: bytes) -> None:
        """A message on the pub/sub of all workers."""
        publication = bus.publication(payload)
        if publication is None:
            if bus.is_first_session(payload):
                self._on_heard()
            else:
                self._counters.bus_dropped += 1
        elif not publication.offset:
            self._answer_question(publication)
        elif self._reading:
            self._waiting.append(publication)
        elif not self._follow(publication):
            self._waiting.append(publication)
            self._read()

    def resume(self) -> None:
        """Everything said from now on is heard; read what was said before, and was not heard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._ask()
        elif self._reading:
            self._must_read = True
        else:
            self._read()

    def _follow(self, heard: Publication) -> bool:
        """Take what was heard, unless something between it and our position is missing."""
        at = self._position
        if at is not None:
            first, last = (at.offset + 1, at.offset) if heard.epoch == at.epoch else (1, 0)
            if heard.offset > first:
                return False
            if heard.offset <= last:
                self._take(heard)
                return True
        self._position = Position(heard.epoch, heard.offset)
        self._take(heard)
        return True

    def _read(self) -> None:
        self._reading = True
        self._reads = 1
        self._ask()

    def _ask(self) -> None:
        """Read the next page; without a position only where the stream is."""
        self._timer = None
        limit = PAGE if self._position is not None else 0
        page = read(self._pipeline, self._keys.control, since=self._position, limit=limit, meta_ttl=STREAM_META_TTL)
        page.add_done_callback(self._got)

    def _got(self, reply: asyncio.Future[Page]) -> None:
        error = reply.exception()
        if self._stopped:
            return
        if error is not None:
            # What is heard waits; it is bounded, and what is lost of it will be read.
            self._timer = self._loop.call_later(AGAIN, self._ask)
            return
        if self._turn(reply.result()):
            self._ask()
        elif self._must_read:
            self._must_read = False
            self._ask()
        else:
            self._catch_up()

    def _turn(self, page: Page) -> bool:
        """Take a page. Gives whether there is more."""
        at, top = self._position, page.top
        if at is None:
            self._position = top
            return False
        if at.epoch != top.epoch:
            self._miss()
            self._position = Position(top.epoch, 0)
            return top.offset > 0
        first = page.publications[0].offset if page.publications else top.offset + 1
        if first > at.offset + 1:
            self._miss()
        for publication in page.publications:
            self._carry(publication)
        end = page.publications[-1].offset if page.publications else top.offset
        self._position = Position(top.epoch, end)
        return end < top.offset

    def _miss(self) -> None:
        self._counters.control_gaps += 1
        now = self._loop.time()
        if now - self._told >= QUIET:
            self._told = now
            log.warning("commands from other workers may have been missed while the store was away")

    def _catch_up(self) -> None:
        """Take what was heard while reading."""
        waiting = self._waiting
        while waiting:
            if not self._follow(waiting[0]):
                if self._reads < MAX_READS:
                    self._reads += 1
                    self._ask()
                    return
                self._skip_to(waiting[0])
            waiting.popleft()
        self._reading = False

    def _skip_to(self, heard: Publication) -> None:
        """What is before ``heard`` cannot be read."""
        self._miss()
        if self._position is not None and heard.epoch == self._position.epoch:
            self._position = Position(heard.epoch, heard.offset)
        self._take(heard)

    # Carrying out

    def _take(self, publication: Publication) -> None:
        """Carry out what was heard, and answer."""
        said = self._carry(publication)
        if said is None:
            return
        outcome = self._known.get(said.id)
        if outcome is None:
            self._answer(said, b"")
        else:
            outcome.add_done_callback(lambda outcome: self._answer(said, b""))

    def _carry(self, publication: Publication) -> Message | None:
        """Carry out a command, unless it is known."""
        said = message.decode(publication.body)
        if said is None:
            self._counters.bus_dropped += 1
        elif said.id not in self._known:
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._on_heard()
            outcome = self._hand_over(said)
            if isinstance(outcome, asyncio.Future):
                self._known[said.id] = outcome
                outcome.add_done_callback(lambda outcome: self._carried_out(said.id))
            else:
                self._known[said.id] = None
        return said

    def _carried_out(self, key: str) -> None:
        if key in self._known:
            self._known[key] = None

    def _hand_over(self, said: Message) -> bytes | asyncio.Future[bytes] | None:
        """Gives the answer or its future; None when there is none."""
        try:
            outcome = self._carry_out(bytes(said.body))
        except Exception:
            # The next command is not to suffer for it.
            log.exception("what a worker said could not be carried out")
            return None
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(_report)
        return outcome

    def _answer_question(self, publication: Publication) -> None:
        said = message.decode(publication.body)
        if said is None:
            self._counters.bus_dropped += 1
            return
        outcome = self._hand_over(said)
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(partial(self._answer_later, said))
        else:
            self._answer(said, outcome)

    def _answer_later(self, said: Message, outcome: asyncio.Future[bytes]) -> None:
        failed = outcome.cancelled() or outcome.exception() is not None
        self._answer(said, None if failed else outcome.result())

    def _answer(self, said: Message, body: bytes | None) -> None:
        if body is not None and len(body) > message.MAX_ANSWER:
            log.warning("an answer to another worker is too large: %d bytes", len(body))
        payload = message.encode_answer(Answer(said.id.encode(), self._who, body))
        # Whoever does not get it waits no longer than a second.
        self._pipeline.call("PUBLISH", self._keys.answers(said.sender), payload).add_done_callback(_look)


def _report(outcome: asyncio.Future[bytes]) -> None:
    if not outcome.cancelled() and (error := outcome.exception()) is not None:
        log.error("what a worker said could not be carried out", exc_info=error)


def _look(outcome: asyncio.Future[object]) -> None:
    """Nobody cares for the outcome."""
    outcome.exception()
