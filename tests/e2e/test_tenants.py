"""Several tenants in one server, on stores of their own: nothing of one ever reaches another, and no fault either."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import InvalidStatus

from tests.clients import Api, Ended, Http, PlainSocket, Reader, Refusal, Reply, SdkClient, UniSocket
from tests.eventsource import EventSource, UniStream
from tests.servers import OPEN, ORIGIN, SEEN, STREAM, Server
from tests.stores import DURABLE, Store
from tests.tokens import KEY, connection_token, subscription_token
from tests.waiting import eventually

DOORS = ("sdk", "ws", "sse", "uni_websocket", "uni_sse")


class Tenant(NamedTuple):
    """How to be served as one of the tenants below."""

    name: str
    key: str
    api_key: str

    @property
    def prefix(self) -> str:
        """The path in front of its doors."""
        return f"/t/{self.name}"

    @property
    def host(self) -> str:
        """Its host name."""
        return f"{self.name}.example.com"

    @property
    def issuer(self) -> str:
        """Who signs its tokens."""
        return f"https://id.{self.name}.example.com"

    def token(self, user: str = "42", **claims: Any) -> str:
        """A connection token of this tenant."""
        return connection_token(user, key=self.key, iss=self.issuer, **claims)

    def api(self, server: Server) -> Api:
        """Its API."""
        return Api(server, key=self.api_key, prefix=self.prefix)

    def sdk(self, server: Server, **options: Any) -> SdkClient:
        """A client of its SDK door."""
        options.setdefault("token", self.token())
        return SdkClient(server, path=f"{self.prefix}/connection/websocket", **options)


RED = Tenant("red", "the-key-of-the-red-tenant-0123456789abcdef", "the red tenant's api key")
BLUE = Tenant("blue", "the-key-of-the-blue-tenant-0123456789abcde", "the blue tenant's api key")
GREEN = Tenant("green", "the-key-of-the-green-tenant-0123456789abcd", "the green tenant's api key")
FAR = Tenant("far", "the-key-of-the-far-tenant-0123456789abcdef0", "the far tenant's api key")


ROOM = {"name": "room", **STREAM, **OPEN, **SEEN}


def section(tenant: Tenant, **changes: Any) -> dict[str, Any]:
    """A tenant as the config file has it."""
    return {
        "name": tenant.name,
        "hosts": [tenant.host],
        "issuers": [tenant.issuer],
        "client": {"token": {"hmac_secret_key": tenant.key, "hmac_previous_secret_key": ""}},
        "http_api": {"key": tenant.api_key},
        **changes,
    }


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, Store]]:
    """A store of each of the first two tenants."""
    with Store(options=DURABLE) as red, Store(options=DURABLE) as blue:
        yield {"red": red, "blue": blue}


@pytest.fixture(scope="module")
def shared(stores: dict[str, Store]) -> Iterator[Server]:
    """Two workers that serve red and blue on stores of their own, and green on blue's store; far lives elsewhere."""
    blue, red = stores["blue"].url, stores["red"].url
    changes: dict[str, Any] = {
        "server": {"region": "here"},
        "redis": {"url": blue, "probe_interval": "500ms"},
        "client": {
            "allow_anonymous_connect_without_token": False,
            "token": {"hmac_secret_key": "", "hmac_previous_secret_key": ""},
        },
        "http_api": {"key": ""},
        "channel": {
            "without_namespace": {**STREAM, **OPEN},
            "namespaces": [ROOM, {"name": "closed", **STREAM}],
        },
        "tenants": [
            section(RED, redis={"url": red}, region="here", limits={"connections": {"total": 60}}),
            section(BLUE),
            section(GREEN, channel={"namespaces": [ROOM, {"name": "only-green", **STREAM, **OPEN}]}),
            section(FAR, region="there"),
        ],
    }
    with Server(changes) as running:
        yield running


def reader(door: str, server: Server, tenant: Tenant, channel: str, **claims: Any) -> Reader:
    """A reader of ``channel`` at a door of ``tenant``."""
    token = tenant.token(**claims)
    match door:
        case "sdk":
            return tenant.sdk(server, token=token)
        case "ws":
            plain = PlainSocket(server, [channel], query=f"token={token}")
            plain.path = tenant.prefix + plain.path
            return plain
        case "sse":
            stream = EventSource(server, [channel], query=f"token={token}")
            stream.path = tenant.prefix + stream.path
            return stream
        case "uni_websocket":
            request = {"token": token, "subs": {channel: {}}}
            return UniSocket(server, request, path=f"{tenant.prefix}/connection/uni_websocket")
        case "uni_sse":
            request = {"token": token, "subs": {channel: {}}}
            return UniStream(server, request, path=f"{tenant.prefix}/connection/uni_sse")
    raise AssertionError(door)


async def enter(door: str, server: Server, tenant: Tenant, channel: str, **claims: Any) -> Reader:
    """Come in and be in ``channel``."""
    one = reader(door, server, tenant, channel, **claims)
    await one.__aenter__()
    if isinstance(one, SdkClient):
        await one.subscribe(channel)
    return one


# Nothing crosses


@pytest.mark.parametrize("pair", [(RED, BLUE), (BLUE, GREEN)], ids=["two stores", "one store"])
@pytest.mark.parametrize("door", DOORS)
def test_the_same_name_is_not_the_same_channel(
    shared: Server, channel: str, door: str, pair: tuple[Tenant, Tenant]
) -> None:
    """What one tenant publishes, only its own readers of that name see, each in a stream of its own."""

    async def run() -> None:
        one, other = pair
        async with one.api(shared) as api, other.api(shared) as other_api:
            mine = await enter(door, shared, one, channel)
            theirs = await enter(door, shared, other, channel)
            place = await api.publish(channel, "mine")
            await mine.until(channel, 1)
            other_place = await other_api.publish(channel, "theirs")
            assert await theirs.until(channel, 1) == ["theirs"]
            await api.publish(channel, "mine too")
            assert await mine.until(channel, 2) == ["mine", "mine too"]
            assert (place.offset, other_place.offset) == (1, 1) and place.epoch != other_place.epoch
            assert theirs.data(channel) == ["theirs"]
            page = await other_api.call("history", channel=channel, limit=10)
            assert [publication["data"] for publication in page["publications"]] == ["theirs"]
            await other_api.call("history_remove", channel=channel)
            assert len((await api.call("history", channel=channel, limit=10))["publications"]) == 2
            await mine.close()
            await theirs.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_a_token_opens_no_other_tenant(shared: Server, channel: str, door: str) -> None:
    """A token of one tenant is worth nothing at the doors of another, whatever it says about itself."""
    stolen = [RED.token(), connection_token("42", key=RED.key, iss=BLUE.issuer), connection_token("42", key=RED.key)]

    async def run() -> None:
        for token in stolen:
            one = reader(door, shared, BLUE, channel)
            if isinstance(one, SdkClient):
                one.token = token
            elif isinstance(one, UniSocket):
                one.request["token"] = token
            elif isinstance(one, UniStream):
                one = UniStream(shared, {"token": token}, path=f"{BLUE.prefix}/connection/uni_sse")
            else:
                assert isinstance(one, PlainSocket | EventSource)
                one.path = one.path.rpartition("token=")[0] + f"token={token}"
            assert await turned_away(one) in (3500, 401)

    asyncio.run(run())


async def turned_away(one: Reader) -> int | None:
    """The code, of HTTP or of a close, with which ``one`` is not let in."""
    try:
        await one.__aenter__()
    except Refusal as refusal:
        return refusal.code
    except InvalidStatus as refused:
        return refused.response.status_code
    ended = await one.wait_ended()
    await one.close()
    return ended.code


def test_a_subscription_token_opens_no_other_tenant(shared: Server, channel: str) -> None:
    """Neither does a subscription token."""

    async def run() -> None:
        where = f"closed:{channel}"
        async with BLUE.sdk(shared) as client:
            with pytest.raises(Reply, match="^103 "):
                await client.subscribe(where, token=subscription_token(where, key=RED.key))
            await client.subscribe(where, token=subscription_token(where, key=BLUE.key))

    asyncio.run(run())


def test_an_api_key_opens_no_other_tenant(shared: Server, channel: str) -> None:
    """The key of one tenant is refused at the API of another, and the top level has none at all."""

    async def run() -> None:
        async with Http(shared) as http:
            for tenant, key in ((BLUE, RED.api_key), (RED, BLUE.api_key), (BLUE, ""), (BLUE, KEY)):
                headers = {"X-API-Key": key, "Content-Type": "application/json"}
                body = json.dumps({"channel": channel, "data": 1}).encode()
                response = await http.request("POST", f"{tenant.prefix}/api/publish", body, headers)
                assert (response.status, response.body) == (401, b"")
        async with BLUE.api(shared) as api:
            assert (await api.call("history", channel=channel))["offset"] == 0

    asyncio.run(run())


@pytest.mark.parametrize("door", ["sdk", "ws", "sse", "uni_sse"])
def test_a_cursor_brings_nothing_of_another_tenant(shared: Server, channel: str, door: str) -> None:
    """A position of one tenant's stream is unknown to another's of the same name: a gap, not somebody else's data."""

    async def run() -> None:
        async with RED.api(shared) as red, BLUE.api(shared) as blue:
            for number in range(3):
                await red.publish(channel, f"red {number}")
                await blue.publish(channel, f"blue {number}")
            place = await red.publish(channel, "red 3")
            stolen = f"{place.epoch}.1"
            one = reader(door, shared, BLUE, channel)
            if isinstance(one, SdkClient):
                await one.__aenter__()
                result = await one.subscribe(channel, recover=True, epoch=place.epoch, offset=1)
                assert (result["was_recovering"], result.get("recovered")) == (True, None)
            else:
                assert isinstance(one, EventSource | PlainSocket)
                if isinstance(one, EventSource):
                    one.headers["Last-Event-ID"] = f"{channel}={stolen}" if door == "uni_sse" else stolen
                else:
                    one.path += f"&since={stolen}"
                await one.__aenter__()
                assert not one.connected["subs"][channel].get("recovered")
            await blue.publish(channel, "blue 3")
            assert await one.until(channel, 1) == ["blue 3"]
            await one.close()

    asyncio.run(run())


@pytest.mark.parametrize("pair", [(RED, BLUE), (BLUE, GREEN)], ids=["two stores", "one store"])
def test_an_idempotency_key_is_its_tenants_own(shared: Server, channel: str, pair: tuple[Tenant, Tenant]) -> None:
    """The same key at two tenants is two publications; at one it is one."""

    async def run() -> None:
        one, other = pair
        async with one.api(shared) as api, other.api(shared) as other_api:
            first = await api.publish(channel, "one", idempotency_key="k")
            assert await api.publish(channel, "one", idempotency_key="k") == first
            second = await other_api.publish(channel, "other", idempotency_key="k")
            assert second.epoch != first.epoch
            page = await other_api.call("history", channel=channel, limit=10)
            assert [publication["data"] for publication in page["publications"]] == ["other"]

    asyncio.run(run())


@pytest.mark.parametrize("pair", [(RED, BLUE), (BLUE, GREEN)], ids=["two stores", "one store"])
def test_presence_and_joins_are_their_tenants_own(shared: Server, channel: str, pair: tuple[Tenant, Tenant]) -> None:
    """Who is there, who comes and who goes at one tenant, another is not told of."""
    one, other = pair
    where = f"room:{channel}"

    async def run() -> None:
        async with one.sdk(shared) as mine, other.sdk(shared) as theirs:
            await mine.subscribe(where)
            await theirs.subscribe(where)
            assert (await mine.presence(where)).keys() == {mine.connected["client"]}
            assert (await theirs.presence(where)).keys() == {theirs.connected["client"]}
            await mine.unsubscribe(where)
            assert await mine.presence_stats(where) == (0, 0)
            await theirs.publish(where, "a mark")
            await theirs.until(where, 1)
            assert {client for _, client in theirs.changes(where)} == {theirs.connected["client"]}

    asyncio.run(run())


def test_commands_about_a_user_stay_with_the_tenant(shared: Server, channel: str) -> None:
    """Two tenants have a user of the same name; what a backend does to one, the other does not feel."""

    async def run() -> None:
        user = f"u-{channel}"
        async with BLUE.api(shared) as api, GREEN.api(shared) as green_api:
            mine = await BLUE.sdk(shared, token=BLUE.token(user)).__aenter__()
            theirs = await GREEN.sdk(shared, token=GREEN.token(user)).__aenter__()
            other = await RED.sdk(shared, token=RED.token(user)).__aenter__()
            await api.call("subscribe", user=user, channel=channel)
            await mine.until_push(channel, "subscribe")
            assert (await green_api.call("channels", pattern=f"{channel}*"))["channels"] == {}
            assert (await api.call("channels", pattern=f"{channel}*"))["channels"] == {channel: {"num_clients": 1}}
            await api.call("disconnect", user=user)
            assert (await mine.wait_ended()).code == 3503
            for bystander in (theirs, other):
                await bystander.subscribe(f"{channel}-mark")
                assert not bystander.kinds(channel, "subscribe")
                await bystander.close()
            again = await GREEN.sdk(shared, token=GREEN.token(user)).__aenter__()
            assert again.connected.get("subs", {}) == {}
            await again.close()
            await mine.close()

    asyncio.run(run())


def test_namespaces_are_their_tenants_own(shared: Server, channel: str) -> None:
    """A namespace that one tenant has, another does not know."""

    async def run() -> None:
        async with GREEN.sdk(shared) as green, BLUE.sdk(shared) as blue:
            await green.subscribe(f"only-green:{channel}")
            with pytest.raises(Reply, match="^102 "):
                await blue.subscribe(f"only-green:{channel}")
            with pytest.raises(Reply, match="^102 "):
                await green.subscribe(f"closed:{channel}")

    asyncio.run(run())


# How a request finds its tenant


@pytest.mark.parametrize("way", ["prefix", "host", "issuer"])
@pytest.mark.parametrize("door", DOORS)
def test_ways_to_a_tenant(shared: Server, channel: str, door: str, way: str) -> None:
    """By the path, by the host name or by who issued the token: each leads to the same channel."""

    async def run() -> None:
        one = reader(door, shared, RED, channel)
        if way != "prefix":
            strip_prefix(one)
        if way == "host":
            set_host(one, f"{RED.host.upper()}:8000")
        async with one, RED.api(shared) as api:
            if isinstance(one, SdkClient):
                await one.subscribe(channel)
            await api.publish(channel, "red")
            assert await one.until(channel, 1) == ["red"]

    asyncio.run(run())


def strip_prefix(one: Reader) -> None:
    """Ask without the tenant in the path."""
    assert isinstance(one, SdkClient | PlainSocket | UniSocket | EventSource)
    one.path = one.path.removeprefix(RED.prefix)


def set_host(one: Reader, host: str) -> None:
    """Ask under another host name."""
    if isinstance(one, EventSource):
        one.headers["Host"] = host
    else:
        assert isinstance(one, SdkClient | PlainSocket | UniSocket)
        one.options["host"] = host.partition(":")[0]


def test_the_api_finds_its_tenant_by_key(shared: Server, channel: str) -> None:
    """Without a prefix or a host, a key that only one tenant has says whose call it is."""

    async def run() -> None:
        async with Api(shared, key=RED.api_key) as bare, RED.api(shared) as red, BLUE.api(shared) as blue:
            place = await bare.publish(channel, 1)
            assert (await red.call("history", channel=channel))["epoch"] == place.epoch
            assert (await blue.call("history", channel=channel))["offset"] == 0

    asyncio.run(run())


def test_unknown_tenants(shared: Server, channel: str) -> None:
    """A tenant that nobody has, or that lives in another region, is answered at once, without a word about others."""

    async def run() -> None:
        async with Http(shared) as http:
            for path in ("/t/nobody/api/info", f"/t/nobody/sse?channel={channel}", "/t//sse", "/t/RED/api/info"):
                response = await http.request("POST" if "/api/" in path else "GET", path, b"{}" * ("/api/" in path))
                assert response.status == 404, path
                assert "red" not in response.body.decode()
            response = await http.request("GET", f"/sse?channel={channel}&token={connection_token('42', iss='who')}")
            assert response.status in (401, 404)
            response = await http.request("GET", f"{FAR.prefix}/sse?channel={channel}&token={FAR.token()}")
            assert response.status == 421
            assert "there" not in response.body.decode()
        stranger = SdkClient(shared, token=connection_token("42", iss="https://nobody.example"))
        assert await turned_away(stranger) == 3500
        nobody = SdkClient(shared, token="")
        assert await turned_away(nobody) in (3500, 3501)

    asyncio.run(run())


def test_origins_hold_at_every_way_in(shared: Server, channel: str) -> None:
    """A page that may not come in is kept out by prefix, by host and by issuer, too."""

    async def run() -> None:
        for way in ("prefix", "host", "issuer"):
            for origin, welcome in ((ORIGIN, True), ("https://evil.example.com", False)):
                one = RED.sdk(shared, origin=origin)
                if way != "prefix":
                    strip_prefix(one)
                if way == "host":
                    set_host(one, RED.host)
                if welcome:
                    async with one:
                        await one.subscribe(channel)
                else:
                    assert await turned_away(one) in (403, 3500, 3507), way

    asyncio.run(run())


# A fault of one is no fault of the others


def test_a_limit_of_one_tenant(shared: Server, channel: str) -> None:
    """When one tenant has all the connections that it may have, others come in as before."""

    async def run() -> None:
        crowd: list[SdkClient] = []
        refused = 0
        while refused < 20:
            one = RED.sdk(shared)
            try:
                crowd.append(await one.__aenter__())
            except (Refusal, InvalidStatus):
                refused += 1
            assert len(crowd) <= 120
        async with BLUE.sdk(shared) as blue, GREEN.sdk(shared) as green:
            await blue.subscribe(channel)
            await green.subscribe(channel)
        await asyncio.gather(*(one.close() for one in crowd))
        await eventually(lambda: shared.metric("rt_connections", tenant="red") == 0)

    asyncio.run(run())


def test_what_operators_see(shared: Server, channel: str) -> None:
    """Metrics, readiness and the list of workers tell the tenants apart."""

    async def run() -> None:
        async with RED.sdk(shared) as client, RED.api(shared) as red, BLUE.api(shared) as blue:
            await client.subscribe(channel)
            await eventually(lambda: shared.metric("rt_connections", tenant="red") == 1)
            assert shared.metric("rt_connections", tenant="blue") == 0
            assert shared.metric("rt_tenant_info", tenant="red", region="here") >= 1
            status, body = shared.internal("/ready")
            assert status == 200
            told = json.loads(body)["tenants"]
            assert told.keys() >= {"red", "blue", "green"} and "far" not in told
            assert all(told[name]["ready"] for name in told)
            nodes = (await red.call("info"))["nodes"]
            await eventually_counted(red, 1)
            assert len(nodes) == 2
            assert sum(node["num_clients"] for node in (await blue.call("info"))["nodes"]) == 0

    asyncio.run(run())


async def eventually_counted(api: Api, clients: int) -> None:
    """Wait until the workers have told how many connections they have."""
    deadline = time.monotonic() + 15
    while (found := sum(node["num_clients"] for node in (await api.call("info"))["nodes"])) != clients:
        assert time.monotonic() < deadline, found


def test_one_store_is_killed(shared: Server, stores: dict[str, Store], channel: str) -> None:
    """While one tenant's store is dead the others publish, subscribe, recover and see who is there as before."""

    async def run() -> None:
        where = f"room:{channel}"
        async with (
            RED.sdk(shared) as red,
            BLUE.sdk(shared) as blue,
            BLUE.api(shared) as api,
            RED.api(shared) as red_api,
        ):
            await red.subscribe(channel)
            await blue.subscribe(where)
            await api.publish(where, 0)
            await blue.until(where, 1)
            stores["red"].kill()
            await eventually(lambda: shared.internal("/ready?tenant=red")[0] == 503)
            slowest = 0.0
            for number in range(1, 101):
                begun = time.monotonic()
                await api.publish(where, number)
                slowest = max(slowest, time.monotonic() - begun)
            assert await blue.until(where, 101) == list(range(101))
            assert slowest < 1, "nobody waits for another tenant's store"
            assert (await blue.presence(where)).keys() == {blue.connected["client"]}
            async with BLUE.sdk(shared) as late:
                first = blue.received[0]
                result = await late.subscribe(where, recover=True, epoch=blue.places[where].epoch, offset=first.offset)
                assert result["recovered"] is True and len(late.data(where)) == 100
            assert shared.internal("/ready?tenant=blue")[0] == 200
            assert shared.internal("/ready")[0] == 200
            told = json.loads(shared.internal("/ready")[1])["tenants"]
            assert (told["red"]["ready"], told["blue"]["ready"], told["green"]["ready"]) == (False, True, True)
            with pytest.raises(Reply, match="^100 "):
                await red_api.publish(channel, "never accepted")
            assert not red.gone
            await asyncio.to_thread(stores["red"].start)
            await eventually(lambda: shared.internal("/ready?tenant=red")[0] == 200)
            await eventually_published(red_api, f"{channel}-well")

    asyncio.run(run())


async def eventually_published(api: Api, channel: str) -> None:
    """Publish, however often it takes until every worker has found the store again."""
    deadline = time.monotonic() + 15
    while True:
        try:
            await api.publish(channel, "well")
            return
        except Reply as reply:
            assert reply.code == 100 and time.monotonic() < deadline


def test_nothing_of_a_tenant_is_logged(shared: Server, channel: str) -> None:
    """Keys and tokens of tenants are in no log."""

    async def run() -> None:
        token = RED.token(f"u-{channel}")
        stream = EventSource(shared, [channel], query=f"token={token}")
        stream.path = f"/t/nobody{stream.path}"
        with pytest.raises(Ended):
            await stream.__aenter__()
        log = shared.log()
        for secret in (token, token.rpartition(".")[2], *(tenant.key for tenant in (RED, BLUE, GREEN, FAR))):
            assert secret not in log
        for tenant in (RED, BLUE, GREEN, FAR):
            assert tenant.api_key not in log

    asyncio.run(run())
