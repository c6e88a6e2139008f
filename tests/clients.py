"""Clients that speak the wire formats themselves, and share no code with the server.

Each keeps what it received as records for tests/checker.py and remembers where it is in every channel, as a real client
would; none reconnects behind the test's back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.checker import Record
from tests.servers import API_KEY, Server
from tests.waiting import PATIENCE, eventually

NUMBERS = itertools.count(1)

PUSHED = {"subscribe", "unsubscribe", "join", "leave", "message", "refresh"}
"""Kinds of pushes that are neither publications nor about the whole connection."""

TRIES = 100
"""Connections to open before giving up on a worker: with two workers, 100 misses in a row do not happen."""


class Place(NamedTuple):
    """Where a client is in a channel."""

    epoch: str
    offset: int


class Received(NamedTuple):
    """One publication as it came."""

    channel: str
    data: Any
    offset: int


class Refusal(Exception):
    """The server said no, with a code; None when it just hung up."""

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


class Reply(Refusal):
    """The server answered with an error."""

    def __init__(self, code: int, message: str, temporary: bool = False) -> None:
        super().__init__(code, message)
        self.message = message
        self.temporary = temporary


class Ended(Refusal):
    """The server ended the connection."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.reason = reason


class Reader:
    """What all receiving clients have in common: what came, where they are, and the records of it."""

    def __init__(self, server: Server, name: str = "", records: list[Record] | None = None) -> None:
        self.server = server
        self.name = name or f"client-{next(NUMBERS)}"
        self.reading = asyncio.Event()
        self.reading.set()
        self.records: list[Record] = records if records is not None else []
        self.received: list[Received] = []
        self.places: dict[str, Place] = {}
        self.gaps: list[dict[str, Any]] = []
        self.pushes: list[dict[str, Any]] = []
        self.node = ""
        self.local_port = 0
        self.connected: dict[str, Any] = {}
        self.disconnect: Ended | None = None

    def worker(self) -> int:
        """The pid of the worker that serves this client."""
        return self.server.worker_of(self.local_port)

    @property
    def gone(self) -> bool:
        """Whether the connection has ended."""
        raise AssertionError("each client says when it is gone")

    async def __aenter__(self) -> Self:
        raise AssertionError("each client says how it enters")

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave in good order."""
        raise AssertionError("each client says how it leaves")

    async def wait_ended(self, timeout: float = PATIENCE) -> Ended:
        """The code and reason that the server ended it with; code None when it ended without a word."""
        raise AssertionError("each client says how it learns of its end")

    def pause(self) -> None:
        """Stop reading; the kernel's buffers fill up, then the server's."""
        self.reading.clear()

    def resume(self) -> None:
        """Read again."""
        self.reading.set()

    def data(self, channel: str) -> list[Any]:
        """The payloads received on ``channel``, in order."""
        return [one.data for one in self.received if one.channel == channel]

    async def until(self, channel: str, count: int, timeout: float = PATIENCE) -> list[Any]:
        """Wait for ``count`` publications of ``channel`` and return all of them."""
        what = f"{count} publications of {channel}"
        await eventually(lambda: len(self.data(channel)) >= count, timeout, what)
        return self.data(channel)

    def take_subscribed(self, channel: str, result: dict[str, Any]) -> None:
        """Note a granted subscription and what was recovered with it."""
        recovered = bool(result.get("recovered"))
        place = Place(result.get("epoch", ""), result.get("offset", 0))
        self.note("subscribed", channel, place, recovered=recovered)
        self.places[channel] = place
        for publication in result.get("publications", ()):
            self.take_publication(channel, publication)

    def take_publication(self, channel: str, publication: dict[str, Any]) -> None:
        """Note one publication."""
        offset = publication.get("offset", 0)
        place = Place(self.places.get(channel, Place("", 0)).epoch, offset)
        data = publication.get("data")
        self.received.append(Received(channel, data, offset))
        self.note("recv", channel, place, id=data.get("id") if isinstance(data, dict) else None)
        if offset:
            self.places[channel] = place

    def take_change(self, push: dict[str, Any]) -> None:
        """Note a push that is no publication; a subscription that came or went moves this client."""
        self.pushes.append(push)
        channel = push.get("channel", "")
        if "subscribe" in push:
            self.take_subscribed(channel, push["subscribe"])
        elif "unsubscribe" in push:
            self.note("left", channel, self.places.get(channel, Place("", 0)))

    def take_bare(self, push: dict[str, Any]) -> None:
        """One push of a door that sends them bare."""
        if "connect" in push:
            self.connected = push["connect"]
            self.node = self.connected.get("node", "")
            for channel, result in self.connected.get("subs", {}).items():
                self.take_subscribed(channel, result)
        elif "disconnect" in push:
            self.disconnect = Ended(push["disconnect"]["code"], push["disconnect"]["reason"])
        elif "pub" in push:
            self.take_publication(push["channel"], push["pub"])
        else:
            assert PUSHED & push.keys(), f"an unknown push: {push}"
            self.take_change(push)

    def take_gap(self, gap: dict[str, Any]) -> None:
        """Note that something on a channel is missed for ever; this client goes on from the new position."""
        self.gaps.append(gap)
        place = Place(gap["epoch"], gap["offset"])
        self.note("gap", gap["channel"], place)
        self.places[gap["channel"]] = place

    def note(self, do: str, channel: str, place: Place, **more: Any) -> None:
        """Add a record."""
        record = {"do": do, "client": self.name, "channel": channel, "epoch": place.epoch, "offset": place.offset}
        self.records.append({**record, **more})

    def kinds(self, channel: str, *kinds: str) -> list[dict[str, Any]]:
        """The bodies of the pushes of one of these ``kinds`` on ``channel``, in order of arrival."""
        return [
            push[kind] for push in self.pushes for kind in kinds if push.get("channel", "") == channel and kind in push
        ]

    async def until_push(self, channel: str, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the ``count``-th push of ``kind`` on ``channel``; its body."""
        what = f"{count} x {kind} on {channel!r} in {self.pushes[-5:]}"
        await eventually(lambda: len(self.kinds(channel, kind)) >= count, what=what)
        body = self.kinds(channel, kind)[count - 1]
        assert isinstance(body, dict)
        return body

    def changes(self, channel: str) -> list[tuple[str, str]]:
        """Who came and went on ``channel`` as this client saw it: (``join`` or ``leave``, client id), in order."""
        return [
            (kind, push[kind]["info"]["client"])
            for push in self.pushes
            for kind in ("join", "leave")
            if push.get("channel", "") == channel and kind in push
        ]

    def leave_all(self) -> None:
        """Note that nothing more is expected on any channel until it is subscribed again."""
        for channel, place in self.places.items():
            self.note("left", channel, place)


def plug(port: int, receive_buffer: int | None = None) -> socket.socket:
    """A connected TCP socket, with a small receive buffer where asked."""
    plain = socket.socket()
    if receive_buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.settimeout(PATIENCE)
    try:
        plain.connect(("127.0.0.1", port))
    except OSError:
        plain.close()
        raise
    plain.setblocking(False)
    return plain


async def open_websocket(
    server: Server,
    path: str,
    *,
    receive_buffer: int | None = None,
    trust: ssl.SSLContext | None = None,
    host: str = "localhost",
    **options: Any,
) -> ClientConnection:
    """A WebSocket without extensions and without pings of its own; over TLS when ``trust`` is given."""
    uri = f"{'wss' if trust else 'ws'}://{host}:{server.port}{path}"
    options = {"compression": None, "ping_interval": None, "max_size": None, "proxy": None, **options}
    if trust is not None:
        options["ssl"] = trust
    return await connect(uri, sock=plug(server.port, receive_buffer), open_timeout=PATIENCE, **options)


class SocketReader(Reader):
    """A reader over one WebSocket; ``take`` is called with every message."""

    socket: ClientConnection

    def __init__(self, server: Server, name: str = "", records: list[Record] | None = None) -> None:
        super().__init__(server, name, records)
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    def begin(self, opened: ClientConnection) -> None:
        """Start reading from ``opened``."""
        self.socket = opened
        self.local_port = opened.local_address[1]
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        """Take messages until the connection ends, and stand still while paused."""
        try:
            while True:
                await self.reading.wait()
                await self.take(str(await self.socket.recv(decode=True)))
        except ConnectionClosed as closed:
            close = closed.rcvd
            self.ended.set_result(Ended(close.code, close.reason) if close else Ended(None))

    async def take(self, message: str) -> None:
        """Deal with one message."""
        raise AssertionError("a reader says what it does with a message")

    @property
    def gone(self) -> bool:
        return self.ended.done()

    async def wait_ended(self, timeout: float = PATIENCE) -> Ended:
        """The code and reason that the server closed with; code None when it closed without a word."""
        return await asyncio.wait_for(asyncio.shield(self.ended), timeout)

    async def close(self) -> None:
        """Close in good order; a failure of the reading task is raised here."""
        self.reading.set()
        await self.socket.close()
        await self.finish()

    async def abort(self) -> None:
        """Vanish without a close frame."""
        self.reading.set()
        self.socket.transport.abort()
        await self.finish()

    async def finish(self) -> None:
        """Wait for the reading task."""
        if self.task is not None:
            await asyncio.wait_for(self.task, PATIENCE)


class Waiting(NamedTuple):
    """A command that has no reply yet."""

    method: str
    channel: str
    future: asyncio.Future[dict[str, Any]]


class SdkClient(SocketReader):
    """The Centrifuge JSON protocol over one WebSocket.

    What the server pushes is in ``pushes``, publications also in ``received``; ``connected`` is the connect result.
    """

    def __init__(self, server: Server, *, token: str = "", records: list[Record] | None = None, **options: Any) -> None:
        super().__init__(server, options.pop("name", ""), records)
        self.token = token
        self.connect_fields: dict[str, Any] = options.pop("connect", {})
        self.path = options.pop("path", "/connection/websocket")
        self.options = options
        self.pings = 0
        self.answer_pings = True
        self.waiting: dict[int, Waiting] = {}
        self.ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self.open()
        fields = {"token": self.token} if self.token else {}
        try:
            self.connected = await self.call("connect", {**fields, **self.connect_fields})
        except BaseException:
            await self.close()
            raise
        self.node = self.connected.get("node", "")
        for channel, result in self.connected.get("subs", {}).items():
            self.take_subscribed(channel, result)
        return self

    async def open(self) -> Self:
        """Open the socket without saying anything yet."""
        self.begin(await open_websocket(self.server, self.path, **self.options))
        return self

    async def read(self) -> None:
        await super().read()
        for waiting in self.waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(self.ended.result())

    async def take(self, message: str) -> None:
        for line in message.removesuffix("\n").split("\n"):
            await self.take_line(json.loads(line))

    async def take_line(self, line: dict[str, Any]) -> None:
        """One reply, push or ping."""
        if not line:
            self.pings += 1
            if self.connected.get("pong") and self.answer_pings:
                await self.socket.send("{}")
        elif "id" in line:
            self.take_reply(line)
        else:
            self.take_push(line["push"])

    def take_push(self, push: dict[str, Any]) -> None:
        """One push; an unsubscribe from the server says that something was missed, or that nothing more comes."""
        self.pushes.append(push)
        channel = push.get("channel", "")
        if "pub" in push:
            self.take_publication(channel, push["pub"])
        elif "subscribe" in push:
            self.take_subscribed(channel, push["subscribe"])
        elif "unsubscribe" in push:
            self.note("left", channel, self.places.get(channel, Place("", 0)))

    def take_reply(self, line: dict[str, Any]) -> None:
        """A reply. What it changes is noted before anything behind it in the stream is looked at."""
        method, channel, future = self.waiting.pop(line["id"])
        if "error" not in line and method == "subscribe":
            self.take_subscribed(channel, line[method])
        elif "error" not in line and method == "unsubscribe":
            self.note("left", channel, self.places.get(channel, Place("", 0)))
        if not future.done():
            future.set_result(line)

    def command(self, method: str, fields: dict[str, Any]) -> tuple[str, asyncio.Future[dict[str, Any]]]:
        """A command's text, and the future of its reply line."""
        number = next(self.ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self.ended.done():
            future.set_exception(self.ended.result())
        self.waiting[number] = Waiting(method, fields.get("channel", ""), future)
        return json.dumps({"id": number, method: fields}), future

    async def call(self, method: str, fields: dict[str, Any], timeout: float = PATIENCE) -> dict[str, Any]:
        """Send one command and return its result; Reply for an error, Ended when the connection ended first."""
        text, future = self.command(method, fields)
        with suppress(ConnectionClosed):
            await self.socket.send(text)
        return await self.result(method, future, timeout)

    async def result(
        self, method: str, future: asyncio.Future[dict[str, Any]], timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """The result in the reply of ``command``; Reply for an error, Ended when the connection ended first."""
        line = await asyncio.wait_for(asyncio.shield(future), timeout)
        if "error" in line:
            error = line["error"]
            raise Reply(error["code"], error["message"], error.get("temporary", False))
        result = line[method]
        assert isinstance(result, dict)
        return result

    async def subscribe(self, channel: str, *, since: Place | None = None, **fields: Any) -> dict[str, Any]:
        """Subscribe, from ``since`` when given; the result."""
        if since is not None:
            fields |= {"recover": True, "epoch": since.epoch, "offset": since.offset}
        return await self.call("subscribe", {"channel": channel, **fields})

    async def resubscribe(self, channel: str, **fields: Any) -> dict[str, Any]:
        """Subscribe from where this client is, as an SDK does by itself."""
        return await self.subscribe(channel, since=self.places[channel], **fields)

    async def unsubscribe(self, channel: str) -> dict[str, Any]:
        """Leave; what comes for the channel until it is subscribed again would be a mistake."""
        return await self.call("unsubscribe", {"channel": channel})

    async def publish(self, channel: str, data: Any, **fields: Any) -> dict[str, Any]:
        """Publish; the result."""
        return await self.call("publish", {"channel": channel, "data": data, **fields})

    async def presence(self, channel: str) -> dict[str, Any]:
        """Who is there, by client id."""
        found = (await self.call("presence", {"channel": channel}))["presence"]
        assert isinstance(found, dict)
        return found

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        """How many (connections, users) are there."""
        result = await self.call("presence_stats", {"channel": channel})
        return result["num_clients"], result["num_users"]

    async def refresh(self, token: str) -> dict[str, Any]:
        """Show a new connection token; the result."""
        return await self.call("refresh", {"token": token})

    async def sub_refresh(self, channel: str, token: str) -> dict[str, Any]:
        """Show a new subscription token; the result."""
        return await self.call("sub_refresh", {"channel": channel, "token": token})

    async def history(self, channel: str, **fields: Any) -> dict[str, Any]:
        """Read history; the result."""
        return await self.call("history", {"channel": channel, **fields})


class PlainSocket(SocketReader):
    """``/ws``: every message is one object, and nothing is ever sent."""

    def __init__(
        self,
        server: Server,
        channels: list[str],
        *,
        since: str = "",
        records: list[Record] | None = None,
        query: str = "",
        **options: Any,
    ) -> None:
        super().__init__(server, options.pop("name", ""), records)
        self.path = stream_path("/ws", channels, query, since)
        self.options = options
        self.cursor = ""
        self.messages: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self.begin(await open_websocket(self.server, self.path, **self.options))
        await eventually(lambda: self.connected or self.ended.done(), what="the connect message")
        if not self.connected:
            raise self.ended.result()
        return self

    async def take(self, message: str) -> None:
        line = json.loads(message)
        self.messages.append(line)
        self.cursor = line.get("cursor", self.cursor)
        if "connect" in line:
            self.connected = line["connect"]
            self.node = self.connected["node"]
            for channel, result in self.connected["subs"].items():
                self.take_subscribed(channel, result)
        elif "gap" in line:
            self.take_gap({"channel": line["channel"], **line["gap"]})
        elif "pub" in line:
            self.take_publication(line["channel"], line["pub"])
        else:
            assert PUSHED & line.keys(), f"an unknown message: {message}"
            self.take_change(line)


class UniSocket(SocketReader):
    """``/connection/uni_websocket``: bare pushes, after one ConnectRequest in the URL or as the first message."""

    def __init__(self, server: Server, request: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(server, options.pop("name", ""), options.pop("records", None))
        self.request = request or {}
        self.path = options.pop("path", "/connection/uni_websocket")
        self.by_message: bool = options.pop("by_message", False)
        self.options = options
        self.pings = 0

    async def __aenter__(self) -> Self:
        text = json.dumps(self.request)
        path = self.path if self.by_message else with_query(self.path, f"cf_connect={quote(text, safe='')}")
        self.begin(await open_websocket(self.server, path, **self.options))
        if self.by_message:
            await self.socket.send(text)
        await eventually(lambda: self.connected or self.ended.done(), what="the connect push")
        if not self.connected:
            await self.close()
            raise self.ended.result()
        return self

    async def take(self, message: str) -> None:
        for line in message.split("\n"):
            push = json.loads(line)
            self.pings += not push
            if push:
                self.take_bare(push)


def with_query(path: str, query: str) -> str:
    """``path`` with ``query`` added to what it has."""
    return f"{path}{'&' if '?' in path else '?'}{query}"


def stream_path(door: str, channels: list[str], query: str = "", since: str = "") -> str:
    """The path of ``/ws`` or ``/sse`` for ``channels``; ``query`` is added as it is."""
    parts = [f"channel={quote(channel, safe='')}" for channel in channels]
    parts += [query] if query else []
    parts += [f"since={quote(since, safe='')}"] if since else []
    return f"{door}?{'&'.join(parts)}"


class Response(NamedTuple):
    """One HTTP response; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of a response; IncompleteReadError when the peer closes before."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def read_response(reader: asyncio.StreamReader) -> Response:
    """One whole response with a known length, or the rest of the connection."""
    status, headers = await read_head(reader)
    if status in (204, 304):
        return Response(status, headers, b"")
    body = reader.readexactly(int(headers["content-length"])) if "content-length" in headers else reader.read()
    return Response(status, headers, await asyncio.wait_for(body, PATIENCE))


class Http:
    """One HTTP/1.1 connection to the public port, kept open between requests."""

    def __init__(self, server: Server, trust: ssl.SSLContext | None = None) -> None:
        self.server = server
        self.trust = trust
        self.local_port = 0

    async def __aenter__(self) -> Self:
        name = "localhost" if self.trust else None
        self.reader, self.writer = await asyncio.open_connection(
            sock=plug(self.server.port), ssl=self.trust, server_hostname=name
        )
        self.local_port = self.writer.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response:
        """Send one request and return the response."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return await read_response(self.reader)

    def worker(self) -> int:
        """The pid of the worker that serves this connection."""
        return self.server.worker_of(self.local_port)

    async def leave_worker(self, pid: int) -> None:
        """Reconnect until some other worker than ``pid`` serves this connection."""
        for _ in range(TRIES):
            if self.worker() != pid:
                return
            await self.__aexit__()
            await self.__aenter__()
        raise AssertionError(f"no connection to another worker in {TRIES} tries")


class Api(Http):
    """The server API over one kept connection; ``prefix`` and ``key`` choose a tenant."""

    def __init__(
        self, server: Server, trust: ssl.SSLContext | None = None, *, key: str = API_KEY, prefix: str = ""
    ) -> None:
        super().__init__(server, trust)
        self.key = key
        self.prefix = prefix

    async def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """Call ``/api/<method>``; the result, or Reply for an error."""
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        response = await self.request("POST", f"{self.prefix}/api/{method}", json.dumps(fields).encode(), headers)
        assert response.status == 200, response
        answer = response.json()
        if "error" in answer:
            raise Reply(answer["error"]["code"], answer["error"]["message"])
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    async def publish(self, channel: str, data: Any, **fields: Any) -> Place:
        """Publish; where the publication stands."""
        result = await self.call("publish", channel=channel, data=data, **fields)
        return Place(result.get("epoch", ""), result.get("offset", 0))


class Client(Protocol):
    """What ``on_worker`` needs of a client."""

    node: str

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *details: object) -> Any: ...


C = TypeVar("C", bound=Client)


async def on_worker(make: Callable[[], C], wanted: Callable[[str], bool]) -> C:
    """An entered client on a worker whose name ``wanted`` accepts; the kernel chooses by hash, so we try again."""
    for _ in range(TRIES):
        client = make()
        await client.__aenter__()
        if wanted(client.node):
            return client
        await client.__aexit__(None, None, None)
    raise AssertionError(f"no connection to the wanted worker in {TRIES} tries")


async def publish_all(publish: Callable[[Any], Awaitable[Any]], count: int, start: int = 0) -> list[Any]:
    """Publish ``{"n": start}``, ``{"n": start+1}``, ... one after the other; the payloads."""
    payloads = [{"n": number} for number in range(start, start + count)]
    for payload in payloads:
        await publish(payload)
    return payloads
