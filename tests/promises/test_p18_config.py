"""P18, F78: a bad file never starts a server and never replaces a good one; what is wrong is told with its place."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import processes
from tests.clients import Api, Reply, SdkClient
from tests.servers import ROOT, Server, free_port
from tests.waiting import eventually_now

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(8)
)
BAD = {
    "unknown key": "server: {prot: 8000}\n",
    "wrong type": "server: {port: many}\n",
    "zero": "server: {workers: 0}\n",
    "negative": "limits: {connections: {per_worker: -1}}\n",
    "huge": "limits: {connections: {per_worker: 99999999999999999999}}\n",
    "nan": "redis: {timeout: .nan}\n",
    "infinity": "server: {drain: {duration: .inf}}\n",
    "twice": "server: {port: 8001}\nserver: {port: 8002}\n",
    "bomb": BOMB,
    "tab": "server:\n\tport: 8000\n",
    "no mapping": "- server\n",
    "not text": "server: {address: \x00}\n",
    "no certificate": "server: {tls: {cert_file: none.pem, key_file: none.pem}}\n",
    "no secret": "http_api: {key_file: none}\n",
    "empty variable": "http_api: {key: '${RT_TEST_NOTHING}'}\n",
    "insecure": "server: {mode: production}\n",
    "two rules": "client: {ping_interval: 5s, pong_timeout: 8s}\n",
}
PLACED = re.compile(r"^\S+:\d+: .*\S")
"""A file, a line, and what is wrong there."""


def test_f78_p18_no_bad_file_starts(tmp_path: Path) -> None:
    """Each ends with status 78 and a line with file and line for each mistake, without a traceback."""
    started = {}
    for name, text in BAD.items():
        file = tmp_path / f"{name.replace(' ', '-')}.yaml"
        file.write_text(text)
        started[name] = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), "run", str(file)],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    for name, process in started.items():
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 78, (name, said)
        lines = said.splitlines()
        assert lines and all(PLACED.match(line) for line in lines), (name, said)
        assert "Traceback" not in said and str(tmp_path) in said, (name, said)


@pytest.mark.parametrize("missing", ["file", "readable"])
def test_f78_a_file_that_cannot_be_read(tmp_path: Path, missing: str) -> None:
    """Missing, or a directory: status 78 and one line."""
    file = tmp_path / "rt.yaml"
    if missing == "readable":
        file.mkdir()
    command = [sys.executable, str(ROOT / "server.py"), "run", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 78 and ended.stderr.count("\n") == 1 and str(file) in ended.stderr


def test_f78_a_store_that_is_down_is_no_mistake() -> None:
    """The server starts, is not ready and says why, refuses a publish with 100, and stops with status 0."""
    url = f"redis://127.0.0.1:{free_port()}"
    with Server({"redis": {"url": url, "connect_timeout": "300ms"}}, await_ready=False) as server:
        eventually_now(lambda: server.internal("/ready")[0] == 503, 20.0, "it answers")
        assert "store" in server.internal("/ready")[1]

        async def run() -> None:
            async with Api(server) as api:
                with pytest.raises((Reply, AssertionError)):
                    await api.publish("news", 1)

        asyncio.run(run())


def await_refusal(server: Server, mark: int) -> None:
    """Until the log says so behind this place."""
    eventually_now(lambda: "the old one stays" in server.log()[mark:], 10.0, "it is refused")


@pytest.mark.timeout(120)
def test_p18_no_bad_file_replaces_a_good_one(start_server: Callable[..., Server], channel: str) -> None:
    """Reloaded one after the other: each is refused with its place, the key of before still opens the API, a worker
    can be started on what it was; nobody who is connected notices. A good one is taken at last."""
    server = start_server()
    good = server.config_file.read_text()

    async def refused(client: SdkClient) -> None:
        for name, text in BAD.items():
            mark = len(server.log())
            server.config_file.write_text(text)
            processes.kill(server.pid, signal.SIGHUP)
            await asyncio.to_thread(await_refusal, server, mark)
            assert f"config: {server.config_file}:" in server.log()[mark:], name
        async with Api(server) as api:
            await api.publish(channel, "after them all")
        assert await client.until(channel, 1) == ["after them all"]

    async def run() -> None:
        async with SdkClient(server) as client:
            await client.subscribe(channel)
            await refused(client)
            worker = server.worker_of(client.socket.local_address[1])
            server.kill_worker(next(pid for pid in server.worker_pids() if pid != worker))
            await asyncio.to_thread(eventually_now, lambda: server.log().count("worker ready") == 3, 20.0)
            assert not client.gone

    asyncio.run(run())
    settings = yaml.safe_load(good)
    settings["http_api"]["key"] = "another-key-of-the-tests"
    server.config_file.write_text(yaml.safe_dump(settings))
    processes.kill(server.pid, signal.SIGHUP)
    eventually_now(lambda: "config reloaded" in server.log(), 10.0, "the good one is taken")

    async def call() -> None:
        async with Api(server, key="another-key-of-the-tests") as api:
            await api.publish(channel, 1)

    asyncio.run(call())
