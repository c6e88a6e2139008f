"""Stores that are older than the fixes of holes which whoever may run a script, or only connect, can use.

They are CVE-2025-49844 (a script escapes), CVE-2025-21605 (output grows without a login) and CVE-2024-31228 (a pattern
ends the server); the first was fixed last. A distribution may have mended an older version itself, which nobody can
see from outside, so an old one is warned of and used.
"""

from __future__ import annotations

import re

_FIXED = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
"""The first version without them, of each series in which there is one."""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def outdated(info: bytes) -> str:
    """Name and version of the server that answers ``INFO server`` like this, when it has the holes; else "" (also for a
    server that does not say what it is)."""
    lines = info.decode("utf-8", "replace").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    name = "valkey" if "valkey_version" in facts else "redis"
    version = facts.get(f"{name}_version", "")
    found = _VERSION.match(version)
    if found is None:
        return ""
    major, minor, patch = map(int, found.groups())
    fixed = _FIXED[name]
    series = (major, minor)
    good = patch >= fixed[series] if series in fixed else series > max(fixed)
    return "" if good else f"{name} {version}"
