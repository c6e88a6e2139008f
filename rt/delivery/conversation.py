"""Commands of one connection, carried out strictly in order, within the rate limits.

What needs no waiting is answered at once; a command that must wait for the store, or for the key of a token, stops the
reading of this connection until it is answered, which keeps the order and is the flow control. The replies of all
commands that came together leave as one frame, before the next turn of any channel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rt import errors
from rt.delivery.rules import Taken, TooMany
from rt.delivery.subscriber import Subscriber
from rt.errors import Closing, Refused, StoreError
from rt.protocol import commands, frames, replies, tokens
from rt.protocol.commands import BadCommand, Command
from rt.protocol.dialog import Dialog
from rt.protocol.dialog import State as Stage
from rt.protocol.frames import text_frame
from rt.protocol.wires import SDK

if TYPE_CHECKING:
    import asyncio

    from rt.delivery.asking import Answer
    from rt.delivery.hub import Choose, Hub
    from rt.delivery.outbox import Sink
    from rt.delivery.rules import Scopes

REFUSED_LINGER = 5.0  # seconds until a connection whose connect was refused is closed


class Work(Protocol):
    """A command that needs a token judged: done, or a rest that waits. ``fetched``: its key has been asked for."""

    def __call__(self, *, fetched: bool) -> Coroutine[object, object, None] | None: ...


class Conversation(Subscriber):
    """``waiting`` while a command waits; what came in behind it is in the inbox, at most one read's worth."""

    __slots__ = ("_inbox", "_taken", "dialog", "replies", "waiting")

    def __init__(self, hub: Hub, sink: Sink, *, native_ping: bool = False, choose: Choose | None = None) -> None:
        super().__init__(hub, sink, SDK, native_ping=native_ping, choose=choose)
        self.waiting = False
        self.dialog = Dialog()
        self.replies: list[bytes] = []
        self._inbox: list[bytes] | None = None  # the next one last
        self._taken: Taken | None = None  # by the present command, of what is everybody's

    @abstractmethod
    def carry_out(self, command: Command) -> None:
        """Answer the command, or see to it that it will be. Raises Refused or Closing."""

    # In and out

    @property
    def busy(self) -> bool:
        return self.waiting or (self.outbox.size > 0 and super().busy)

    @property
    def ping(self) -> bytes:
        return frames.PING if self.native_ping else self.wire.ping

    def message(self, payload: bytes) -> None:
        """One text message: commands joined by newlines."""
        try:
            lines = commands.split(payload)
        except Closing as closing:
            self.close(closing.close)
            return
        self.hub.tally.received_messages += len(lines)
        lines.reverse()
        if self._inbox is None:
            self._inbox = lines
        else:
            self._inbox[:0] = lines
        self._work()

    def push(self, body: bytes) -> None:
        self.flush()
        self.outbox.write(text_frame(replies.push(body)))

    def _work(self) -> None:
        """Carry out what is in the inbox, up to one that must wait; then send the replies."""
        inbox = self._inbox
        while inbox and not self.waiting and not self.closed:
            try:
                self._take(inbox.pop())
            except Closing as closing:
                self.flush()
                self.close(closing.close)
        if not inbox:
            self._inbox = None  # an empty one would be the largest part of an idle connection
        self.flush()

    def flush(self) -> None:
        """Send the replies that are ready."""
        if self.replies and not self.closed:
            pending, self.replies = self.replies, []
            self.outbox.write(text_frame(b"\n".join(pending)))

    def _take(self, line: bytes) -> None:
        if self.dialog.state is Stage.REFUSED:
            return  # what was sent along with a connect that failed, good or bad
        self._taken = None
        try:
            command = commands.decode(line)
        except BadCommand as bad:
            if self.dialog.accept(bad.kind):
                self.refuse(bad.id, bad.kind, bad)
            return
        if self.dialog.accept(command.kind):
            scopes = self.hub.limits.commands.get(command.kind)
            try:
                if scopes is None:
                    self.carry_out(command)
                else:
                    self._within(command, scopes)
            except Refused as refused:
                self.refuse(command.id, command.kind, refused)

    def refuse(self, id: int, kind: str, refused: Refused) -> None:
        """Answer with an error. What the command took of what is everybody's is given back."""
        self.replies.append(replies.error(id, refused.error, refused.retry_after))
        if kind == "connect":
            self.dialog.refused()
            self.wake_at(self.hub.now() + REFUSED_LINGER)
        taken, self._taken = self._taken, None
        if isinstance(refused, TooMany):
            if refused.meant and self.hub.limits.provoked(self):
                self.flush()
                self.close(errors.TOO_MANY)
        elif taken is not None and taken.common:
            self.hub.limits.give(taken.common)

    # Within the limits

    def _within(self, command: Command, scopes: Scopes) -> None:
        """Carry out a command when all rules about it have let it pass, now or when the store has answered."""
        taken = self._taken = scopes.take(self, getattr(command.request, "channel", ""))
        if taken is None or taken.asked is None:
            self.carry_out(command)
        else:
            self.wait()
            taken.asked.add_done_callback(partial(self._counted, command))

    def _counted(self, command: Command, asked: asyncio.Future[None]) -> None:
        if self.closed:
            asked.exception()
            return
        self._rouse()
        try:
            asked.result()
            self.carry_out(command)
        except Refused as refused:
            self.refuse(command.id, command.kind, refused)
        except Closing as closing:
            self.flush()
            self.close(closing.close)
        if not self.waiting:
            self.go_on()

    # Waiting

    def wait(self) -> None:
        """A command waits: nothing is read, and silence means nothing."""
        self.waiting = True
        if self.heartbeat is not None:
            self.heartbeat.rest()

    def _rouse(self) -> None:
        self.waiting = False
        if self.heartbeat is not None:
            self.heartbeat.resume(self.hub.now())

    def go_on(self) -> None:
        """The command that waited has been answered: the next ones are due."""
        if self.closed:
            return
        if self.waiting:
            self._rouse()
        self._work()
        if not self.busy:
            self.outbox.sink.resume()

    def answer(self, id: int, answer: Answer) -> None:
        """Answer command ``id`` when the store has, without a task."""
        self.wait()
        answer.future.add_done_callback(partial(self._answered, id, answer.reply))

    def _answered(self, id: int, reply: Callable[[Any], bytes], future: asyncio.Future[Any]) -> None:
        try:
            self.replies.append(reply(future.result()))
        except StoreError:
            self.refuse(id, "", Refused(errors.INTERNAL))
        except Refused as refused:
            self.refuse(id, "", refused)
        self.go_on()

    def _later(self, command: Command, work: Coroutine[object, object, None]) -> None:
        """Carry out a command that must wait in more than one place: ``work`` ends with its reply, or raises."""
        self.wait()
        self.hub.spawn(self._worked(command, work))

    async def _worked(self, command: Command, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Closing as closing:
            self.flush()
            self.close(closing.close)
        except Refused as refused:
            self.refuse(command.id, command.kind, refused)
        except StoreError:
            self.refuse(command.id, command.kind, Refused(errors.INTERNAL))
        except Exception:
            self.close(errors.SERVER_ERROR)  # it would wait for ever; the hub says what it was
            raise
        self.go_on()

    def with_token(self, command: Command, work: Work) -> None:
        """Do ``work``, and the rest of it that must wait; where a token's key is not known here, after asking for it
        once."""
        try:
            rest = work(fetched=False)
        except tokens.KeysWanted:
            rest = self._asked(work)
        if rest is not None:
            self._later(command, rest)

    async def _asked(self, work: Work) -> None:
        assert self.hub.keys is not None
        await self.hub.keys.fetch()
        if not self.closed:
            rest = work(fetched=True)
            if rest is not None:
                await rest
