"""``server.py status``, ``connections``, ``connection``, ``channel``, ``tail``: what operators ask a running server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Api, SdkClient
from tests.servers import Server
from tests.tokens import connection_token

SERVER = Path(__file__).resolve().parent.parent.parent / "server.py"


def ask(command: str, server: Server, *words: str) -> tuple[int, str, str]:
    """Its status, and what it writes to both."""
    done = subprocess.run(
        [sys.executable, str(SERVER), command, str(server.config_file), *words],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_status_is_a_table(own_server: Server) -> None:
    """Green with a row per worker; 1 when nobody answers."""
    status, out, err = ask("status", own_server, "--seconds", "0.2")
    assert (status, err) == (0, "")
    assert out.startswith("state ") and "ready" in out.splitlines()[0]
    for pid in own_server.worker_pids():
        assert f" {pid} " in out
    own_server.stop()
    status, out, err = ask("status", own_server)
    assert (status, out) == (1, "") and err.count("\n") == 1


def test_connections_and_channels_are_found(own_server: Server, channel: str) -> None:
    """By user and by channel, as a table and as JSON; one that is not there is said so."""

    async def run() -> None:
        async with Api(own_server) as api, SdkClient(own_server, token=connection_token("ann\x1b[31m")) as client:
            await client.subscribe(channel)
            await api.publish(channel, "one")
            await client.until(channel, 1)
            await asyncio.to_thread(look, client.connected["client"])

    def look(client: str) -> None:
        status, out, _ = ask("connections", own_server, "--channel", channel)
        assert status == 0 and client in out and "1 in all" in out
        assert "\x1b" not in out, "what does not print is never printed"
        assert found("connections", "--user", "nobody")["connections"] == []
        assert found("connections", "--user", "ann\x1b[31m")["connections"][0]["client"] == client
        status, out, _ = ask("connection", own_server, client)
        assert status == 0 and json.loads(out)
        assert ask("connection", own_server, "unknown")[0] == 1
        status, out, _ = ask("channel", own_server, channel)
        assert status == 0 and "subscribers" in out and "priority normal" in out
        whole = found("channel", channel)
        assert (
            whole["num_clients"] == 1 and whole["position"]["offset"] == 1 and whole["policy"]["priority"] == "normal"
        )

    def found(command: str, *words: str) -> dict[str, Any]:
        status, out, err = ask(command, own_server, *words, "--json")
        assert (status, err) == (0, "")
        answer: dict[str, Any] = json.loads(out)
        return answer

    asyncio.run(run())


def test_tail_shows_what_passes(own_server: Server, channel: str) -> None:
    """Where it begins, then each publication."""

    async def run() -> None:
        words = [sys.executable, str(SERVER), "tail", str(own_server.config_file), channel]
        tail = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        try:
            assert tail.stdout is not None
            async with asyncio.timeout(20), Api(own_server) as api:
                assert (await tail.stdout.readline()).startswith(b"-- " + channel.encode())
                await api.publish(channel, "passing")
                assert b'"passing"' in await tail.stdout.readline()
        finally:
            tail.kill()
            await tail.communicate()

    asyncio.run(run())


@pytest.mark.parametrize("command", ["status", "connections"])
def test_a_tenant_that_is_not_there(own_server: Server, command: str) -> None:
    """Is one line on stderr."""
    status, out, err = ask(command, own_server, "--tenant", "nobody")
    assert status == 1 and out == "" and "nobody" in err
