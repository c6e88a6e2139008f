"""tests.faults.link: each fault of the line does what it says, over Unix sockets and TCP."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest

from tests import processes
from tests.faults.link import COMMANDS, SUBSCRIBER, Link, Way, _place
from tests.faults.store import Store
from tests.servers import ROOT
from tests.waiting import eventually_now

NONE = object()

SHORT = 0.1
"""Seconds after which what has not come is taken for held back."""


class Peer:
    """A connection to a store as a worker's: it gives itself a name, and its replies come one by one."""

    def __init__(self, url: str, name: str = "w1" + COMMANDS) -> None:
        place = _place(url)
        self.sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self.sock.settimeout(10.0)
        self._replies = hiredis.Reader(notEnoughData=NONE)
        try:
            self.sock.connect(place if isinstance(place, str) else tuple(place))
            assert self.call("CLIENT", "SETNAME", name) == b"OK"
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def send(self, *args: str | bytes | int) -> None:
        """Say a command and do not wait."""
        self.sock.sendall(hiredis.pack_command(args))  # type: ignore[arg-type]

    def reply(self, within: float = 10.0) -> Any:
        """The next reply; TimeoutError when it does not come, EOFError when the connection ends before."""
        self.sock.settimeout(within)
        while (value := self._replies.gets()) is NONE:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._replies.feed(data)
        return value

    def call(self, *args: str | bytes | int) -> Any:
        """Say a command; its reply."""
        self.send(*args)
        return self.reply()

    def messages(self, store: Store, *bodies: bytes) -> list[bytes]:
        """What of the bodies comes when they are published on what it subscribed to; a PONG marks the end."""
        for body in bodies:
            store.command("PUBLISH", "news", body)
        self.send("PING")
        return [reply[2] for reply in iter(self.reply, [b"pong", b""])]

    def ended(self) -> str:
        """How the connection ends: "reset", or "closed" politely."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            return "reset"
        return "closed"


def subscriber(link: Link) -> Peer:
    """One that follows "news"."""
    peer = Peer(link.url, "w1" + SUBSCRIBER)
    assert peer.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
    return peer


@pytest.fixture(
    scope="module",
    params=[
        ("valkey-server", False),
        ("valkey-server", True),
        pytest.param(("redis-server", True), marks=pytest.mark.needs("redis-server")),
    ],
    ids=["valkey-unix", "valkey-tcp", "redis-tcp"],
)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One for all tests here, of each kind and over each kind of socket."""
    program, tcp = request.param
    with Store(program, tcp=tcp) as made:
        yield made


@pytest.fixture(scope="module")
def link(store: Store) -> Iterator[Link]:
    """A line to it whose both ends are of one kind; every test leaves it as it was."""
    with Link(store, tcp=store.tcp) as made:
        yield made


def publish_all(store: Store, count: int, body: bytes) -> int:
    """Publish it so often; how many heard the last."""
    with Peer(store.url) as peer:
        for _ in range(count):
            peer.send("PUBLISH", "news", body)
        return [int(peer.reply()) for _ in range(count)][-1]


def timed(call: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def quick(peer: Peer) -> bool:
    """Whether it is answered at once, on a machine that may be busy."""
    return min(timed(lambda: peer.call("PING")) for _ in range(5)) < 0.05


def test_without_a_fault_everything_passes(link: Link) -> None:
    """Of any size, in pipelines, and errors too."""
    with Peer(link.url) as peer:
        big = random.Random(1).randbytes(3_000_000)
        peer.send("SET", "big", big)
        peer.send("GET", "big")
        peer.send("NONSENSE")
        peer.send("MGET", "nothing", "nowhere")
        peer.send("COMMAND", "INFO", "GET", "nonsense")
        assert peer.reply() == b"OK"
        assert peer.reply() == big
        assert isinstance(peer.reply(), hiredis.ReplyError)
        assert peer.reply() == [None, None]
        assert len(peer.reply()) == 2
        assert link.clients() == ["w1-commands"] and link.clients(SUBSCRIBER) == []
        assert link.count("accepted") and link.count("down") > 3_000_000
    eventually_now(lambda: link.clients() == [])


def test_kinds_of_sockets_may_be_mixed(store: Store) -> None:
    """Unix on one side and TCP on the other; the login of the store's URL is handed on."""
    with Link(f"unix://{store.socket}", tcp=True) as link, Peer(link.url) as peer:
        assert peer.call("PING") == b"PONG" and link.url == f"redis://127.0.0.1:{link.port}"
    with Link(f"redis://me:secret@127.0.0.1:{store.port}") as link, Peer(link.url) as peer:
        assert peer.call("PING") == b"PONG" and link.url.startswith("unix://me:secret@/")
    with pytest.raises(ValueError, match="rediss"):
        Link("rediss://localhost")


def test_slow(link: Link) -> None:
    """Every reply comes later, in order, and those of a pipeline together; only for whom it is meant."""
    with Peer(link.url) as peer, Peer(link.url, "w2-commands") as other:
        with link.slow(0.1, jitter=0.05, to="w1"):
            assert timed(lambda: peer.call("PING")) >= 0.05
            for n in range(20):
                peer.send("ECHO", n)
            assert timed(lambda: [peer.reply() for _ in range(10)]) < 20 * 0.05
            assert [peer.reply() for _ in range(10)] == [b"%d" % n for n in range(10, 20)]
            assert quick(other)
            with link.slow(0.1, way="up"):
                assert timed(lambda: peer.call("PING")) >= 0.15
        assert quick(peer)


def test_the_end_of_a_long_delay_is_the_end_of_the_block(link: Link) -> None:
    """What was delayed comes then."""
    with Peer(link.url) as peer:
        with link.slow(60.0):
            peer.send("PING")
            with pytest.raises(TimeoutError):
                peer.reply(SHORT)
        assert peer.reply(1.0) == b"PONG"


def test_narrow(link: Link) -> None:
    """So many bytes per second."""
    with Peer(link.url) as peer:
        peer.call("SET", "a", b"x" * 100_000)
        with link.narrow(400_000, "down"):
            assert 0.2 <= timed(lambda: peer.call("GET", "a")) < 2.0
        assert min(timed(lambda: peer.call("GET", "a")) for _ in range(5)) < 0.2


def test_sliced(link: Link) -> None:
    """All comes in pieces, none larger."""
    with Peer(link.url) as peer, link.sliced(3, 0.05, "down"):
        peer.send("ECHO", "0123456789")
        assert len(peer.sock.recv(100)) < 10
        assert timed(lambda: peer.sock.recv(100)) < 1.0
    with Peer(link.url) as peer, link.sliced(1):
        assert peer.call("ECHO", "0123456789") == b"0123456789"


@pytest.mark.parametrize("way", ["up", "down", "both"])
def test_black_hole(link: Link, store: Store, way: Way) -> None:
    """Nothing passes that way, no end either; afterwards all of it comes."""
    with Peer(link.url) as peer, Peer(link.url, "w2-commands") as leaving:
        peer.call("SET", "n", 0)
        with link.black_hole(way):
            peer.send("INCR", "n")
            with pytest.raises(TimeoutError):
                peer.reply(SHORT)
            assert store.command("GET", "n") == (b"1" if way == "down" else b"0")
            if way != "down":
                leaving.sock.close()
                with pytest.raises(TimeoutError):
                    peer.reply(SHORT)
                assert b"w2-commands" in store.command("CLIENT", "LIST")
        assert peer.reply() == 1
    eventually_now(lambda: b"w2-commands" not in store.command("CLIENT", "LIST"))


def test_black_hole_that_forgets(link: Link) -> None:
    """Who was in it is reset; new connections are well."""
    with Peer(link.url) as peer:
        with link.black_hole(reset=True):
            peer.send("PING")
        assert peer.ended() == ("closed" if link.url.startswith("unix") else "reset")
    with Peer(link.url) as peer:
        assert peer.call("PING") == b"PONG"


def test_a_black_hole_holds_the_store_back(link: Link, store: Store) -> None:
    """Its output buffer grows, and its limit is reached, since the line takes only so much."""
    with subscriber(link), link.black_hole("down", SUBSCRIBER), store.output_limit(1_000_000):
        # A large body is one for all who subscribe, and Valkey does not count it: these are small.
        eventually_now(lambda: publish_all(store, 100, b"x" * 10_000) == 0)


def test_hung(link: Link) -> None:
    """Nothing moves, and afterwards all of it comes."""
    with Peer(link.url) as peer:
        with link.hung():
            peer.send("PING")
            with pytest.raises(TimeoutError):
                peer.reply(SHORT)
        assert peer.reply() == b"PONG"


def test_deaf(link: Link, store: Store) -> None:
    """PING is answered and subscribes are confirmed, but nothing is heard; commands are not touched."""
    with subscriber(link) as peer, Peer(link.url) as commands:
        assert peer.messages(store, b"0") == [b"0"]
        before = link.count("swallowed")
        with link.deaf():
            assert peer.messages(store, b"1", b"2") == []
            assert peer.call("SUBSCRIBE", "more") == [b"subscribe", b"more", 2]
            assert commands.call("LRANGE", "message", 0, -1) == []
            assert link.count("swallowed") - before == 2
        assert peer.messages(store, b"3") == [b"3"]


def test_dropping(link: Link, store: Store) -> None:
    """Every so many-th message of the pub/sub that is meant."""
    with subscriber(link) as peer:
        with link.dropping(3, about="ew"):
            assert peer.messages(store, *(b"%d" % n for n in range(1, 8))) == [b"1", b"2", b"4", b"5", b"7"]
        with link.dropping(1, about="old"), link.swallowing("pmessage"), link.dropping(1, to="w2"):
            assert peer.messages(store, b"8") == [b"8"]


def test_a_fault_that_begins_in_the_middle_of_a_message_does_not_tear_it(link: Link, store: Store) -> None:
    """What is swallowed is swallowed whole."""
    with subscriber(link) as peer, link.sliced(100_000, 0.05, "down"):
        store.command("PUBLISH", "news", b"x" * 300_000)
        assert peer.sock.recv(10, socket.MSG_PEEK)
        with link.deaf():
            assert peer.reply()[2] == b"x" * 300_000
            assert peer.messages(store, b"y") == []


def test_swallowing_a_confirmation(link: Link) -> None:
    """A subscribe that nobody confirms."""
    with Peer(link.url) as peer, link.swallowing("subscribe"):
        peer.send("SUBSCRIBE", "a")
        assert peer.call("PING") == [b"pong", b""]


def test_reset_and_close(link: Link, store: Store) -> None:
    """At once, for whom it is meant, on both sides. Unix sockets are closed either way."""
    hard = "closed" if link.url.startswith("unix") else "reset"
    with Peer(link.url) as one, Peer(link.url, "w2-commands") as two:
        assert link.reset("w1") == 1 and one.ended() == hard
        assert two.call("PING") == b"PONG"
        assert link.close() == 1 and two.ended() == "closed"
    eventually_now(lambda: not {b"w1-commands", b"w2-commands"} & set(store.command("CLIENT", "LIST").split(b"name=")))


def test_half_close(link: Link, store: Store) -> None:
    """The server is told that nothing more comes, and what it says still arrives; then the other way round."""
    with Peer(link.url) as peer:
        assert link.half_close("down") == 1
        assert peer.ended() == "closed"
        peer.send("SET", "half", 1)
        eventually_now(lambda: store.command("GET", "half") == b"1")
    with Peer(link.url) as peer:
        assert link.half_close("up") == 1
        assert peer.ended() == "closed", "a store closes when it is told so"


def test_cut_after(link: Link, store: Store) -> None:
    """Behind exactly so many bytes, of so many connections."""
    before = link.count("cut")
    with Peer(link.url) as one, Peer(link.url, "w2-commands") as two, link.cut_after(9, hard=False):
        assert one.call("PING") == b"PONG"
        one.send("PING")
        assert one.sock.recv(100) == b"+P" and one.ended() == "closed"
        assert two.call("ECHO", "longer than nine") and link.count("cut") - before == 1
    with (
        link.cut_after(29, "up", of="*2\r\n$9\r\nSUBSCRIBE", to=SUBSCRIBER),
        Peer(link.url, "w1" + SUBSCRIBER) as peer,
    ):
        assert peer.call("PING") == b"PONG"
        peer.send("SUBSCRIBE", "some-name")
        assert peer.ended() in ("reset", "closed")
        assert store.command("PUBSUB", "CHANNELS") == []
    with link.cut_after(5, "down", of="SUBSCRIBE", times=0):
        for _ in range(2):
            with Peer(link.url, "w1" + SUBSCRIBER) as peer:
                peer.send("SUBSCRIBE", "some-name")
                assert peer.ended()
    with pytest.raises(ValueError, match="one way"), link.cut_after(1, "both"):
        pass


def test_refusing_and_down(link: Link) -> None:
    """Nobody listens; who is connected stays, or is reset."""
    with Peer(link.url) as peer:
        with link.refusing():
            with pytest.raises(ConnectionRefusedError):
                Peer(link.url)
            assert peer.call("PING") == b"PONG"
        with link.down():
            with pytest.raises(ConnectionRefusedError):
                Peer(link.url)
            assert peer.ended()
    with Peer(link.url) as peer:
        assert peer.call("PING") == b"PONG"


def test_pointed_at(link: Link, store: Store) -> None:
    """Only those who are meant are with another store, and come back."""
    with Store() as other:
        store.command("SET", "who", "first")
        other.command("SET", "who", "second")

        def who(name: str) -> bytes:
            with Peer(link.url, name) as peer:
                found: bytes = peer.call("GET", "who")
                return found

        hearing, asking = Peer(link.url, "w1" + SUBSCRIBER), Peer(link.url)
        with hearing, asking, link.pointed_at(other, SUBSCRIBER):
            assert hearing.ended() and asking.call("PING") == b"PONG"
            assert (who("w1" + SUBSCRIBER), who("w1" + COMMANDS)) == (b"second", b"first")
        assert who("w1" + SUBSCRIBER) == b"first"
        with link.pointed_at(other):
            assert who("w1" + COMMANDS) == b"second"
        assert who("w1" + COMMANDS) == b"first"
        link.point(other)
        assert who("w1" + SUBSCRIBER) == b"second"
        link.point(store)


def test_a_store_that_is_gone_ends_the_connection(store: Store) -> None:
    """As a refusal would."""
    with Link(f"unix://{store.folder}/nowhere") as link, pytest.raises((EOFError, ConnectionError)):
        Peer(link.url)


PARENT = """
import sys
from tests.faults.link import Link
with Link("unix:///nowhere") as link, link.hung():
    print(link.pid, flush=True)
    sys.stdin.read()
"""


def test_it_dies_with_its_parent() -> None:
    """Even when the parent is killed while the line is hung."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert processes.alive(pid)
        parent.kill()
        eventually_now(lambda: not processes.alive(pid), what="the line is gone")
