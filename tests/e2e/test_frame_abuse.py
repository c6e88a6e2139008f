"""Frames and commands that no good client sends, beside a healthy connection that must not notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.clients import Api, SdkClient
from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawSocket,
    close,
    frame,
    text,
)
from tests.servers import OVER_BOTH, Server

pytestmark = OVER_BOTH

COMMAND = json.dumps({"id": 2, "subscribe": {"channel": "abuse"}}).encode()
LIMIT = 64 << 10
BAD_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
BAD_TEXTS = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b'{"id":2,"rpc":{"method":"\xe2\x82"}}']

FRAMES: list[tuple[str, bytes, int]] = [
    ("unmasked", frame(TEXT, COMMAND, masked=False), 1002),
    ("unmasked ping", frame(PING, masked=False), 1002),
    ("rsv1, as if compressed", frame(TEXT, COMMAND, reserved=4), 1002),
    ("rsv2", frame(TEXT, COMMAND, reserved=2), 1002),
    ("rsv3 on a ping", frame(PING, reserved=1), 1002),
    *((f"reserved opcode {opcode}", frame(opcode, b"x"), 1002) for opcode in (3, 7, 11, 15)),
    ("fragmented ping", frame(PING, final=False), 1002),
    ("long ping", frame(PING, b"x" * 126), 1002),
    ("long close", frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    ("continuation of nothing", frame(CONTINUATION, COMMAND), 1002),
    ("a message inside a message", frame(TEXT, b"{", final=False) + frame(TEXT, COMMAND), 1002),
    ("half a close code", frame(CLOSE, b"\x03"), 1002),
    *((f"close code {code}", close(code), 1002) for code in BAD_CODES),
    ("close reason in bad UTF-8", close(1000, b"\xff"), 1007),
    *((f"bad UTF-8 {bad!r}", frame(TEXT, bad), 1007) for bad in BAD_TEXTS),
    ("bad UTF-8 over two frames", frame(TEXT, b"\xe2\x82", final=False) + frame(CONTINUATION, b"x"), 1007),
    ("one byte too large, announced", frame(TEXT, b"", length=LIMIT + 1), 1009),
    ("10 MiB, announced", frame(TEXT, b"", length=10 << 20), 1009),
    ("2^62 bytes, announced", frame(TEXT, b"", length=1 << 62), 1009),
    ("2^63 bytes, announced", frame(TEXT, b"", length=1 << 63), 1002),
    ("too large in fragments", (frame(TEXT, b"x" * 40000, final=False) + frame(CONTINUATION, b"x" * 40000)), 1009),
    ("a flood of fragments", frame(TEXT, b"x", final=False) + frame(CONTINUATION, b"x", final=False) * 999, 1008),
    ("a flood of empty fragments", frame(TEXT, final=False) + frame(CONTINUATION, final=False) * 9999, 1008),
    ("a flood of pings", frame(PING, b"x") * 5000, 3013),
    ("a flood of pongs", frame(PONG, b"x") * 5000, 3013),
    ("binary", frame(BINARY, COMMAND), 3501),
]

COMMANDS: list[tuple[str, bytes, int]] = [
    ("an empty frame", b"", 3501),
    ("no JSON", b"{", 3501),
    ("a list", b"[]", 3501),
    ("a number", b"1", 3501),
    ("null", b"null", 3501),
    ("NaN", b'{"id":2,"rpc":{"method":"x","data":NaN}}', 3501),
    ("a byte order mark", b"\xef\xbb\xbf" + COMMAND, 3501),
    ("a blank line", COMMAND + b"\n\n" + COMMAND, 3501),
    ("a blank line only", b"\n", 3501),
    ("no method", b'{"id":2}', 3501),
    ("an unknown method", b'{"id":2,"fly":{}}', 3501),
    ("ping as a command", b'{"id":2,"ping":{}}', 3501),
    ("an empty channel", b'{"id":2,"subscribe":{"channel":""}}', 3501),
    ("no channel", b'{"id":2,"subscribe":{}}', 3501),
    ("a second connect", b'{"id":2,"connect":{}}', 3501),
    ("a refresh with nonsense", b'{"id":2,"refresh":{"token":"x"}}', 3500),
    ("a refresh with nothing", b'{"id":2,"refresh":{}}', 3501),
    ("a pong without a ping", b"{}", 3501),
    ("a command without an id", b'{"subscribe":{"channel":"x"}}', 3501),
    ("an id that is negative", b'{"id":-1,"subscribe":{"channel":"x"}}', 3501),
    ("an id that is text", b'{"id":"2","subscribe":{"channel":"x"}}', 3501),
    ("nesting a hundred thousand deep", b'{"id":2,"rpc":{"method":"x","data":' + b"[" * 60000 + b"}}", 3501),
]

ERRORS: list[tuple[str, str, int]] = [
    ("a channel of an unknown namespace", '{"subscribe":{"channel":"nowhere:x"}}', 102),
    ("a closed channel", '{"subscribe":{"channel":"closed:x"}}', 103),
    ("a private channel without a token", '{"subscribe":{"channel":"$x"}}', 103),
    ("a name that is too long", '{"subscribe":{"channel":"' + "x" * 256 + '"}}', 107),
    ("a name with braces", '{"subscribe":{"channel":"a{b}c"}}', 107),
    ("a name with a newline", '{"subscribe":{"channel":"a\\nb"}}', 107),
    ("a name with NUL", '{"subscribe":{"channel":"a\\u0000b"}}', 107),
    ("a name beyond ASCII", '{"subscribe":{"channel":"\\u2028"}}', 107),
    ("a subscription of another type", '{"subscribe":{"channel":"x","type":1}}', 108),
    ("a publication without data", '{"publish":{"channel":"x"}}', 107),
    ("a publication of the wrong format", '{"publish":{"channel":"object:x","data":[1]}}', 107),
    ("history where there is none", '{"history":{"channel":"live:x","limit":1}}', 108),
    ("reverse history since nothing", '{"history":{"channel":"x","reverse":true,"since":{"offset":0}}}', 107),
    ("a remote procedure", '{"rpc":{"method":"x","data":{}}}', 108),
    ("presence", '{"presence":{"channel":"x"}}', 108),
    ("presence stats", '{"presence_stats":{"channel":"x"}}', 108),
    ("sub refresh of nothing", '{"sub_refresh":{"channel":"x","token":"x"}}', 103),
]


class Control:
    """A healthy connection beside the abuse: it must receive what is published, before and after."""

    def __init__(self, server: Server, channel: str) -> None:
        self.channel = channel
        self.reader = SdkClient(server)
        self.api = Api(server)
        self.count = 0

    async def __aenter__(self) -> None:
        await self.reader.__aenter__()
        await self.api.__aenter__()
        await self.reader.subscribe(self.channel)
        await self.look()

    async def __aexit__(self, *_: object) -> None:
        await self.look()
        await self.reader.close()
        await self.api.__aexit__()

    async def look(self) -> None:
        """Publish and receive."""
        self.count += 1
        await self.api.publish(self.channel, self.count)
        assert (await self.reader.until(self.channel, self.count)) == list(range(1, self.count + 1))


@pytest.mark.parametrize(("sent", "code"), [row[1:] for row in FRAMES], ids=[row[0] for row in FRAMES])
def test_bad_frames(server: Server, channel: str, sent: bytes, code: int) -> None:
    """Every frame against RFC 6455 ends the connection with the code that the RFC gives it."""

    async def run() -> None:
        async with Control(server, channel), RawSocket(server) as raw:
            await raw.connect()
            await raw.send(sent)
            assert (await raw.shut()).code == code

    asyncio.run(run())


@pytest.mark.parametrize(("sent", "code"), [row[1:] for row in COMMANDS], ids=[row[0] for row in COMMANDS])
def test_bad_commands(server: Server, channel: str, sent: bytes, code: int) -> None:
    """Every command against the protocol ends the connection with the code that the protocol gives it."""

    async def run() -> None:
        async with Control(server, channel), RawSocket(server) as raw:
            await raw.connect()
            await raw.send(frame(TEXT, sent))
            assert (await raw.shut()).code == code

    asyncio.run(run())


@pytest.mark.parametrize(("sent", "code"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_refused_commands(server: Server, sent: str, code: int) -> None:
    """A well-formed command that cannot be carried out is answered with its error, and the connection lives on."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.connect()
            await raw.send(frame(TEXT, json.dumps({"id": 7, **json.loads(sent)}).encode()))
            reply = json.loads((await raw.frame()).payload)
            assert (reply["id"], reply["error"]["code"]) == (7, code)
            await raw.send(text({"id": 8, "unsubscribe": {"channel": "x"}}))
            assert json.loads((await raw.frame()).payload) == {"id": 8, "unsubscribe": {}}

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"{}", b'{"id":1,"subscribe":{"channel":"x"}}', b'{"send":{"data":1}}'])
def test_before_connect(server: Server, sent: bytes) -> None:
    """Nothing but connect may come first."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.handshake()
            await raw.send(frame(TEXT, sent))
            assert (await raw.shut()).code == 3501

    asyncio.run(run())


def test_what_is_allowed_though_rare(server: Server, channel: str) -> None:
    """Fragments, pings between them, several commands in one frame and a trailing newline are all in order."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.connect()
            await raw.send(
                frame(TEXT, COMMAND[:9], final=False) + frame(PING, b"now") + frame(CONTINUATION, COMMAND[9:])
            )
            pong = await raw.frame()
            assert (pong.opcode, pong.payload) == (PONG, b"now")
            assert json.loads((await raw.frame()).payload)["id"] == 2
            both = json.dumps({"id": 3, "unsubscribe": {"channel": "abuse"}}) + "\n"
            await raw.send(frame(TEXT, (both + both.replace("3", "4")).encode()))
            lines: list[str] = []
            while len(lines) < 2:
                lines += (await raw.frame()).payload.decode().splitlines()
            assert [json.loads(line)["id"] for line in lines] == [3, 4]
            await raw.send(frame(CONTINUATION | PONG, b"unasked"))
            await raw.send(close(1000, b"bye"))
            shut = await raw.shut()
            assert shut.code == 1000
            assert await raw.hung_up()

    asyncio.run(run())


def test_everything_cut_into_single_bytes(server: Server) -> None:
    """How the bytes of handshake and frames are cut does not matter."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.connect()
            for byte in frame(TEXT, COMMAND):
                await raw.send(bytes([byte]))
                await asyncio.sleep(0)
            assert json.loads((await raw.frame()).payload)["id"] == 2

    asyncio.run(run())


def test_the_largest_message(server: Server) -> None:
    """A message of exactly the limit is read."""

    async def run() -> None:
        async with RawSocket(server) as raw:
            await raw.connect()
            shell = b'{"id":2,"rpc":{"method":"x","data":"%s"}}'
            await raw.send(frame(TEXT, shell % (b"x" * (LIMIT - len(shell) + 2))))
            assert json.loads((await raw.frame()).payload)["error"]["code"] == 108

    asyncio.run(run())


def test_too_many_channels(server: Server, channel: str) -> None:
    """A connection has at most 128 subscriptions; one more is an error, and one less makes room again."""

    async def run() -> None:
        async with SdkClient(server) as client:
            subscribes = [client.command("subscribe", {"channel": f"{channel}-{number}"}) for number in range(129)]
            await client.socket.send("\n".join(line for line, _ in subscribes))
            replies = await asyncio.gather(*(future for _, future in subscribes))
            assert [reply["error"]["code"] for reply in replies if "error" in reply] == [106]
            await client.unsubscribe(f"{channel}-0")
            await client.subscribe(f"{channel}-128")

    asyncio.run(run())


def test_a_client_that_does_not_answer_pings(start_server: Callable[..., Server]) -> None:
    """A client that says nothing after a ping is closed with 3012; one that answers stays."""

    async def run() -> None:
        server = start_server({"client": {"ping_interval": "400ms", "pong_timeout": "200ms"}})
        async with SdkClient(server) as silent, SdkClient(server) as lively:
            silent.answer_pings = False
            assert (await silent.wait_ended()).code == 3012
            seen = lively.pings
            while lively.pings < seen + 3:
                assert not lively.gone
                await asyncio.sleep(0.01)

    asyncio.run(run())
