"""The methods of the server API by their names, and those that belong to no other file: info, rpc, batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from rt import errors
from rt.broker import Broker
from rt.config import Config
from rt.protocol.channels import Namespaces
from rt.web import envelope
from rt.web.answers import WRONG_SHAPE, Done, Method, answer, attempt, entry
from rt.web.audiences import Audiences
from rt.web.batch import Batch, Command
from rt.web.inspection import Inspection
from rt.web.publications import Publications
from rt.web.users import Users

logger = logging.getLogger(__name__)

BATCH_COMMANDS = 1000
"""Commands of one batch."""

BATCH_WINDOW = 16
"""Commands of a parallel batch that are under way at once."""


class _Nothing(msgspec.Struct, frozen=True, gc=False):
    pass


class _Rpc(msgspec.Struct, frozen=True, gc=False):
    method: str | None = None


class _Batch(msgspec.Struct, frozen=True, gc=False):
    commands: list[dict[str, msgspec.Raw] | None] | None = None
    parallel: bool | None = None


class _Node(msgspec.Struct, frozen=True, gc=False):
    """What callers rely on in a worker's entry."""

    uid: str
    name: str


_NOTHING = msgspec.json.Decoder(_Nothing)
_RPC = msgspec.json.Decoder(_Rpc)
_BATCH = msgspec.json.Decoder(_Batch)
_NODE = msgspec.json.Decoder(_Node)


class Methods:
    """The methods by their name in the URL, over one store. ``commands`` is how many commands the call had that was
    begun last, for who counts them; a call sets it where it is not the one that it was set to."""

    def __init__(self, config: Config, broker: Broker) -> None:
        self._broker = broker
        self.commands = 1
        self._tasks: set[asyncio.Task[list[bytes]]] = set()
        namespaces = Namespaces(config.channel)
        self._publications = publications = Publications(broker, namespaces)
        self._audiences = audiences = Audiences(broker, namespaces)
        self._users = users = Users(broker, namespaces, config.client.session_ttl)
        self._looks = looks = Inspection(broker, namespaces)
        self.by_name: dict[str, Method] = {
            "publish": publications.publish,
            "broadcast": publications.broadcast,
            "history": publications.history,
            "history_remove": publications.history_remove,
            "presence": audiences.presence,
            "presence_stats": audiences.presence_stats,
            "channels": audiences.channels,
            "subscribe": users.subscribe,
            "unsubscribe": users.unsubscribe,
            "disconnect": users.disconnect,
            "refresh": users.refresh,
            "limits": looks.limits,
            "connection": looks.connection,
            "connections": looks.connections,
            "channel": looks.channel,
            "info": self.info,
            "rpc": self.rpc,
            "batch": self.batch,
        }

    def reload(self, config: Config) -> None:
        """Use the namespaces and the life of sessions of another config from the next call on."""
        namespaces = Namespaces(config.channel)
        for part in (self._publications, self._audiences, self._users, self._looks):
            part.namespaces = namespaces
        self._users.session_ttl = config.client.session_ttl

    async def stop(self) -> None:
        """End what is under way here; the callers get error 100."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def info(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Describe all workers that are up: ``{"nodes":[...]}``."""
        _NOTHING.decode(params)
        task = asyncio.get_running_loop().create_task(self._broker.workers())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        answer(task, done, _nodes)

    def rpc(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Call a method of an extension. There are no extensions: error 104, or 107 where no method is named."""
        named = _RPC.decode(params).method
        done(errors.METHOD_NOT_FOUND if named else errors.BAD_REQUEST)

    def batch(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """Run commands one after the other, or side by side: ``{"replies":[...]}`` in the order of the commands."""
        request = _BATCH.decode(params)
        commands = request.commands or []
        if len(commands) > BATCH_COMMANDS:
            raise errors.Refused(errors.BAD_REQUEST, f"at most {BATCH_COMMANDS} commands")
        self.commands = len(commands)
        window = BATCH_WINDOW if request.parallel else 1
        finish = partial(_finish, done, b'{"replies":[%b]}', b",")
        Batch([self._command(command) for command in commands], window, finish).run()

    def _command(self, command: dict[str, msgspec.Raw] | None) -> Command:
        """What answers a command of a batch, under the name of its method, and what starts it."""
        if not command or len(command) > 1:
            return partial(entry, b"error"), partial(_refuse, errors.BAD_REQUEST)
        ((name, params),) = command.items()
        return partial(entry, name.encode()), self._start(name, params)

    def envelope(self, body: bytes, done: Done) -> None:
        """Run commands in the old form one after the other; the result is their answers, one a line.

        Raises one of :data:`WRONG_SHAPE` for a body that is not this form, or has too many; nothing was done then.
        """
        calls = envelope.decode(body)
        if len(calls) > BATCH_COMMANDS:
            raise msgspec.ValidationError("too many commands")
        self.commands = len(calls)
        commands = [(partial(envelope.reply, call.id), self._start(call.method, call.params)) for call in calls]
        Batch(commands, 1, partial(_finish, done, b"%b", b"\n")).run()

    def _start(self, name: str, params: msgspec.Raw) -> Callable[[Done], None]:
        """What starts the method ``name`` as one of several; a batch is none that could (104)."""
        method = self.by_name.get(name)
        if method is None or name == "batch":
            return partial(_refuse, errors.METHOD_NOT_FOUND)
        return partial(attempt, method, params)


def _finish(done: Done, whole: bytes, between: bytes, replies: Sequence[bytes]) -> None:
    done(whole % between.join(replies))


def _refuse(error: errors.Error, done: Done) -> None:
    done(error)


def _nodes(workers: Sequence[bytes]) -> bytes:
    return b'{"nodes":[%b]}' % b",".join([worker for worker in workers if _is_node(worker)])


def _is_node(worker: bytes) -> bool:
    """Whether an entry of the registry is one: another version may have written it, and callers need two fields."""
    try:
        _NODE.decode(worker)
    except WRONG_SHAPE:
        logger.warning("an entry in the registry of workers makes no sense")
        return False
    return True
