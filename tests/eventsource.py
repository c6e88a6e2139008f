"""An EventSource: the parser of the HTML standard's server-sent events, over a plain socket."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from tests.checker import Record
from tests.clients import PUSHED, Ended, Reader, Response, plug, read_head, stream_path, with_query
from tests.servers import Server
from tests.waiting import PATIENCE, eventually


class Event(NamedTuple):
    """One dispatched event."""

    kind: str
    data: str
    id: str


class Parser:
    """Bytes in, events out, as the HTML standard (section 9.2.6, "Interpreting an event stream") says.

    ``last_id`` and ``retry`` (ms) are what the stream said last; ``comments`` counts comment lines.
    """

    def __init__(self) -> None:
        self.pending = b""
        self.first = True
        self.kind = ""
        self.lines: list[str] = []
        self.id_buffer = ""
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0

    def feed(self, data: bytes) -> list[Event]:
        """Take some bytes; the events that they complete."""
        self.pending += data
        events = []
        while (line := self.next_line()) is not None:
            event = self.take_line(line)
            events += [event] if event else []
        return events

    def next_line(self) -> str | None:
        """The next whole line. A CR at the very end may be half a CRLF, so it waits for one more byte."""
        ends = [index for index in (self.pending.find(b"\r"), self.pending.find(b"\n")) if index >= 0]
        if not ends:
            return None
        end = min(ends)
        after = end + 1
        if self.pending[end : end + 1] == b"\r":
            if after == len(self.pending):
                return None
            after += self.pending[after : after + 1] == b"\n"
        line = self.pending[:end].decode()
        self.pending = self.pending[after:]
        if self.first:
            line = line.removeprefix("\ufeff")
            self.first = False
        return line

    def take_line(self, line: str) -> Event | None:
        """One field, one comment, or the empty line that dispatches."""
        if not line:
            return self.dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments += 1
        elif name == "event":
            self.kind = value
        elif name == "data":
            self.lines.append(value)
        elif name == "id" and "\0" not in value:
            self.id_buffer = value
        elif name == "retry" and value.isdecimal() and value.isascii():
            self.retry = int(value)
        return None

    def dispatch(self) -> Event | None:
        """The event that the lines so far make; none when there was no data."""
        self.last_id = self.id_buffer
        event = Event(self.kind or "message", "\n".join(self.lines), self.last_id) if self.lines else None
        self.kind = ""
        self.lines = []
        return event


class EventSource(Reader):
    """``/sse``: one stream. ``last_event_id`` is sent as a header, ``since`` in the query."""

    def __init__(
        self,
        server: Server,
        channels: list[str],
        *,
        since: str = "",
        last_event_id: str = "",
        records: list[Record] | None = None,
        query: str = "",
        **options: Any,
    ) -> None:
        super().__init__(server, options.pop("name", ""), records)
        self.path = stream_path("/sse", channels, query, since)
        self.headers: dict[str, str] = {"Accept": "text/event-stream", **options.pop("headers", {})}
        if last_event_id:
            self.headers["Last-Event-ID"] = last_event_id
        self.receive_buffer: int | None = options.pop("receive_buffer", None)
        self.trust: ssl.SSLContext | None = options.pop("trust", None)
        assert not options, options
        self.parser = Parser()
        self.events: list[Event] = []
        self.response: Response | None = None
        self.over = False
        self.body: bytes | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def cursor(self) -> str:
        """The last event id, to come back with."""
        return self.parser.last_id

    @property
    def gone(self) -> bool:
        return self.over

    async def __aenter__(self) -> Self:
        """Open the stream; Ended with the HTTP status when it is refused."""
        name = "localhost" if self.trust else None
        self.reader, self.writer = await asyncio.open_connection(
            sock=plug(self.server.port, self.receive_buffer), ssl=self.trust, server_hostname=name, limit=4096
        )
        self.local_port = self.writer.get_extra_info("sockname")[1]
        headers = {"Host": "localhost", **self.headers}
        if self.body is not None:
            headers |= {"Content-Length": str(len(self.body))}
        lines = [f"{'GET' if self.body is None else 'POST'} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b""))
        status, headers = await read_head(self.reader)
        self.response = Response(status, headers, b"")
        if status != 200:
            await self.__aexit__()
            raise Ended(status)
        self.task = asyncio.create_task(self.read())
        await eventually(lambda: self.connected or self.over, what="the connect event")
        return self

    async def read(self) -> None:
        """Take events until the stream ends, and stand still while paused."""
        assert self.response is not None
        left = int(self.response.headers.get("content-length", 1 << 62))
        with suppress(ConnectionError):
            while left:
                await self.reading.wait()
                data = await self.reader.read(min(left, 4096))
                left -= len(data)
                if not data:
                    break
                for event in self.parser.feed(data):
                    self.take(event)
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
        self.over = True

    def take(self, event: Event) -> None:
        """One event."""
        self.events.append(event)
        body = json.loads(event.data)
        if event.kind == "connect":
            self.connected = body
            self.node = body["node"]
            for channel, result in body["subs"].items():
                self.take_subscribed(channel, result)
        elif event.kind == "gap":
            self.take_gap(body)
        elif event.kind == "disconnect":
            self.disconnect = Ended(body["code"], body["reason"])
        elif event.kind == "message":
            self.take_publication(body["channel"], body["pub"])
        else:
            assert event.kind in PUSHED, event
            self.take_change({"channel": body.pop("channel"), event.kind: body})

    async def close(self) -> None:
        """Leave."""
        self.reading.set()
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
        if self.task is not None:
            await asyncio.wait_for(self.task, PATIENCE)

    async def wait_ended(self, timeout: float = PATIENCE) -> Ended:
        """The code and reason that the stream ended with; code None when it ended without a word."""
        await eventually(lambda: self.over, timeout, "the stream ends")
        return self.disconnect or Ended(None)


class UniStream(EventSource):
    """``/connection/uni_sse``: bare pushes as events, after a ConnectRequest in the URL, or in a POST's body."""

    def __init__(
        self, server: Server, request: dict[str, Any] | None = None, *, by_post: bool = False, **options: Any
    ) -> None:
        path = options.pop("path", "/connection/uni_sse")
        super().__init__(server, [], **options)
        text = json.dumps(request or {})
        self.path = path if by_post else with_query(path, f"cf_connect={quote(text, safe='')}")
        self.body = text.encode() if by_post else None
        self.pings = 0

    def take(self, event: Event) -> None:
        self.events.append(event)
        assert event.kind == "message", event
        push = json.loads(event.data)
        self.pings += not push
        if push:
            self.take_bare(push)
