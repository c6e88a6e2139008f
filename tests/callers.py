"""Callers of the server API over a store that answers what a test wants, for what a real store cannot be made to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qs

from tornado.httputil import HTTPHeaders

from rt import errors
from rt.broker import Broker, Published, PublishOptions, Stats
from rt.config import Channel, Config, HttpApi, Namespace
from rt.delivery.limits import Limits
from rt.metrics import Metrics
from rt.protocol.address import Proxies
from rt.protocol.publication import Page, Position, Publication
from rt.web.api import Api
from rt.web.request import Request

DOWN = errors.StoreError("not connected", definite=True)
CONFIG = Config(
    http_api=HttpApi(key="kéy"),
    channel=Channel(
        namespaces=(
            Namespace(name="live", history_size=0),
            Namespace(name="objects", publication_data_format="json_object"),
            Namespace(name="room", presence=True),
        )
    ),
)


class FakeRequest:
    """A request as the router hands it over, which keeps what it is answered."""

    def __init__(
        self, path: str, body: bytes, *, method: str = "POST", headers: Sequence[tuple[str, str]] = (), query: str = ""
    ) -> None:
        self.path, self.body, self.method = path, body, method
        self.raw_query = query
        self.headers = HTTPHeaders()
        for name, value in headers:
            self.headers.add(name, value)
        self.remote_ip = "192.0.2.1"
        self.fields: Sequence[tuple[str, str]] = ()
        self.answers: list[tuple[int, bytes]] = []
        self.sent: dict[str, str] = {}

    @property
    def query(self) -> dict[str, list[str]]:
        """As of the real one: ValueError when it is not UTF-8."""
        return parse_qs(self.raw_query, keep_blank_values=True, errors="strict")

    def address(self, proxies: Proxies) -> str:
        """As of the real one."""
        return proxies.client(self.remote_ip, self.headers.get(proxies.header))

    def api_key(self) -> bytes | None:
        """As of the real one."""
        return Request.api_key(cast("Request", self))

    def reply(
        self,
        status: int,
        body: bytes = b"",
        content_type: str | None = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Keep the answer."""
        self.answers.append((status, body))
        self.sent = dict(headers) | ({"Content-Type": content_type} if content_type else {})


class FakeBroker:
    """A store in a list, whose answers come in a later turn of the loop, or an error that a test sets."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, PublishOptions]] = []
        self.reads: list[tuple[Any, ...]] = []
        self.removed: list[str] = []
        self.error: BaseException | None = None
        self.page = Page(Position("x", 7), [Publication(b'{"data":{"n":7}}', "x", 7)])
        self.members = {"c1": b'{"user":"42","client":"c1","conn_info":{"n":1}}', "c2": b'{"user":"","client":"c2"}'}
        self.counts = [b'{"a":1,"room:b":2}', b'{"a":3}']
        self.sessions: dict[str, dict[str, bytes]] = {}
        self.commands: list[bytes] = []
        self.written: list[tuple[Any, ...]] = []
        self.order: list[str] = []
        self.full = 0  # how many of the next writes find the session full
        self.nodes = [b'{"uid":"1","name":"a","num_clients":3}', b'{"name":"no uid"}', b"junk"]
        self.open = 0
        self.most_open = 0

    def _later(self, result: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        loop.call_soon(self._answer, future, result)
        return future

    def _answer(self, future: asyncio.Future[Any], result: Any) -> None:
        self.open -= 1
        if isinstance(self.error, asyncio.CancelledError):
            future.cancel()
        elif self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(result)

    def publish(self, channel: str, body: bytes, options: PublishOptions) -> asyncio.Future[Published]:
        """Offsets are counted over all channels; without history there are none."""
        self.published.append((channel, body, options))
        position = Position("x", len(self.published)) if options.history_size else Position("", 0)
        return self._later(Published(position, False))

    def history(self, channel: str, **options: Any) -> asyncio.Future[Page]:
        """The same page, whatever is asked."""
        self.reads.append((channel, options))
        return self._later(self.page)

    def position(self, channel: str, meta_ttl: float) -> asyncio.Future[Position]:
        """The top of the page."""
        return self._later(self.page.top)

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        """Remember that it was asked."""
        self.removed.append(channel)
        return self._later(None)

    def presence(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        """The same members in every channel."""
        return self._later(self.members)

    def presence_stats(self, channel: str) -> asyncio.Future[Stats]:
        """As many as there are members, each another user."""
        return self._later(Stats(len(self.members), len(self.members)))

    def session(self, user: str) -> asyncio.Future[dict[str, bytes]]:
        """What a test has put there."""
        self.order.append("read")
        return self._later(self.sessions.get(user, {}))

    def update_session(
        self, user: str, changes: Mapping[str, bytes], remove: Sequence[str], ttl: float
    ) -> asyncio.Future[None]:
        """Remember what was to be written."""
        self.order.append("write")
        self.written.append((user, dict(changes), sorted(remove), ttl))
        if not self.full:
            return self._later(None)
        self.full -= 1
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(errors.Refused(errors.LIMIT_EXCEEDED))
        return refused

    def command(self, body: bytes) -> asyncio.Future[None]:
        """Remember what all workers were told."""
        self.order.append("command")
        self.commands.append(body)
        return self._later(None)

    def survey(self, body: bytes) -> asyncio.Future[list[bytes]]:
        """What two workers say, whatever is asked."""
        self.commands.append(body)
        return self._later(self.counts)

    async def workers(self) -> list[bytes]:
        """One worker, and two entries that make no sense."""
        return cast("list[bytes]", await self._later(self.nodes))


def make_api(config: Config, broker: object, metrics: Metrics) -> Api:
    """The API of a worker on this store, with the limits of the config; to be made in a running loop."""
    own, loop = metrics.of("default"), asyncio.get_running_loop()
    limits = Limits(config.limits, store=cast(Broker, broker), metrics=own, loop=loop, tenant="default")
    return Api(config, cast(Broker, broker), own, limits)


class Caller:
    """Calls the API of one store, as a backend would."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.config = config
        self.broker = FakeBroker()
        self.metrics = Metrics()

    def call(self, name: str, params: Any = None, **options: Any) -> Any:
        """The decoded body of a successful call."""
        request = self.request(name, params, **options)
        assert request.answers[0][0] == 200
        assert request.sent["Content-Type"] == "application/json"
        return json.loads(request.answers[0][1])

    def request(self, name: str, params: Any = None, *, key: str | None = "kéy", **options: Any) -> FakeRequest:
        """The request after it was answered, which must happen exactly once."""
        body = params if isinstance(params, bytes) else json.dumps({} if params is None else params).encode()
        headers = list(options.pop("headers", ()))
        if key is not None:
            headers.append(("X-API-Key", key.encode().decode("latin-1")))
        request = FakeRequest(options.pop("path", f"/api/{name}"), body, headers=headers, **options)

        async def run() -> None:
            api = make_api(self.config, self.broker, self.metrics)
            api.door(cast("Request", request))
            for _ in range(5000):
                if request.answers:
                    break
                await asyncio.sleep(0)

        asyncio.run(run())
        assert len(request.answers) == 1
        return request


def with_api(**options: Any) -> Config:
    """The usual config with another ``http_api``."""
    return Config(http_api=HttpApi(key="kéy", **options), channel=CONFIG.channel)
