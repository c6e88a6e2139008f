"""What can happen to a store, as ``with`` blocks: ``with Store() as store, store.full(): ...``.

:class:`Store` is a server of the test's own, :class:`Embedded` the one that a running server keeps for itself. Both
have every fault, except that the embedded store is started again by its server, and knows no DEBUG. What happens at
once and needs no end is a plain method. :class:`Pair` is a primary with a replica.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import redis

from rt.broker.keys import Keys
from tests import stores
from tests.faults import process
from tests.faults.link import Link
from tests.servers import Server
from tests.stores import START_TIME, free_port
from tests.waiting import eventually_now

FILLER = "filler:"
"""Prefix of the keys that make loading last."""

FILLERS = 100_000
"""How many of them. At a millisecond each, loading lasts longer than any test."""


class Faults(ABC):
    """What can happen to any store whose process and socket are here."""

    password = ""
    """What its own connections log in with, as user ``default``."""

    folder: Path
    """Where it keeps its files."""

    socket: Path
    """The Unix socket on which it listens."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of its process."""

    @abstractmethod
    def killed(
        self, *, clean: bool = False, empty: bool = False, restart_after: float | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """It dies of SIGKILL, or of SIGTERM when ``clean``, and answers again after the block."""

    def command(self, *args: Any, db: int = 0, timeout: float = START_TIME) -> Any:
        """One command over a connection of its own; names and values are bytes. redis.RedisError when it is refused."""
        made: Any = redis.UnixDomainSocketConnection  # its stubs call it abstract
        password = self.password or None
        connection = made(path=str(self.socket), password=password, db=db, socket_timeout=timeout, protocol=2)
        try:
            connection.connect()
            connection.send_command(*args)
            return connection.read_response()
        finally:
            connection.disconnect()

    def wait_answers(self) -> None:
        """Wait until it answers and has loaded what it kept."""

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError, OSError):
                return bool(self.command("PING"))
            return False

        eventually_now(answers, START_TIME, "the store answers")

    # It stands still

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """SIGSTOP for the block: connections stay, nothing is done. What came is done afterwards."""
        return process.stopped(self.pid)

    @contextlib.contextmanager
    def client_pause(self, seconds: float, *, writes: bool = False) -> Iterator[None]:
        """CLIENT PAUSE: no command is served, for ``seconds``, and the block does not end before: there is no other way
        out. With ``writes`` only commands that may write are not served, and the pause ends with the block at last."""
        self.command("CLIENT", "PAUSE", int(seconds * 1000), "WRITE" if writes else "ALL")
        end = time.monotonic() + seconds
        try:
            yield
        finally:
            if writes:
                self.command("CLIENT", "UNPAUSE")
            else:
                eventually_now(lambda: time.monotonic() >= end, seconds + START_TIME)
            self.wait_answers()

    @contextlib.contextmanager
    def sleeping(self, seconds: float) -> Iterator[None]:
        """DEBUG SLEEP: it does nothing at all for ``seconds``; the block does not end before."""
        with self._meanwhile("DEBUG", "SLEEP", seconds):
            yield
        self.wait_answers()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A script that does not end: everybody gets -BUSY."""
        with self.setting("busy-reply-threshold", 1), self._meanwhile("EVAL", "while true do end", 0):
            try:
                self._wait_refuses("BUSY")
                yield
            finally:
                self.command("SCRIPT", "KILL")

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """It reads its data anew, and until the end of the block everybody gets -LOADING. Nothing is lost."""
        self.command("DEBUG", "POPULATE", FILLERS, FILLER, 1, db=15)
        try:
            with (
                self.setting("loading-process-events-interval-bytes", 1024),
                self.setting("key-load-delay", 1000),
                self._meanwhile("DEBUG", "RELOAD"),
            ):
                try:
                    self._wait_refuses("LOADING")
                    yield
                finally:
                    self.command("CONFIG", "SET", "key-load-delay", 0)
        finally:
            self.wait_answers()
            self.command("FLUSHDB", db=15)
            (self.folder / "dump.rdb").unlink(missing_ok=True)

    def _wait_refuses(self, word: str) -> None:
        def refuses() -> bool:
            try:
                self.command("GET", "nothing", timeout=1.0)
            except redis.BusyLoadingError:
                return word == "LOADING"
            except redis.RedisError as error:
                return str(error).upper().startswith(word)
            return False

        eventually_now(refuses, START_TIME, f"the store says {word}")

    @contextlib.contextmanager
    def _meanwhile(self, *args: Any) -> Iterator[None]:
        """A command that is not answered soon, until it is."""
        made: Any = redis.UnixDomainSocketConnection
        connection = made(path=str(self.socket), password=self.password or None, socket_timeout=None, protocol=2)
        connection.connect()
        try:
            connection.send_command(*args)
            try:
                yield
            finally:
                with contextlib.suppress(redis.RedisError):  # a script that was killed says so
                    connection.read_response()
        finally:
            connection.disconnect()

    # It drops connections

    def kill_pubsub(self) -> int:
        """CLIENT KILL TYPE pubsub; how many there were."""
        return int(self.command("CLIENT", "KILL", "TYPE", "pubsub"))

    def kill_commands(self) -> int:
        """The same for all others."""
        return int(self.command("CLIENT", "KILL", "TYPE", "normal"))

    def output_limit(self, size: int) -> contextlib.AbstractContextManager[None]:
        """A subscriber for whom more than ``size`` bytes wait is dropped."""
        return self.setting("client-output-buffer-limit", f"pubsub {size} 0 0")

    def idle_limit(self, seconds: int) -> contextlib.AbstractContextManager[None]:
        """Connections that say nothing for so long are dropped; subscribers are not."""
        return self.setting("timeout", seconds)

    # It refuses

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No memory for writes: -OOM."""
        with self.setting("maxmemory-policy", "noeviction"), self.setting("maxmemory", 1):
            yield

    @contextlib.contextmanager
    def readonly(self) -> Iterator[None]:
        """A primary that was made a replica of nobody: -READONLY. It is another lineage afterwards."""
        self.command("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            self.command("REPLICAOF", "NO", "ONE")

    def without_replicas(self) -> contextlib.AbstractContextManager[None]:
        """It takes no writes without a replica and has none: -NOREPLICAS."""
        return self.setting("min-replicas-to-write", 1)

    @contextlib.contextmanager
    def unsaved(self) -> Iterator[None]:
        """It cannot write its file and therefore takes no writes: -MISCONF."""
        obstacle = self.folder / "dump.rdb" / "in-the-way"
        (self.folder / "dump.rdb").unlink(missing_ok=True)
        obstacle.mkdir(parents=True)
        try:
            with self.setting("save", "3600 1000000"):
                self.command("BGSAVE")
                eventually_now(lambda: b"rdb_last_bgsave_status:err" in self.command("INFO", "persistence"))
                yield
        finally:
            shutil.rmtree(obstacle.parent)
            self.command("BGSAVE")
            eventually_now(lambda: b"rdb_last_bgsave_status:ok" in self.command("INFO", "persistence"))
            (self.folder / "dump.rdb").unlink(missing_ok=True)

    @contextlib.contextmanager
    def wrong_password(self) -> Iterator[None]:
        """The password is another one, and who is connected is thrown out: -WRONGPASS, or -NOAUTH for who has none."""
        before, self_password = self.password, f"not {self.password}"
        self.command("CONFIG", "SET", "requirepass", self_password)
        self.password = self_password
        self.kill_pubsub()
        self.kill_commands()
        try:
            yield
        finally:
            self.command("CONFIG", "SET", "requirepass", before)
            self.password = before

    @contextlib.contextmanager
    def forbidden(self, *rules: str) -> Iterator[None]:
        """Commands or categories that nobody may use, as in ``-evalsha`` or ``-@pubsub``: -NOPERM."""
        self.command("ACL", "SETUSER", "default", *rules)
        try:
            yield
        finally:
            self.command("ACL", "SETUSER", "default", "allcommands")

    @contextlib.contextmanager
    def setting(self, name: str, value: object) -> Iterator[None]:
        """A CONFIG SET for the block."""
        before = self.command("CONFIG", "GET", name)[1]
        self.command("CONFIG", "SET", name, str(value))
        try:
            yield
        finally:
            self.command("CONFIG", "SET", name, before)

    # It forgets

    def flush(self) -> None:
        """FLUSHALL: everything is gone; the server is the same."""
        self.command("FLUSHALL")

    def forget(
        self, channel: str, what: Literal["meta", "stream"], *, prefix: str = "rt", tenant: str = "default"
    ) -> bool:
        """One key of a channel is gone, as by eviction; whether it was there."""
        return bool(self.command("DEL", f"{Keys(prefix, tenant).channel(channel)}:{what}"))

    def forget_scripts(self) -> None:
        """SCRIPT FLUSH: -NOSCRIPT."""
        self.command("SCRIPT", "FLUSH")


class Store(Faults, stores.Store):
    """A server of one's own, on a Unix socket and on TCP. ``tcp`` says which of them :attr:`url` names."""

    def __init__(
        self,
        program: str = "valkey-server",
        *,
        options: Sequence[str] = (),
        tcp: bool = False,
        password: str = "",
    ) -> None:
        self.port = free_port()
        self.tcp = tcp
        self.password = password
        mine = ["--port", str(self.port), "--bind", "127.0.0.1", "--enable-debug-command", "local"]
        mine += ["--requirepass", password] if password else []
        super().__init__(program, options=[*mine, *options])

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}" if self.tcp else f"unix://{login}{self.socket}"

    @contextlib.contextmanager
    def killed(self, *, clean: bool = False, empty: bool = False, restart_after: float | None = None) -> Iterator[None]:
        """It dies of SIGKILL, or of SIGTERM when ``clean``, and answers again after the block, or so many seconds after
        its death if that is earlier. What it comes back with is up to its options (:data:`tests.stores.DURABLE`); with
        ``empty``, nothing."""
        self.stop() if clean else self.kill()
        if empty:
            self.wipe()
        timer = threading.Timer(restart_after or 0.0, self.start)
        if restart_after is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()
            if self._process is None:
                self.start()
            self.wait_answers()

    def wipe(self) -> None:
        """Its files are gone."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "dump.rdb").unlink(missing_ok=True)


class Embedded(Faults):
    """The store that a running server keeps for itself."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.folder = Path(server.config["redis"]["state_dir"])
        self.socket = self.folder / "store.sock"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Of its process; waits while there is none."""
        eventually_now(self.server.store_pids, what="the embedded store runs")
        return self.server.store_pids()[0]

    @contextlib.contextmanager
    def killed(self, *, clean: bool = False, empty: bool = False, restart_after: float | None = None) -> Iterator[None]:
        """It dies of SIGKILL, or of SIGTERM when ``clean``. Its server starts it again at once; the block ends when it
        answers. It can neither be kept down nor come back ``empty``: ValueError."""
        if empty or restart_after:
            raise ValueError("a server starts its store again by itself, with what it has")
        pid = self.pid
        process.kill(pid, signal.SIGTERM if clean else signal.SIGKILL)
        yield
        self.wait_answers()


class Pair:
    """A primary and its replica: ``with Pair() as pair: ... pair.url``.

    :attr:`link` leads to whichever is primary; between the two is a line of its own, so that what the primary has
    acknowledged and not yet handed on can be lost for good. Options as for :class:`Store`.
    """

    def __init__(
        self, program: str = "valkey-server", *, options: Sequence[str] = (), tcp: bool = False, seed: int = 0
    ) -> None:
        sync = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        self.primary, self.replica = (Store(program, options=[*sync, *options], tcp=tcp) for _ in range(2))
        self.link = Link(self.primary, tcp=tcp, seed=seed)
        self._wires = {
            store: Link(f"redis://127.0.0.1:{store.port}", tcp=True, raw=True) for store in (self.primary, self.replica)
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.primary)
            stack.enter_context(self.replica)
            for link in (self.link, *self._wires.values()):
                stack.enter_context(link)
            self._follow()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, value, trace)

    @property
    def url(self) -> str:
        """Where the primary is, whichever it is."""
        return self.link.url

    def wait_synced(self) -> None:
        """Wait until the replica has what the primary has."""
        primary, replica = self.primary, self.replica

        def synced() -> bool:
            told = _told(replica)
            there = told.get("master_link_status") == "up" and told.get("master_sync_in_progress") == "0"
            return there and int(told["slave_repl_offset"]) >= int(_told(primary)["master_repl_offset"])

        eventually_now(synced, START_TIME, "the replica has everything")

    @contextlib.contextmanager
    def lagging(self) -> Iterator[None]:
        """The replica hears nothing of what is written meanwhile. Who promotes it within the block loses that."""
        with self._wires[self.primary].black_hole():
            yield

    def promote(self, *, kill: bool = True, cut: bool = True) -> None:
        """The replica becomes the primary with what it has, and new connections go there.

        The old one is killed before. Without ``kill`` it lives on beside it and takes writes, as one that is cut off
        does; then ``cut`` says whether the connections to it are reset, or stay with it until somebody notices.
        """
        old, new = self.primary, self.replica
        if kill:
            old.kill()
        self._wires[old].reset()
        new.command("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = new, old
        self.link.point(new)
        if cut:
            self.link.reset()

    def rejoin(self) -> None:
        """The old primary comes back as the replica of the new one, which costs it whatever only it had; waits until
        it has everything."""
        if self.replica._process is None:
            self.replica.start()
        self._follow()

    def failback(self) -> None:
        """The old primary comes back, and then is the primary again: nothing is lost the second time."""
        self.rejoin()
        with self.primary.client_pause(START_TIME, writes=True):
            self.wait_synced()
            self.promote(kill=False)
            self.rejoin()

    def _follow(self) -> None:
        self.replica.command("REPLICAOF", "127.0.0.1", self._wires[self.primary].port)
        self.wait_synced()


def _told(store: Store) -> dict[str, str]:
    """INFO replication."""
    lines = store.command("INFO", "replication").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
