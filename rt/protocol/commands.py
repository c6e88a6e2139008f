"""What a client sends: lines of JSON, each one command with an id and one method, or a pong.

A frame holds one or more commands, joined by a line break. A line that is not JSON, or JSON that names no method,
says that the other end does not speak this protocol: the connection is closed (3501). A command whose fields have
wrong types is a mistake of the application: it is answered (107) and the connection goes on. Unknown fields are
ignored, so that newer clients can talk to us. The payloads inside stay undecoded bytes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import msgspec

from rt import errors

OFFSET_MAX = 2**64 - 1
_ABSENT = msgspec.Raw()

Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Unsigned = Annotated[int, msgspec.Meta(ge=0)]


def _check_offset(offset: int) -> None:
    # msgspec cannot state a bound beyond 63 bits; offsets are 64 bits wide.
    if offset > OFFSET_MAX:
        raise ValueError("an offset has 64 bits")


class _Request(msgspec.Struct, frozen=True, gc=False):
    """Base of all requests. ``kind`` is the name of the method, in the command and in its reply."""

    kind: ClassVar[str] = ""


class Subscribe(_Request, frozen=True, gc=False):
    """Subscribe to ``channel``; with ``recover``, from the position (``epoch``, ``offset``) on.

    ``flag`` 1 offers short channel numbers, 2 asks for error 112 instead of an unrecovered subscription. ``type`` 0
    is a stream, the only kind there is here. Without a token it is empty. ``data`` and ``tf`` are raw JSON, empty
    when absent.
    """

    kind: ClassVar[str] = "subscribe"
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Unsigned = 0
    data: msgspec.Raw = _ABSENT
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: msgspec.Raw = _ABSENT
    flag: Unsigned = 0
    type: Int32 = 0

    def __post_init__(self) -> None:
        _check_offset(self.offset)


class Connect(_Request, frozen=True, gc=False):
    """The first command. ``subs`` holds, by channel, where server-side subscriptions should be recovered from."""

    kind: ClassVar[str] = "connect"
    token: str = ""
    data: msgspec.Raw = _ABSENT
    subs: dict[str, Subscribe] = {}
    name: str = ""
    version: str = ""


class Ping(_Request, frozen=True, gc=False):
    """A ping by the client: the protocol has the word, but servers do not answer it (3501)."""

    kind: ClassVar[str] = "ping"


class Unsubscribe(_Request, frozen=True, gc=False):
    """Leave ``channel``. Not being subscribed is no error."""

    kind: ClassVar[str] = "unsubscribe"
    channel: str = ""


class Publish(_Request, frozen=True, gc=False):
    """Publish ``data`` (raw JSON, empty when absent) into ``channel``. ``type`` other than 0 is not a stream.

    A repeat with the same ``idempotency_key`` publishes nothing more; stock clients send none.
    """

    kind: ClassVar[str] = "publish"
    channel: str = ""
    data: msgspec.Raw = _ABSENT
    type: Int32 = 0
    idempotency_key: str = ""


class Presence(_Request, frozen=True, gc=False):
    """Ask who is subscribed to ``channel``."""

    kind: ClassVar[str] = "presence"
    channel: str = ""


class PresenceStats(_Request, frozen=True, gc=False):
    """Ask how many are subscribed to ``channel``."""

    kind: ClassVar[str] = "presence_stats"
    channel: str = ""


class Since(msgspec.Struct, frozen=True, gc=False):
    """The position that a history read starts beside: it is not part of the answer itself."""

    offset: Unsigned = 0
    epoch: str = ""

    def __post_init__(self) -> None:
        _check_offset(self.offset)


class History(_Request, frozen=True, gc=False):
    """Read the history of ``channel``. ``limit`` 0 asks for the position only, below 0 for as much as is allowed."""

    kind: ClassVar[str] = "history"
    channel: str = ""
    limit: Int32 = 0
    since: Since | None = None
    reverse: bool = False


class Rpc(_Request, frozen=True, gc=False):
    """Call ``method`` of the application's backend."""

    kind: ClassVar[str] = "rpc"
    method: str = ""
    data: msgspec.Raw = _ABSENT


class Send(_Request, frozen=True, gc=False):
    """A message that gets no reply, and so is the only command that may go without an id."""

    kind: ClassVar[str] = "send"
    data: msgspec.Raw = _ABSENT


class Refresh(_Request, frozen=True, gc=False):
    """A fresh connection token."""

    kind: ClassVar[str] = "refresh"
    token: str = ""


class SubRefresh(_Request, frozen=True, gc=False):
    """A fresh subscription token for ``channel``. ``type`` other than 0 is not about tokens, and not available here."""

    kind: ClassVar[str] = "sub_refresh"
    channel: str = ""
    token: str = ""
    type: Int32 = 0


Request = (
    Connect
    | Ping
    | Subscribe
    | Unsubscribe
    | Publish
    | Presence
    | PresenceStats
    | History
    | Rpc
    | Send
    | Refresh
    | SubRefresh
)


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    """One line. The fields stand in the order in which a method is chosen when there is more than one."""

    id: Uint32 = 0
    connect: Connect | None = None
    ping: Ping | None = None
    subscribe: Subscribe | None = None
    unsubscribe: Unsubscribe | None = None
    publish: Publish | None = None
    presence: Presence | None = None
    presence_stats: PresenceStats | None = None
    history: History | None = None
    rpc: Rpc | None = None
    send: Send | None = None
    refresh: Refresh | None = None
    sub_refresh: SubRefresh | None = None

    def request(self) -> Request | None:
        """The method that counts: the first one present."""
        return (
            self.connect
            or self.ping
            or self.subscribe
            or self.unsubscribe
            or self.publish
            or self.presence
            or self.presence_stats
            or self.history
            or self.rpc
            or self.send
            or self.refresh
            or self.sub_refresh
        )


_KINDS = _Envelope.__struct_fields__[1:]
_LINE = msgspec.json.Decoder(_Envelope)
_CONNECT = msgspec.json.Decoder(Connect)
_OUTLINE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ID = msgspec.json.Decoder(Uint32)


class Command(NamedTuple):
    """One command: the ``id`` its reply must carry, and what is asked. A pong has neither."""

    id: int
    request: Request | None

    @property
    def kind(self) -> str:
        """The name of the method; empty for a pong."""
        return self.request.kind if self.request is not None else ""


PONG = Command(0, None)


class BadCommand(errors.Refused):
    """A command that could be told apart (``id``, ``kind``) but whose fields have wrong types: answered with 107."""

    def __init__(self, id: int, kind: str) -> None:
        super().__init__(errors.BAD_REQUEST, f"a field of {kind} has a wrong type")
        self.id = id
        self.kind = kind


def split(frame: bytes) -> list[bytes]:
    """The lines of one frame, at least one; a single line break at the end is tolerated.

    An empty frame or an empty line closes the connection: :class:`errors.Closing` (3501).
    """
    lines = frame.split(b"\n")
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if b"" in lines:
        raise errors.Closing(errors.BAD_COMMAND, "a frame has an empty line")
    return lines


def decode(line: bytes) -> Command:
    """The command in one line.

    Raises :class:`BadCommand` (answer 107 under its ``id``) and :class:`errors.Closing` (3501), and nothing else
    whatever the bytes are. An id of 0 makes a pong of everything but ``send``. A channel that is named must not be
    empty (3501).
    """
    try:
        envelope = _LINE.decode(line)
    except msgspec.ValidationError:
        raise _wrong_type(line) from None
    except (ValueError, RecursionError):
        raise errors.Closing(errors.BAD_COMMAND, "a command is not JSON") from None
    request = envelope.request()
    if not envelope.id:
        return Command(0, request) if isinstance(request, Send) else PONG
    if request is None or isinstance(request, Ping):
        raise errors.Closing(errors.BAD_COMMAND, "a command names no method")
    if not getattr(request, "channel", True):
        raise errors.Closing(errors.BAD_COMMAND, "a command names no channel")
    return Command(envelope.id, request)


def decode_connect(body: bytes) -> Connect:
    """The request that a unidirectional stream begins with: a connect without the command around it.

    Such a stream has no replies, so whatever is wrong with it closes: :class:`errors.Closing` (3501), and nothing else
    whatever the bytes are.
    """
    try:
        return _CONNECT.decode(body)
    except (ValueError, RecursionError):
        raise errors.Closing(errors.BAD_COMMAND, "not a connect request") from None


def _wrong_type(line: bytes) -> BadCommand | errors.Closing:
    """What to raise for JSON that does not fit: an answer where its id can be read, else the close."""
    try:
        fields = _OUTLINE.decode(line)
        id = _ID.decode(fields["id"])
    except (LookupError, ValueError, RecursionError):
        return errors.Closing(errors.BAD_COMMAND, "a command has no readable id")
    kind = next((kind for kind in _KINDS if kind in fields and bytes(fields[kind]) != b"null"), "")
    if not id or not kind:
        return errors.Closing(errors.BAD_COMMAND, "a command has no id or no method")
    return BadCommand(id, kind)
