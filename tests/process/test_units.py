"""The systemd units, judged without systemd running."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rt.config import load
from tests.servers import ROOT

UNITS = ["rt.service", "rt@.service"]


def service(unit: str) -> dict[str, str]:
    """The [Service] section of a unit; of a repeated key, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((ROOT / "systemd" / unit).read_text())
    return dict(parser["Service"])


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_fits_the_server(unit: str) -> None:
    """It waits for READY, reloads by SIGHUP, does not retry a bad config, and kills after the server's own deadline."""
    section = service(unit)
    assert section["Type"] == "notify" and section["KillMode"] == "mixed"
    assert section["ExecReload"].endswith("kill -HUP $MAINPID")
    assert "78" in section["RestartPreventExitStatus"].split()
    assert float(section["TimeoutStopSec"]) > load(None, {}).server.shutdown_timeout
    assert re.search(r"server\.py run (--single )?/etc/rt/rt\.yaml$", section["ExecStart"])


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_provides_what_the_config_names(unit: str, tmp_path: Path) -> None:
    """Every secret that config/production.yaml takes from CREDENTIALS_DIRECTORY is loaded, and nothing else."""
    config = yaml.safe_load((ROOT / "config" / "production.yaml").read_text())
    wanted = set(re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/(\w+)", yaml.safe_dump(config)))
    text = (ROOT / "systemd" / unit).read_text()
    assert set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE)) == wanted
    for name in wanted:
        (tmp_path / name).write_text(name + "x" * 40)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "RT_STORE_URL": "redis://127.0.0.1:6379"}
    loaded = load(ROOT / "config" / "production.yaml", environ)
    drain = min(loaded.server.drain.duration, 0.6 * 0.7 * loaded.server.shutdown_timeout)
    assert drain + 5 < loaded.server.shutdown_timeout < float(service(unit)["TimeoutStopSec"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_hardened(unit: str, tmp_path: Path) -> None:
    """systemd's own judgement of what the server could do if it were taken over: at most 1.5 of 10."""
    copy = tmp_path / unit.replace("@", "@0")
    shutil.copy(ROOT / "systemd" / unit, copy)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(copy)]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr
