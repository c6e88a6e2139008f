"""F82: what is left over from looking for mistakes does not get into production."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import msgspec
import pytest

from rt.config import Config, ConfigError
from rt.supervisor import leftovers
from tests.servers import ROOT, Server

PRODUCTION = {"server": {"mode": "production"}, "client": {"insecure": False}}
SWITCHES = [("PYTHONASYNCIODEBUG", "1"), ("PYTHONDEVMODE", "1"), ("PYTHONTRACEMALLOC", "5"), ("PYTHONINSPECT", "yes")]


def started(environment: dict[str, str], *options: str) -> tuple[int, str]:
    """(status, standard error) of a server in production that should not start."""
    server = Server(PRODUCTION, await_ready=False)
    server.write_config()
    command = [sys.executable, *options, str(ROOT / "server.py"), "run", str(server.config_file)]
    ended = subprocess.run(
        command, cwd=server.folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=20
    )
    shutil.rmtree(server.folder)
    return ended.returncode, ended.stderr


def test_f82_production_refuses_python_in_debug_mode() -> None:
    """By a variable or an option: status 78 before anything is opened, and a line that says what to take away."""
    assert started({"PYTHONASYNCIODEBUG": "1"}) == (
        78,
        "$PYTHONASYNCIODEBUG: found '1', expected no debug mode of asyncio, which looks at each step of each task in "
        "production\n",
    )
    status, told = started({}, "-X", "dev")
    assert status == 78
    assert "(command line): found python -X dev, expected no development mode of Python in production\n" in told


@pytest.mark.parametrize(("name", "value"), SWITCHES)
def test_f82_each_switch_is_found(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mistake for each that is on; an empty variable is off, as it is for Python."""
    for other, _ in SWITCHES:
        monkeypatch.delenv(other, raising=False)
    config = msgspec.structs.replace(Config(), server=msgspec.structs.replace(Config().server, mode="production"))
    monkeypatch.setenv(name, "")
    leftovers.refuse(config)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        leftovers.refuse(config)
    assert [problem.file for problem in raised.value.problems] == [f"${name}"]


def test_f82_development_may_look_for_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of production a server runs with them, and serves."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with Server() as server:
        assert server.internal("/health")[0] == 200


def test_f82_nothing_in_the_source_switches_them_on() -> None:
    """Neither Tornado's reloading and tracebacks in answers, nor debugging of the loop, nor a log at level debug."""
    found = re.compile(
        r"autoreload|serve_traceback|set_debug|\bdebug\s*=\s*True|settrace|breakpoint\(|level=logging\.DEBUG"
    )
    sources = [*sorted((ROOT / "rt").rglob("*.py")), ROOT / "server.py"]
    assert len(sources) > 100
    assert not [str(path) for path in sources if found.search(path.read_text())]
