"""The supervisor from outside: real processes, real signals."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.process.supervised import Supervised
from tests.servers import ROOT
from tests.waiting import eventually_now

APPS = [True] + [False] * (importlib.util.find_spec("rt.app") is not None)


@pytest.fixture(params=APPS, ids=lambda fake: "fake app" if fake else "real app")
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervised]:
    """Two workers that are ready, with the fake app and, where there is one, the real."""
    with Supervised(tmp_path, {"redis": {"url": "embedded"}}, fake=request.param) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def faked(tmp_path: Path) -> Iterator[Supervised]:
    """Two workers that are ready, with the fake app, and a store that nobody asks."""
    with Supervised(tmp_path) as server:
        server.wait_ready()
        yield server


def test_workers_get_their_listeners_config_and_lineage(tmp_path: Path) -> None:
    """Each worker has a number, a name and sockets of its own; the store's address and lineage come from the
    supervisor.
    """
    with Supervised(tmp_path, {"redis": {"url": "embedded"}, "http_api": {"key": "k1"}}) as server:
        server.wait_ready()
        facts = server.all_facts()
        assert sorted(facts) == sorted(server.workers())
        assert sorted(fact["index"] for fact in facts.values()) == [0, 1]
        assert len({fact["name"] for fact in facts.values()}) == 2
        first, second = facts.values()
        assert first["key"] == "k1"
        assert first["url"].startswith("unix:///") and first["url"].endswith("/store.sock")
        assert first["lineage"] == second["lineage"] != ""
        assert first["store"] == second["store"] == first["url"]
        assert os.path.isdir(first["metrics_dir"])
        limits = Path(f"/proc/{first['pid']}/limits").read_text()
        soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
        assert soft == hard


def test_no_secret_is_in_a_command_line(tmp_path: Path) -> None:
    """What a worker needs to know comes over the socket pair, not where any user of the machine can read it."""
    with Supervised(tmp_path, {"http_api": {"key": "a-very-secret-key"}}) as server:
        server.wait_ready()
        assert all("secret" not in processes.command(pid) for pid in server.workers())


def test_a_killed_worker_is_replaced_within_two_seconds(running: Supervised) -> None:
    """kill -9 of one worker: a successor accepts within 2 s, and the other one stays."""
    killed, other = running.workers()
    ready = running.log().count("worker ready")
    killed_at = time.monotonic()
    processes.kill(killed, signal.SIGKILL)
    eventually_now(lambda: running.log().count("worker ready") == ready + 1, 5, "a successor")
    assert time.monotonic() - killed_at < 2.0
    assert other in running.workers()
    assert running.ask()
    assert running.stop() == 0


def test_connections_wait_for_the_successor(tmp_path: Path) -> None:
    """With one worker, connections made while it is dead are answered by the next: nobody is refused or reset."""
    with Supervised(tmp_path, {"server": {"workers": 1}}) as server:
        server.wait_ready()
        for _ in range(3):
            processes.kill(server.facts()["pid"], signal.SIGKILL)
            assert server.facts()["pid"]


def test_sigterm_ends_everything_with_status_0(running: Supervised) -> None:
    """SIGTERM: workers and store are gone, exit status 0, well within the time allowed."""
    below = running.below()
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 5.0
    assert not any(map(processes.alive, below))
    with pytest.raises(ConnectionRefusedError):
        running.ask()


def test_sigterm_waits_for_what_is_being_answered_but_not_for_ever(faked: Supervised) -> None:
    """A worker that does not finish is killed in time, and the exit status is still 0."""
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(_ask_quietly(faked, "/slow")))
    asking.start()
    _wait_connected(faked)
    began = time.monotonic()
    assert faked.stop() == 0
    assert time.monotonic() - began < 5.5
    asking.join()


def test_a_second_sigterm_ends_at_once(faked: Supervised) -> None:
    """Told twice, the supervisor does not wait for anybody."""
    asking = threading.Thread(target=_ask_quietly, args=(faked, "/slow"))
    asking.start()
    _wait_connected(faked)
    faked.signal(signal.SIGTERM)
    faked.wait_log("draining seconds")
    began = time.monotonic()
    assert faked.stop() == 0
    assert time.monotonic() - began < 1.5
    asking.join()


def test_sigterm_during_the_start_is_obeyed(tmp_path: Path) -> None:
    """A worker that never gets ready does not keep the supervisor from ending."""
    with Supervised(tmp_path) as server:
        server.fault_file.write_text("never")
        server.wait_log("worker started worker=1")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5.5


def test_sighup_reloads_in_place(faked: Supervised) -> None:
    """All workers get the new values, no process changes, and keys that need a restart are named and stay."""
    before = sorted(faked.workers())
    faked.write({"http_api": {"key": "k2"}, "server": {"workers": 3, "backlog": 100}})
    faked.signal(signal.SIGHUP)
    faked.wait_log("take effect at the next restart: server.workers, server.backlog")
    assert {fact["key"] for fact in faked.all_facts().values()} == {"k2"}
    assert sorted(faked.workers()) == before


def test_a_bad_config_is_not_loaded(faked: Supervised) -> None:
    """SIGHUP with mistakes in the file: each is logged with its line, the old values stay, also for the next worker."""
    faked.file.write_text(faked.file.read_text() + "nonsense: 1\n")
    faked.signal(signal.SIGHUP)
    faked.wait_log("the old one stays mistakes=1")
    assert f"{faked.file}:" in faked.log() and "nonsense" in faked.log()
    killed = faked.workers()[0]
    processes.kill(killed, signal.SIGKILL)
    assert {fact["key"] for fact in faked.all_facts().values()} == {""}


def test_a_reload_is_all_or_nothing(faked: Supervised) -> None:
    """When one worker cannot use the new config, all go back to the old one."""
    faked.write({"http_api": {"key": "refuse"}})
    faked.signal(signal.SIGHUP)
    faked.wait_log("config not reloaded, the old one stays")
    assert {fact["key"] for fact in faked.all_facts().values()} == {""}


def test_a_storm_of_sighup_does_no_harm(faked: Supervised) -> None:
    """Many SIGHUP in a row are some reloads; the last file counts."""
    for number in range(50):
        faked.write({"http_api": {"key": f"k{number}"}})
        faked.signal(signal.SIGHUP)
    eventually_now(lambda: {fact["key"] for fact in faked.all_facts().values()} == {"k49"})
    assert faked.stop() == 0


def test_an_upgrade_refuses_and_resets_nobody(running: Supervised) -> None:
    """SIGUSR2 replaces every worker while clients connect without a pause: each of them is answered."""
    before = set(running.workers())
    failures: list[str] = []
    answered: list[int] = []
    over = threading.Event()

    def connect() -> None:
        while not over.is_set():
            try:
                answer = running.ask()
                answered.append(len(answer))
                if not answer.startswith(b"HTTP/"):
                    failures.append(f"answer {answer!r}")
            except OSError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=connect) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        running.signal(signal.SIGUSR2)
        running.wait_log("workers replaced", 20)
        eventually_now(lambda: len(running.workers()) == 2)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:5]
    assert len(answered) > 20
    assert before.isdisjoint(running.workers())
    assert running.stop() == 0


def test_an_upgrade_to_broken_code_keeps_the_old_workers(faked: Supervised) -> None:
    """When the first replacement does not start, nobody is replaced."""
    before = sorted(faked.workers())
    faked.fault_file.write_text("raise")
    faked.signal(signal.SIGUSR2)
    faked.wait_log("replacing stopped")
    assert sorted(faked.workers()) == before
    assert "RuntimeError: told to fail" in faked.log()
    faked.fault_file.write_text("")
    faked.signal(signal.SIGUSR2)
    faked.wait_log("workers replaced")
    assert set(before).isdisjoint(faked.workers())


def test_upgrade_finds_the_server_by_its_config(faked: Supervised) -> None:
    """``server.py upgrade FILE`` replaces the workers of the server that runs with FILE, if there is one."""
    before = set(faked.workers())
    assert _server_py("upgrade", str(faked.file), cwd=faked.folder).returncode == 0
    faked.wait_log("workers replaced")
    assert before.isdisjoint(faked.workers())
    assert faked.stop() == 0
    refused = _server_py("upgrade", str(faked.file), cwd=faked.folder)
    assert refused.returncode == 1 and "no running server" in refused.stderr


def test_drain_ends_the_server_and_waits(running: Supervised) -> None:
    """``server.py drain FILE``: clients are told to go, and when it returns nothing is left; again, there is nobody."""
    below = running.below()
    drained = _server_py("drain", str(running.file), cwd=running.folder)
    assert drained.returncode == 0, drained.stderr
    assert drained.stdout.splitlines()[-1].endswith("is gone")
    assert not any(map(processes.alive, below))
    assert running.wait() == 0
    again = _server_py("drain", str(running.file), cwd=running.folder)
    assert again.returncode == 1 and "no running server" in again.stderr


def test_drain_of_one_worker(faked: Supervised) -> None:
    """``server.py drain FILE --worker PID``: that one has a successor and ends; a stranger is left alone."""
    leaving, other = faked.workers()
    stranger = _server_py("drain", str(faked.file), "--worker", str(os.getpid()), cwd=faked.folder)
    assert stranger.returncode == 1 and "is no worker" in stranger.stderr
    drained = _server_py("drain", str(faked.file), "--worker", str(leaving), cwd=faked.folder)
    assert drained.returncode == 0, drained.stderr
    faked.wait_log("workers replaced")
    assert other in faked.workers() and leaving not in faked.workers()
    assert len(faked.all_facts()) == 2


def test_a_worker_told_to_stop_by_somebody_else_has_a_successor_at_once(faked: Supervised) -> None:
    """SIGTERM to a worker: it drains, and its seat is taken before it is gone."""
    leaving, other = faked.workers()
    processes.kill(leaving, signal.SIGTERM)
    faked.wait_log("workers replaced")
    assert other in faked.workers() and leaving not in faked.workers()
    assert len(faked.all_facts()) == 2


def test_a_worker_told_again_and_again_to_stop_has_one_successor(faked: Supervised) -> None:
    """While it drains, and while its successor begins: that one is what was asked for."""

    def busy(pid: int) -> bool:
        mine = processes.sockets(pid)
        return any(local == faked.port and inode in mine for local, _, inode in processes.connections())

    with socket.create_connection(("127.0.0.1", faked.port)):  # the worker that has it waits for a request
        eventually_now(lambda: any(map(busy, faked.workers())))
        (leaving,) = filter(busy, faked.workers())
        processes.kill(leaving, signal.SIGTERM)
        faked.wait_log("draining seconds")
        processes.kill(leaving, signal.SIGTERM)
        faked.wait_log("workers replaced", 20)
    assert len(faked.all_facts()) == 2
    assert faked.stop() == 0
    assert faked.log().count("worker started") == 3


def test_nothing_is_left_when_the_supervisor_is_killed(running: Supervised) -> None:
    """kill -9 of the supervisor: neither worker nor store outlives it for long, and a new one can start at once."""
    below = running.below()
    assert len(below) == 3
    running.signal(signal.SIGKILL)
    running.wait()
    running.log_file.unlink()
    running.start()
    running.wait_ready()
    eventually_now(lambda: not any(map(processes.alive, below)), 6, "all are gone")
    assert running.stop() == 0


def test_a_hung_worker_is_gone_too_when_the_supervisor_is_killed(faked: Supervised) -> None:
    """A loop that does not turn cannot keep a worker alive without a supervisor."""
    _hang(faked)
    below = faked.below()
    faked.signal(signal.SIGKILL)
    faked.wait()
    eventually_now(lambda: not any(map(processes.alive, below)), 8, "all are gone")


def test_a_hung_worker_is_killed_and_replaced(faked: Supervised) -> None:
    """A worker in an endless loop: after 10 s of silence it shows where it hangs, dies and is replaced."""
    before = faked.workers()
    _hang(faked)
    faked.wait_log("no heartbeat for 10 s", 15)
    # The dump is written piece by piece, and others may write between the pieces.
    faked.wait_log("Fatal Python error: ")
    faked.wait_log("fake_app.py")
    eventually_now(lambda: len(faked.all_facts()) == 2 and sorted(faked.workers()) != sorted(before))
    assert faked.stop() == 0


def test_a_taken_port_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    """Also when the other process would share it: status 78, one line with file, line and key, no traceback."""
    with Supervised(tmp_path / "a") as first, Supervised(tmp_path / "b") as second:
        first.wait_ready()
        second.stop()
        second.write({"server": {"port": first.port}})
        second.log_file.unlink()
        second.start()
        assert second.wait() == 78
        lines = second.file.read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if f"port: {first.port}" in text)
        complaint = f"{second.file}:{line}: server.port: found {first.port} (in use), expected a free port\n"
        assert complaint in second.log() and "Traceback" not in second.log()


def test_localhost_is_both_families(tmp_path: Path) -> None:
    """With address localhost, 127.0.0.1 and ::1 are answered alike."""
    if not _has_ipv6():
        pytest.skip("no IPv6 here")
    with Supervised(tmp_path, {"server": {"address": "localhost"}}) as server:
        server.wait_ready()
        assert server.ask(host="127.0.0.1") and server.ask(host="::1")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("fault", "status", "said"), [("raise", 69, "told to fail"), ("config", 78, "a.yaml:3: server.demo")]
)
def test_a_worker_that_cannot_start_ends_the_supervisor(tmp_path: Path, fault: str, status: int, said: str) -> None:
    """No endless loop at the very start: the reason is said, and the status tells what kind it is."""
    (tmp_path / "fault").write_text(fault)
    with Supervised(tmp_path) as server:
        assert server.wait(15) == status
        assert said in server.log() and "worker does not start" in server.log()


def test_systemd_is_told(tmp_path: Path) -> None:
    """READY once all accept, RELOADING and READY around a reload, WATCHDOG meanwhile, STOPPING at the end."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(10)
        environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        with Supervised(tmp_path / "s", environ=environ) as server:
            assert "STATUS=2 of 2 workers ready" in _told(sock, "READY=1")
            assert "READY=1" not in server.log()
            _told(sock, "WATCHDOG=1")
            server.signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in _told(sock, "RELOADING=1")
            _told(sock, "READY=1")
            assert not any("NOTIFY_SOCKET" in Path(f"/proc/{pid}/environ").read_text() for pid in server.workers())
            server.below()
            server.signal(signal.SIGTERM)
            _told(sock, "STOPPING=1")
            assert server.wait() == 0


def test_serving_goes_on_when_nobody_reads_the_log(tmp_path: Path) -> None:
    """stderr is a full pipe: workers are still respawned and the config is still reloaded."""
    with Supervised(tmp_path) as server:
        server.wait_ready()
        server.stop()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writer, True)
        server.process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), "run", str(server.file)],
            stderr=writer, env=server.environ, cwd=tmp_path,
        )  # fmt: skip
        eventually_now(lambda: _answers(server))
        before = server.facts()["pid"]
        processes.kill(before, signal.SIGKILL)
        assert len(server.all_facts()) == 2
        assert server.stop() == 0
        os.close(reader)
        os.close(writer)


def _told(sock: socket.socket, wanted: str) -> str:
    """The next message to systemd that has the line ``wanted``."""
    for _ in range(200):
        message = sock.recv(4096).decode()
        if wanted in message.split("\n"):
            return message
    raise AssertionError(f"never told: {wanted}")


def _hang(server: Supervised) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
        time.sleep(0.3)  # the loop cannot tell that it hangs


def _ask_quietly(server: Supervised, path: str) -> bytes:
    try:
        return server.ask(path)
    except OSError:
        return b""


def _answers(server: Supervised) -> bool:
    return bool(_ask_quietly(server, "/"))


def _wait_connected(server: Supervised) -> None:
    """Wait until a worker holds an established connection to the public port."""
    hexed = f":{server.port:04X}"

    def connected() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(row[1].endswith(hexed) and row[3] == "01" and row[9] != "0" for row in rows)

    eventually_now(connected)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
            return True
    except OSError:
        return False


def _server_py(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "server.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20, check=False)
