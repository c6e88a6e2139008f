"""F79, P9: a rolling upgrade from one tree to another: releases in directories, and a symbolic link that is moved."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rt import __version__
from tests import processes
from tests.clients import Api, SdkClient, on_worker
from tests.servers import ROOT, Server
from tests.waiting import eventually_now

NEWER = "99.0.0"


class Released(Server):
    """A server whose code is behind the link ``current`` of its folder."""

    def release(self, version: str) -> Path:
        """A copy of this tree that calls itself ``version``."""
        tree = self.folder / version
        shutil.copytree(ROOT / "rt", tree / "rt", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "server.py", tree)
        file = tree / "rt" / "__init__.py"
        text, count = re.subn(r'(?m)^(__version__\b.*= )".*"$', rf'\1"{version}"', file.read_text())
        assert count == 1
        file.write_text(text)
        return tree

    def point(self, tree: Path) -> None:
        """Move the link, in one step."""
        link = self.folder / "next"
        link.symlink_to(tree)
        link.rename(self.folder / "current")

    def start(self) -> None:
        self.write_config()
        self.point(self.release(__version__))
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.folder / "current" / "server.py"), "run", str(self.config_file)],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip

    def versions(self) -> dict[str, str]:
        """By worker, as the API has them."""

        async def run() -> dict[str, str]:
            async with Api(self) as api:
                return {node["name"]: node["version"] for node in (await api.call("info"))["nodes"]}

        return asyncio.run(run())


@pytest.fixture
def released() -> Iterator[Released]:
    """One that runs this version."""
    with Released({"server": {"drain": {"duration": "200ms"}}}) as running:
        yield running


def talk(server: Server, channel: str) -> None:
    """A client on each worker; what each publishes, and the API, both get."""

    async def run() -> None:
        one = await on_worker(lambda: SdkClient(server), lambda name: name.endswith("-0"))
        other = await on_worker(lambda: SdkClient(server), lambda name: name.endswith("-1"))
        async with Api(server) as api:
            for client in (one, other):
                await client.subscribe(channel)
            await one.publish(channel, "from one")
            await other.publish(channel, "from the other")
            await api.publish(channel, "from a backend")
            for client in (one, other):
                assert await client.until(channel, 3) == ["from one", "from the other", "from a backend"]
            await api.call("unsubscribe", user="", channel=channel)
            await api.call("disconnect", user="", client=other.connected["client"])
        await other.wait_ended()
        await one.close()
        await other.close()

    asyncio.run(run())


@pytest.mark.timeout(120)
def test_f79_p09_a_new_version_is_taken_worker_by_worker(released: Released, channel: str) -> None:
    """First one worker is of the newer version, and the two understand each other; then all are; and back again."""
    old, new = released.folder / __version__, released.release(NEWER)
    assert set(released.versions().values()) == {__version__}
    released.point(new)
    (first, second) = sorted(released.worker_pids())
    processes.kill(first, signal.SIGTERM)
    eventually_now(lambda: "workers replaced" in released.log(), 30.0, "one is replaced")
    eventually_now(lambda: sorted(released.versions().values()) == sorted([__version__, NEWER]), 15.0, "mixed")
    assert second in released.worker_pids()
    talk(released, f"{channel}-mixed")
    for tree, version in ((new, NEWER), (old, __version__)):
        released.point(tree)
        before, mark = set(released.worker_pids()), len(released.log())
        processes.kill(released.pid, signal.SIGUSR2)
        eventually_now(lambda mark=mark: "workers replaced" in released.log()[mark:], 40.0, version)  # type: ignore[misc]
        assert not before & set(released.worker_pids())
        eventually_now(lambda version=version: set(released.versions().values()) == {version}, 15.0, version)  # type: ignore[misc]
    talk(released, f"{channel}-back")
