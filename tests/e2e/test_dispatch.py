"""The rules of the conversation with an SDK, each with its exact answer, over a socket that no library helps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.clients import Api, Ended, Reply, SdkClient
from tests.raw import PING, PONG, RawSocket, frame, text
from tests.servers import OVER_BOTH, Server
from tests.tokens import connection_token, subscription_token
from tests.waiting import PATIENCE

pytestmark = OVER_BOTH

METHODS: dict[str, dict[str, Any]] = {
    "subscribe": {"channel": "x"},
    "unsubscribe": {"channel": "x"},
    "publish": {"channel": "x", "data": 1},
    "presence": {"channel": "x"},
    "presence_stats": {"channel": "x"},
    "history": {"channel": "x"},
    "rpc": {"method": "x"},
    "refresh": {"token": "x"},
    "sub_refresh": {"channel": "x", "token": "x"},
    "ping": {},
}
ORDER = ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "rpc"]
"""Methods in the order in which the first one of a command counts, without those that end the connection here."""


class Talk(RawSocket):
    """A socket on which whole lines are exchanged."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.lines: list[dict[str, Any]] = []

    async def say(self, *messages: Any) -> None:
        """Send messages in one frame, one per line."""
        await self.send(frame(1, "\n".join(json.dumps(message) for message in messages).encode()))

    async def hear(self) -> dict[str, Any]:
        """The next line."""
        while not self.lines:
            self.lines += [json.loads(line) for line in (await self.frame()).payload.decode().split("\n")]
        return self.lines.pop(0)

    async def reply(self, number: int) -> dict[str, Any]:
        """The reply to a command, whatever comes before it."""
        while (line := await self.hear()).get("id") != number:
            pass
        return line


async def code_after(server: Server, *messages: Any, connected: bool = True) -> int | None:
    """The close code after these messages."""
    async with Talk(server) as talk:
        if connected:
            await talk.connect()
        else:
            await talk.handshake()
        await talk.say(*messages)
        return (await talk.shut()).code


@pytest.mark.parametrize("method", [*METHODS, "send"])
def test_nothing_before_connect(whole: Server, method: str) -> None:
    """Any command before the connect ends the connection with 3501; the connect behind it is not looked at."""
    command = {"id": 1, method: METHODS.get(method, {"data": 1})}

    async def run() -> None:
        assert await code_after(whole, command, {"id": 2, "connect": {}}, connected=False) == 3501

    asyncio.run(run())


CLOSED: list[tuple[str, list[Any], bool]] = [
    ("a pong before connect", [{}], False),
    ("a connect without an id", [{"connect": {}}], False),
    ("a second connect", [{"id": 2, "connect": {}}], True),
    ("two connects at once", [{"id": 1, "connect": {}}, {"id": 2, "connect": {}}], False),
    ("a pong that nobody asked for", [{}], True),
    ("a subscribe without an id", [{"subscribe": {"channel": "x"}}], True),
    ("an id of 0", [{"id": 0, "rpc": {"method": "x"}}], True),
    ("an id beyond 32 bits", [{"id": 1 << 32, "rpc": {"method": "x"}}], True),
    ("a command without a method", [{"id": 2}], True),
    ("a method of null", [{"id": 2, "subscribe": None}], True),
    ("the ping that is no command", [{"id": 2, "ping": {}}], True),
    *(
        (f"{method} without a channel", [{"id": 2, method: {"channel": "", "data": 1, "token": "x"}}], True)
        for method in ("subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "sub_refresh")
    ),
    ("a refresh without a token", [{"id": 2, "refresh": {}}], True),
]


@pytest.mark.parametrize(("messages", "connected"), [row[1:] for row in CLOSED], ids=[row[0] for row in CLOSED])
def test_what_ends_the_connection(whole: Server, messages: list[Any], connected: bool) -> None:
    """Each breach of the order ends the connection with 3501."""

    async def run() -> None:
        assert await code_after(whole, *messages, connected=connected) == 3501

    asyncio.run(run())


def test_the_first_method_counts(whole: Server) -> None:
    """Of several methods in one command the first in the protocol's order is carried out, null ones left aside."""

    async def run() -> None:
        async with Talk(whole) as talk:
            await talk.connect()
            for place, method in enumerate(ORDER):
                command = {name: METHODS[name] for name in reversed(ORDER[place:])}
                await talk.say({"id": place + 2, **command, **dict.fromkeys(ORDER[:place])})
                reply = await talk.reply(place + 2)
                assert method in reply or "error" in reply, reply
                assert not (reply.keys() & METHODS.keys()) - {method}

    asyncio.run(run())


ERRORS: list[tuple[str, dict[str, Any], int, str]] = [
    ("unknown namespace", {"subscribe": {"channel": "nowhere:x"}}, 102, "unknown channel"),
    ("no permission", {"subscribe": {"channel": "closed:x"}}, 103, "permission denied"),
    ("already subscribed", {"subscribe": {"channel": "here"}}, 105, "already subscribed"),
    ("bad name", {"subscribe": {"channel": "a{b}"}}, 107, "bad request"),
    (
        "a filter",
        {"subscribe": {"channel": "x", "tf": {"op": "", "key": "a", "cmp": "eq", "val": "b"}}},
        107,
        "bad request",
    ),
    *((f"type {kind}", {"subscribe": {"channel": "x", "type": kind}}, 108, "not available") for kind in (1, 2, 3, 4)),
    ("presence that is off", {"presence": {"channel": "x"}}, 108, "not available"),
    ("stats that are off", {"presence_stats": {"channel": "x"}}, 108, "not available"),
    ("no history", {"history": {"channel": "live:x", "limit": 1}}, 108, "not available"),
    ("no data", {"publish": {"channel": "x"}}, 107, "bad request"),
    (
        "another epoch",
        {"history": {"channel": "x", "limit": 1, "since": {"offset": 1, "epoch": "no"}}},
        112,
        "unrecoverable position",
    ),
    (
        "backwards from nothing",
        {"history": {"channel": "x", "reverse": True, "since": {"offset": 0}}},
        107,
        "bad request",
    ),
    ("a procedure", {"rpc": {"method": "x"}}, 108, "not available"),
    ("nothing to refresh", {"sub_refresh": {"channel": "x", "token": "x"}}, 103, "permission denied"),
    ("tracking", {"sub_refresh": {"channel": "here", "type": 1}}, 108, "not available"),
    (
        "an expired subscription token",
        {"subscribe": {"channel": "closed:x", "token": subscription_token("closed:x", exp=1)}},
        109,
        "token expired",
    ),
    (
        "an expired right",
        {"subscribe": {"channel": "closed:x", "token": subscription_token("closed:x", expire_at=1)}},
        110,
        "expired",
    ),
    ("an invalid subscription token", {"subscribe": {"channel": "closed:x", "token": "x"}}, 103, "permission denied"),
    (
        "a position that is lost",
        {"subscribe": {"channel": "lost", "recover": True, "epoch": "no", "offset": 9, "flag": 2}},
        112,
        "unrecoverable position",
    ),
]


@pytest.mark.parametrize(("command", "code", "message"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_errors(whole: Server, command: dict[str, Any], code: int, message: str) -> None:
    """Each refusal has its code and its words, without the mark of a temporary one, and the connection goes on."""

    async def run() -> None:
        async with Talk(whole) as talk:
            await talk.handshake()
            await talk.say(
                {"id": 1, "connect": {"token": connection_token("42")}}, {"id": 2, "subscribe": {"channel": "here"}}
            )
            await talk.reply(2)
            await talk.say({"id": 3, **command})
            assert await talk.reply(3) == {"id": 3, "error": {"code": code, "message": message}}
            await talk.say({"id": 4, "unsubscribe": {"channel": "here"}})
            assert await talk.reply(4) == {"id": 4, "unsubscribe": {}}

    asyncio.run(run())


def test_a_frame_of_many_commands(whole: Server, channel: str) -> None:
    """Connect and what follows in one frame are carried out strictly in order, and answered in order."""

    async def run() -> None:
        async with Talk(whole) as talk:
            await talk.handshake()
            await talk.say(
                {"id": 1, "connect": {}},
                {"id": 2, "subscribe": {"channel": f"room:{channel}"}},
                {"id": 3, "presence_stats": {"channel": f"room:{channel}"}},
                {"id": 4, "unsubscribe": {"channel": f"room:{channel}"}},
                {"id": 5, "presence_stats": {"channel": f"room:{channel}"}},
                {"id": 6, "unsubscribe": {"channel": f"room:{channel}"}},
                {"send": {"data": 1}},
                {"id": 7, "presence": {"channel": f"room:{channel}"}},
            )
            replies: list[dict[str, Any]] = []
            while len(replies) < 7:
                line = await talk.hear()
                replies += [line] if "id" in line else []
            assert [line["id"] for line in replies] == [1, 2, 3, 4, 5, 6, 7]
            assert replies[2:] == [
                {"id": 3, "presence_stats": {"num_clients": 1, "num_users": 1}},
                {"id": 4, "unsubscribe": {}},
                {"id": 5, "presence_stats": {"num_clients": 0, "num_users": 0}},
                {"id": 6, "unsubscribe": {}},
                {"id": 7, "presence": {"presence": {}}},
            ]

    asyncio.run(run())


def test_zero_values_are_left_out(whole: Server, channel: str) -> None:
    """Results hold what is there; what is zero, false or empty is left out, and what must be there, is."""

    async def run() -> None:
        async with Talk(whole) as talk:
            connect = (await talk.connect())["connect"]
            assert connect.keys() <= {"client", "version", "ping", "pong", "node", "session"}
            await talk.say({"id": 2, "subscribe": {"channel": f"live:{channel}"}})
            assert await talk.reply(2) == {"id": 2, "subscribe": {}}
            await talk.say({"id": 3, "subscribe": {"channel": channel}})
            subscribe = (await talk.reply(3))["subscribe"]
            assert subscribe == {"recoverable": True, "positioned": True, "epoch": subscribe["epoch"]}
            await talk.say({"id": 4, "publish": {"channel": channel, "data": {"a": None}}})
            assert await talk.reply(4) == {"id": 4, "publish": {}}
            await talk.say({"id": 5, "history": {"channel": f"{channel}-2", "limit": 5}})
            history = (await talk.reply(5))["history"]
            assert history == {"publications": [], "offset": 0, "epoch": history["epoch"]}

    asyncio.run(run())


def test_a_hundred_and_twenty_eight_channels(whole: Server, channel: str) -> None:
    """A connection has that many subscriptions; one more is refused (106), by the server's own doing 3505."""

    async def run() -> None:
        user = f"u-{channel}"
        async with SdkClient(whole, token=connection_token(user)) as client, Api(whole) as api:
            for number in range(128):
                await client.subscribe(f"{channel}-{number}")
            with pytest.raises(Reply) as caught:
                await client.subscribe(f"{channel}-128")
            assert (caught.value.code, caught.value.message) == (106, "limit exceeded")
            await client.unsubscribe(f"{channel}-0")
            await client.subscribe(f"{channel}-128")
            await api.call("subscribe", user=user, channel=f"{channel}-129")
            assert (await client.wait_ended()).code == 3505

    asyncio.run(run())


def test_a_client_publishes_once(whole: Server, channel: str) -> None:
    """A publish repeated with its idempotency key is answered and not delivered again; nobody else has that key."""

    async def run() -> None:
        token = connection_token(f"u-{channel}")
        async with SdkClient(whole, token=token) as client, SdkClient(whole, token=connection_token("other")) as other:
            await client.subscribe(channel)
            for _ in range(3):
                assert await client.publish(channel, "once", idempotency_key="k") == {}
            await other.publish(channel, "another's", idempotency_key="k")
            await client.publish(channel, "last")
            assert await client.until(channel, 3) == ["once", "another's", "last"]

    asyncio.run(run())


def test_native_pings(start_server: Any) -> None:
    """On request a connection is pinged by WebSocket frames, is told of no other pings, and is closed when silent."""
    server = start_server({"server": {"workers": 1}, "client": {"ping_interval": "300ms", "pong_timeout": "200ms"}})

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.handshake("/connection/websocket?cf_ws_frame_ping_pong=true")
            await raw.send(text({"id": 1, "connect": {}}))
            connect = json.loads((await raw.frame()).payload)["connect"]
            assert "ping" not in connect and "pong" not in connect
            for _ in range(3):
                ping = await raw.frame()
                assert ping.opcode == PING
                await raw.send(frame(PONG, ping.payload))
            assert (await raw.shut()).code == 3012

    asyncio.run(run())


def test_an_error_of_connect_ends_the_talk(whole: Server) -> None:
    """After an error in reply to a connect nothing more is answered, and the socket is closed within five seconds."""

    async def run() -> None:
        async with Talk(whole) as talk:
            await talk.handshake()
            connect = {"token": connection_token("42", exp=1)}
            await talk.say(
                {"id": 1, "connect": connect}, {"id": 2, "subscribe": {"channel": "x"}}, {"id": 3, "connect": {}}
            )
            assert await talk.hear() == {"id": 1, "error": {"code": 109, "message": "token expired"}}
            async with asyncio.timeout(PATIENCE):
                await talk.shut()

    asyncio.run(run())


def test_while_a_subscribe_is_under_way(whole: Server, channel: str) -> None:
    """An unsubscribe right behind its subscribe waits for it; both are answered and nothing is left."""

    async def run() -> None:
        async with Talk(whole) as talk, Api(whole) as api:
            await talk.connect()
            commands: list[dict[str, Any]] = []
            for number in range(10):
                commands.append({"id": 2 * number + 2, "subscribe": {"channel": channel}})
                commands.append({"id": 2 * number + 3, "unsubscribe": {"channel": channel}})
            await talk.say(*commands)
            replies = [await talk.reply(command["id"]) for command in commands]
            assert not [reply for reply in replies if "error" in reply]
            await api.publish(channel, "nobody hears it")
            await talk.say({"id": 99, "history": {"channel": channel, "limit": 0}})
            assert (await talk.hear())["id"] == 99

    asyncio.run(run())


def test_reasons_of_a_backend(whole: Server, channel: str) -> None:
    """A backend's own code and reason arrive as they are; what no close frame can carry is refused."""

    async def run() -> None:
        user = f"u-{channel}"
        async with SdkClient(whole, token=connection_token(user)) as client, Api(whole) as api:
            for code, reason in ((2999, "x"), (5000, "x"), (1000, "x"), (4000, "x" * 124), (4000, "é" * 62), (-1, "x")):
                with pytest.raises(Reply) as caught:
                    await api.call("disconnect", user=user, disconnect={"code": code, "reason": reason})
                assert caught.value.code == 107
            await api.call("disconnect", user=user, disconnect={"code": 4000, "reason": "é" * 61})
            ended: Ended = await client.wait_ended()
            assert (ended.code, ended.reason) == (4000, "é" * 61)

    asyncio.run(run())
