"""tests.faults.store: each fault of a store does what it says, on both kinds of server, and is over after its block."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from tests import processes
from tests.faults.store import Embedded, Pair, Store
from tests.faults.test_link import Peer, timed
from tests.servers import Server
from tests.stores import DURABLE
from tests.waiting import eventually_now

KINDS = ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One for all tests that leave it alive."""
    with Store(request.param) as made:
        yield made


@pytest.fixture(params=KINDS)
def mortal(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One of the test's own, that keeps what it is told."""
    with Store(request.param, options=DURABLE) as made:
        yield made


def refusal(store: Store | Embedded, *args: object) -> str:
    """The first word of what the store says to a command; "" when it does it."""
    try:
        store.command(*args)
    except redis.RedisError as error:
        return type(error).__name__ if isinstance(error, redis.ConnectionError) else str(error).split()[0]
    return ""


WRITE = ("SET", "a", "1")
"""A command that is denied when there is no memory."""


def test_it_listens_on_both_kinds_of_sockets() -> None:
    """With its password in either URL."""
    with Store(password="secret") as store:
        for url in (store.url, f"redis://127.0.0.1:{store.port}"):
            with pytest.raises(AssertionError, match="NOAUTH"):
                Peer(url)
        assert store.url.startswith("unix://:secret@/") and store.command("PING") == b"PONG"
        store.tcp = True
        assert store.url.startswith("redis://:secret@127.0.0.1:")


@pytest.mark.parametrize("clean", [False, True])
def test_killed(mortal: Store, clean: bool) -> None:
    """It is gone for the block, and then has what was acknowledged: another process, another run."""
    mortal.command(*WRITE)
    pid = mortal.pid
    with mortal.killed(clean=clean):
        assert not processes.alive(pid)
        assert refusal(mortal, "PING") == "ConnectionError"
        assert ("exit" in (mortal.folder / "log").read_text()[-200:]) == clean
    assert mortal.pid != pid and mortal.command("GET", "a") == b"1"


def test_killed_and_empty(mortal: Store) -> None:
    """It comes back with nothing."""
    mortal.command(*WRITE)
    with mortal.killed(empty=True):
        pass
    assert mortal.command("DBSIZE") == 0


def test_killed_and_back_by_itself(mortal: Store) -> None:
    """Within the block, or at its end if that is earlier."""
    with mortal.killed(restart_after=0.1):
        eventually_now(lambda: refusal(mortal, "PING") == "")
    with mortal.killed(restart_after=60.0):
        pass
    assert mortal.command("PING") == b"PONG"


def test_stopped(store: Store) -> None:
    """Nothing is done, no connection is lost, and what was asked is done afterwards."""
    with Peer(store.url) as peer:
        with store.stopped():
            peer.send("PING")
            with pytest.raises(TimeoutError):
                peer.reply(0.1)
        assert peer.reply() == b"PONG"


def test_client_pause(store: Store) -> None:
    """For its time, which the block waits out."""
    with Peer(store.url) as peer:
        began = time.monotonic()
        with store.client_pause(0.3):
            peer.send("PING")
            with pytest.raises(TimeoutError):
                peer.reply(0.1)
        assert time.monotonic() - began >= 0.3
        assert peer.reply() == b"PONG"
        with store.client_pause(60.0, writes=True):
            assert peer.call("GET", "b") is None
            peer.send("SET", "b", 1)
            with pytest.raises(TimeoutError):
                peer.reply(0.1)
        assert peer.reply() == b"OK"
        peer.call("DEL", "b")


def test_sleeping(store: Store) -> None:
    """It does nothing at all for so long."""
    with Peer(store.url) as peer:
        began = time.monotonic()
        with store.sleeping(0.3):
            pass
        assert time.monotonic() - began >= 0.3
        with store.sleeping(0.3):
            eventually_now(lambda: timed(lambda: peer.call("PING")) > 0.1, 0.5)


def test_busy(store: Store) -> None:
    """All are refused, until the script is killed."""
    with store.busy():
        assert refusal(store, "GET", "a") == refusal(store, "PING") == "BUSY"
    assert refusal(store, *WRITE) == ""


def test_loading(store: Store) -> None:
    """All are refused for as long as the block lasts; connections and data are kept."""
    store.command(*WRITE)
    run = store.command("INFO", "server").split(b"run_id:")[1].split()[0]
    with Peer(store.url) as peer:
        with store.loading():
            for _ in range(3):
                assert str(peer.call("GET", "a")).startswith("LOADING")
        assert peer.call("GET", "a") == b"1" and peer.call("DBSIZE") == store.command("DBSIZE")
    assert store.command("DBSIZE", db=15) == 0
    assert run in store.command("INFO", "server")
    assert store.command("CONFIG", "GET", "key-load-delay")[1] == b"0"


def test_kill(store: Store) -> None:
    """Only subscribers, or only the others."""
    with Peer(store.url) as hearing, Peer(store.url) as asking:
        hearing.call("SUBSCRIBE", "news")
        assert store.kill_pubsub() == 1
        assert hearing.ended() == "closed" and asking.call("PING") == b"PONG"
        assert store.kill_commands() >= 1
        assert asking.ended() == "closed"


def test_output_limit(store: Store) -> None:
    """A subscriber who does not read is dropped; one who does is not."""
    with Peer(store.url) as peer, Peer(store.url) as idle, store.output_limit(65536):
        idle.call("SUBSCRIBE", "news")
        peer.call("SUBSCRIBE", "other")
        eventually_now(lambda: store.command("PUBLISH", "news", b"x" * 10_000) == 0)
        assert store.command("PUBLISH", "other", b"x") == 1
    assert b"33554432" in store.command("CONFIG", "GET", "client-output-buffer-limit")[1]


def test_idle_limit(store: Store) -> None:
    """Who says nothing is dropped, unless it follows something."""
    with Peer(store.url) as idle, Peer(store.url) as peer, store.idle_limit(1):
        peer.call("SUBSCRIBE", "news")
        assert idle.ended() == "closed"
        assert store.command("PUBLISH", "news", b"x") == 1


REFUSALS: dict[str, tuple[Callable[[Store], contextlib.AbstractContextManager[None]], str]] = {
    "full": (Store.full, "OOM"),
    "readonly": (Store.readonly, "READONLY"),
    "without_replicas": (Store.without_replicas, "NOREPLICAS"),
    "unsaved": (Store.unsaved, "MISCONF"),
    "forbidden": (lambda store: store.forbidden("-set"), "NOPERM"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_writes_are_refused(store: Store, name: str) -> None:
    """With the word that belongs to it, while reads are served."""
    fault, word = REFUSALS[name]
    with Peer(store.url) as peer:
        with fault(store):
            answer = peer.call(*WRITE)
            assert isinstance(answer, Exception) and str(answer).startswith(word)
            assert peer.call("EXISTS", "a") in (0, 1)
            if name in ("full", "readonly"):
                assert isinstance(peer.call("EVAL", "return redis.call('SET', 'a', '1')", 0), Exception)
        assert peer.call(*WRITE) == b"OK"


def test_wrong_password(store: Store) -> None:
    """All are thrown out and do not come in again until it is over."""
    with Peer(store.url) as peer, store.wrong_password():
        assert peer.ended() == "closed"
        with pytest.raises(AssertionError, match="NOAUTH"):
            Peer(store.url)
        assert store.command("PING") == b"PONG", "the fault itself can look in"
    with Peer(store.url) as peer:
        assert peer.call("PING") == b"PONG"


def test_forget(store: Store) -> None:
    """One key of a channel, all keys, all scripts."""
    for key in ("meta", "stream"):
        store.command("SET", f"rt:default:{{a:b}}:{key}", "x")
    assert store.forget("a:b", "meta") and not store.forget("a:b", "meta")
    assert store.command("EXISTS", "rt:default:{a:b}:stream") == 1
    assert not store.forget("a:b", "stream", prefix="rt", tenant="acme") and store.forget("a:b", "stream")
    digest = store.command("SCRIPT", "LOAD", "return 1")
    store.forget_scripts()
    assert refusal(store, "EVALSHA", digest, 0) == "NOSCRIPT" or refusal(store, "EVALSHA", digest, 0) == "No"
    store.command(*WRITE)
    store.flush()
    assert store.command("DBSIZE") == 0


def test_a_setting_is_put_back_after_a_failure(store: Store) -> None:
    """As is everything else."""
    with pytest.raises(ZeroDivisionError), store.full(), store.setting("hz", 11):
        raise ZeroDivisionError
    assert store.command("CONFIG", "GET", "maxmemory")[1] == b"0"


@pytest.mark.parametrize(
    ("program", "tcp"),
    [("valkey-server", False), pytest.param("redis-server", True, marks=pytest.mark.needs("redis-server"))],
)
def test_pair(program: str, tcp: bool) -> None:
    """What the replica did not hear of is lost with the primary; after a failback nothing more is."""
    with Pair(program, tcp=tcp) as pair:
        first, second = pair.primary, pair.replica
        first.command("SET", "a", 1)
        pair.wait_synced()
        assert second.command("GET", "a") == b"1"
        with Peer(pair.url) as peer:
            with pair.lagging():
                assert peer.call("SET", "a", 2) == b"OK"
                pair.promote()
            assert peer.ended()
        assert (pair.primary, pair.replica) == (second, first)
        with Peer(pair.url) as peer:
            assert peer.call("GET", "a") == b"1"
            assert peer.call("SET", "b", 3) == b"OK"
        pair.failback()
        assert (pair.primary, pair.replica) == (first, second)
        with Peer(pair.url) as peer:
            assert [peer.call("GET", "a"), peer.call("GET", "b")] == [b"1", b"3"]
            assert peer.call("SET", "b", 4) == b"OK"
        pair.wait_synced()
        assert second.command("GET", "b") == b"4"


def test_pair_split() -> None:
    """The old primary lives on with whoever is not told, and takes writes that are lost when it comes back."""
    with Pair() as pair:
        old = pair.primary
        with Peer(pair.url) as left:
            pair.promote(kill=False, cut=False)
            assert left.call("SET", "a", "old") == b"OK"
            with Peer(pair.url) as peer:
                assert peer.call("SET", "a", "new") == b"OK"
            assert old.command("GET", "a") == b"old"
            pair.rejoin()
            assert left.call("GET", "a") == b"new"
            assert "READONLY" in str(left.call("SET", "a", "old"))


def test_pair_without_lag() -> None:
    """Nothing is lost when the replica had everything."""
    with Pair() as pair:
        with Peer(pair.url) as peer:
            assert peer.call("SET", "a", 1) == b"OK"
        pair.wait_synced()
        pair.promote()
        with Peer(pair.url) as peer:
            assert peer.call("GET", "a") == b"1"


def test_embedded(own_server: Server) -> None:
    """The store of a running server has the same faults, and comes back by itself when it is killed."""
    store = Embedded(own_server)
    before = store.pid
    with store.killed():
        assert not processes.alive(before)
    assert store.pid != before
    with store.full():
        assert refusal(store, *WRITE) == "command" or refusal(store, *WRITE) == "OOM"
    with store.stopped(), contextlib.suppress(redis.RedisError):
        store.command("PING", timeout=0.1)
    assert store.kill_pubsub() >= 0
    own_server.wait_ready()
    with pytest.raises(ValueError, match="by itself"), store.killed(empty=True):
        pass
