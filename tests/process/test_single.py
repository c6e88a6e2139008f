"""One process without a supervisor."""

from __future__ import annotations

import http.client
import signal
from pathlib import Path

from tests import processes
from tests.process.supervised import Supervised
from tests.waiting import eventually_now

SINGLE = ("--single",)


def test_two_processes_share_a_port(tmp_path: Path) -> None:
    """``run --single`` may be started twice with the same file: connections are spread, and either may go."""
    with Supervised(tmp_path / "a", arguments=SINGLE) as first, Supervised(tmp_path / "b", arguments=SINGLE) as second:
        first.wait_ready()
        second.stop()
        ports = {"port": first.port, "internal": {"port": first.internal_port}}
        second.write({"server": ports})
        second.log_file.unlink()
        second.start()
        second.port = first.port
        second.wait_ready()
        assert sorted(first.all_facts()) == sorted([first.pid, second.pid])
        assert first.stop() == 0
        assert set(second.all_facts(1)) == {second.pid}
        assert second.stop() == 0


def test_it_runs_the_store_itself(tmp_path: Path) -> None:
    """With the embedded store, the store is below the process, and dies with it."""
    with Supervised(tmp_path, {"redis": {"url": "embedded"}}, arguments=SINGLE) as server:
        server.wait_ready()
        store = server.store()
        assert server.facts()["url"].startswith("unix://")
        assert server.facts()["lineage"]
        server.signal(signal.SIGKILL)
        server.wait()
        eventually_now(lambda: not processes.alive(store))


def test_a_store_directory_in_use_is_refused(tmp_path: Path) -> None:
    """A second process on the same state directory is told what to do instead."""
    with Supervised(tmp_path / "a", {"redis": {"url": "embedded"}}, arguments=SINGLE) as first:
        first.wait_ready()
        state = {"redis": {"url": "embedded", "state_dir": str(first.folder / "var")}}
        with Supervised(tmp_path / "b", state, arguments=SINGLE) as second:
            assert second.wait() == 78
            assert f"(in use by process {first.pid}), expected a directory of its own, or a redis://" in second.log()
            assert "Traceback" not in second.log()
        assert first.stop() == 0


def test_it_reloads(tmp_path: Path) -> None:
    """SIGHUP works as it does with a supervisor: good files are used, bad ones are not."""
    with Supervised(tmp_path, arguments=SINGLE) as server:
        server.wait_ready()
        server.write({"http_api": {"key": "k1"}})
        server.signal(signal.SIGHUP)
        server.wait_log("config reloaded")
        assert server.facts()["key"] == "k1"
        server.file.write_text("server: [")
        server.signal(signal.SIGHUP)
        server.wait_log("the old one stays")
        assert server.facts()["key"] == "k1"
        assert server.stop() == 0


def test_a_failed_start_is_one_line(tmp_path: Path) -> None:
    """A port that belongs to another kind of listener is a mistake in the config, as with a supervisor."""
    with Supervised(tmp_path, {"server": {"address": "192.0.2.1"}}, arguments=SINGLE) as server:
        assert server.wait() == 78
        assert "server.address: found 192.0.2.1" in server.log()
        assert "Traceback" not in server.log()


def test_it_counts(tmp_path: Path) -> None:
    """The real app is ready, and has metrics: what it counts does not go where nobody reads it."""
    settings = {"server": {"mode": "development"}, "redis": {"url": "embedded"}}
    with Supervised(tmp_path, settings, fake=False, arguments=SINGLE) as server:
        eventually_now(lambda: asked(server.internal_port, "/ready")[0] == 200, what="it is ready")
        assert b'rt_store_connected{tenant="default"} 1.0' in asked(server.internal_port, "/metrics")[1]
        assert server.stop() == 0


def asked(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()
