"""Tools that a machine may lack. A test that needs one says so with ``@pytest.mark.needs("node")``."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SDK_FOLDER = Path(__file__).resolve().parent / "js"

OLD_CENT = Path(sys.prefix) / "cent-5.0"
"""Where the oldest cent that is tested lies, away from the newest."""


def has_node() -> bool:
    """Node, and the JavaScript SDK that ``make test`` installs where Node is."""
    return shutil.which("node") is not None and (SDK_FOLDER / "node_modules" / "centrifuge").is_dir()


def has_redis_server() -> bool:
    """A Redis server beside the embedded Valkey."""
    return shutil.which("redis-server") is not None


def chromium() -> str | None:
    """The path of a Chromium, where one is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def has_chromium() -> bool:
    """A browser that tests/browser.py can drive."""
    return chromium() is not None


def has_old_cent() -> bool:
    """A cent of 5.0 beside the newest: installed once, where a registry of packages can be reached."""
    if not OLD_CENT.is_dir():
        wanted = Path(__file__).resolve().parent / "sdk" / "cent-5.0.txt"
        with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
            made = Path(folder) / "made"
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            options = ["--no-deps", "--require-hashes", "-r", str(wanted), "--target", str(made)]
            done = subprocess.run([*pip, *options], capture_output=True)
            if done.returncode == 0:
                made.rename(OLD_CENT)
    return OLD_CENT.is_dir()


def promtool() -> str | None:
    """The path of Prometheus' own checker (Debian: prometheus)."""
    return shutil.which("promtool") or os.environ.get("PROMTOOL")


def has_promtool() -> bool:
    """What says whether metrics and alert rules are as Prometheus wants them."""
    return promtool() is not None


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of so many bytes (``4m``), in memory; CalledProcessError without the right to mount one."""
    with tempfile.TemporaryDirectory(prefix="rt-disk-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def has_mounts() -> bool:
    """The right to mount a file system that can be filled."""
    try:
        with small_disk("64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def has_network() -> bool:
    """Networks of one's own, which take root's rights and parts of the kernel."""
    from tests.faults.network import permitted

    return permitted()


def has_grasp() -> bool:
    """The right to look at another process's sockets."""
    from tests.promises.grasp import permitted

    return permitted()


TOOLS: dict[str, Callable[[], bool]] = {
    "node": has_node,
    "redis-server": has_redis_server,
    "chromium": has_chromium,
    "promtool": has_promtool,
    "cent 5.0": has_old_cent,
    "file systems": has_mounts,
    "network namespaces": has_network,
    "sockets of other processes": has_grasp,
}


@functools.cache
def present(tool: str) -> bool:
    """Whether ``tool`` can be used here; KeyError for a tool that nobody knows."""
    return TOOLS[tool]()
