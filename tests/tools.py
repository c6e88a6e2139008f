"""Tools that a machine may lack. A test that needs one says so with ``@pytest.mark.needs("node")``."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

SDK_FOLDER = Path(__file__).resolve().parent / "js"


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


TOOLS: dict[str, Callable[[], bool]] = {
    "node": has_node,
    "redis-server": has_redis_server,
    "chromium": has_chromium,
}


@functools.cache
def present(tool: str) -> bool:
    """Whether ``tool`` can be used here; KeyError for a tool that nobody knows."""
    return TOOLS[tool]()
