"""The command line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

import server
from rt.config import Config, load
from rt.protocol import tokens
from tests.servers import ROOT
from tests.tokens import KEY


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """server.py in a process of its own."""
    command = [sys.executable, str(ROOT / "server.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_check_tells_good_from_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 for a good file; 78 and one line per mistake on stderr for a bad one."""
    file = tmp_path / "rt.yaml"
    file.write_text("server: {port: 8001}\n")
    assert server.main(["check", str(file)]) == 0
    file.write_text("server: {port: 0, nonsense: 1}\n")
    assert server.main(["check", str(file)]) == 78
    mistakes = capsys.readouterr().err.splitlines()
    assert len(mistakes) == 2
    assert all(mistake.startswith(f"{file}:1: server.") for mistake in mistakes)


def test_a_bad_config_does_not_start(tmp_path: Path) -> None:
    """``run`` ends with 78 and no traceback, as for a file that is not there."""
    file = tmp_path / "rt.yaml"
    file.write_text("server: {port: x}\n")
    for path in (file, tmp_path / "none.yaml"):
        ended = run("run", str(path))
        assert ended.returncode == 78
        assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr


def test_defaults_are_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What ``defaults`` prints loads, and changes nothing; ``--markdown`` prints the page."""
    assert server.main(["defaults"]) == 0
    file = tmp_path / "rt.yaml"
    file.write_text(capsys.readouterr().out)
    assert isinstance(load(file, {}), Config)
    assert load(file, {}) == load(None, {})
    assert server.main(["defaults", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "config.md").read_text()


def test_tokens_are_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``token`` signs with the file's key; without a key it says so."""
    file = tmp_path / "rt.yaml"
    file.write_text(f"client: {{token: {{hmac_secret_key: {KEY}}}}}\n")
    now = time.time()
    assert server.main(["token", "--user", "u1", "--ttl", "1h", str(file)]) == 0
    made = capsys.readouterr().out.strip()
    assert made in [tokens.connection_token("u1", KEY, now=now + late, ttl=3600) for late in (0, 1, 2)]
    assert server.main(["token", "--user", "u1", "--channel", "news", "--ttl", "0", str(file)]) == 0
    made = capsys.readouterr().out.strip()
    assert made in [tokens.subscription_token("u1", "news", KEY, now=now + late) for late in (0, 1, 2)]
    assert server.main(["token", "--user", "u1"]) == 1


def test_tokens_claim_what_a_tenant_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``token --tenant`` signs with that tenant's key, and names the issuer, audience and user as it wants them."""
    file = tmp_path / "rt.yaml"
    wanted = f"{{hmac_secret_key: {KEY}, issuer: us, audience: rt, user_id_claim: uid}}"
    file.write_text(f"tenants: [{{name: acme, client: {{token: {wanted}}}}}]\n")
    assert server.main(["token", "--user", "u1", "--tenant", "acme", "--channel", "news", str(file)]) == 0
    made = jwt.decode(capsys.readouterr().out.strip(), KEY, algorithms=["HS256"], issuer="us", audience="rt")
    assert (made["uid"], made["channel"]) == ("u1", "news")
    assert server.main(["token", "--user", "u1", "--tenant", "other", str(file)]) == 1
    assert server.main(["token", "--user", "u1", str(file)]) == 1
    assert "no tenant other\n" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    """A token's life is given as in the config."""
    assert server.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1w", "1.5h", "1e3", "\u0661h"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError):
        server.duration(text)


def test_what_is_no_command_is_refused() -> None:
    """Status 2 and the usage, as everywhere."""
    ended = run("dance")
    assert ended.returncode == 2 and "usage:" in ended.stderr


def test_upgrade_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pid that is nobody's is an error, not a silence."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert server.main(["upgrade", "--pid", str(gone.pid)]) == 1
    assert str(gone.pid) in capsys.readouterr().err
