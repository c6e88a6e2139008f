"""The scripts, and the lineage that stands as a literal in their text.

A failover or an unclean restart can lose the newest acknowledged writes, and an offset must then not be used twice
within one epoch. So the server's identity, its *lineage*, is part of the text of every script and is stored with every
channel. A server that is not the one we know does not know the text either, and answers NOSCRIPT; where the literal
differs from what the channel was written under, the script refuses.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib import resources
from typing import Any

from rt.broker.link import Link
from rt.broker.refusal import REPLICA, Refusal
from rt.errors import StoreError

PUBLISH = "publish"
HISTORY = "history"
REMOVE = "remove"
PRESENCE = "presence"
SESSION = "session"
QUOTA = "quota"
RESTORE = "restore"

_TEXTS = {
    name: resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
    for name in (PUBLISH, HISTORY, REMOVE, PRESENCE, SESSION, QUOTA, RESTORE)
}


class Scripts:
    """The scripts of one lineage, by name. ``""`` switches the fence off."""

    __slots__ = ("digests", "lineage", "texts")

    def __init__(self, lineage: str) -> None:
        self.lineage = lineage
        self.texts = {name: f"local LINEAGE = '{lineage}'\n{text}" for name, text in _TEXTS.items()}
        # SHA-1 is how the store names a script, nothing that must resist an attack.
        self.digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self.texts.items()
        }

    async def load(self, link: Link) -> None:
        """Make them known to the server behind ``link``."""
        await asyncio.gather(*(link.call("SCRIPT", "LOAD", text) for text in self.texts.values()))


async def read_lineage(link: Link, setting: str) -> str:
    """The lineage of the server behind ``link``: ``setting`` is ``auto``, ``none`` or the text itself.

    Gives 16 hexadecimal digits, safe in a script and short enough for the compact form of a small hash; ``""`` without
    a fence. Raises StoreError; a :class:`Refusal` of kind ``replica`` when the server is not a primary.
    """
    if setting == "none":
        return ""
    if setting == "auto":
        server, replication = await asyncio.gather(link.call("INFO", "server"), link.call("INFO", "replication"))
        facts = _facts(server) | _facts(replication)
        if facts.get("role", "master") != "master":
            raise Refusal(REPLICA, "the store is a read-only replica", definite=True)
        try:
            setting = f"{facts['run_id']} {facts['master_replid']}"
        except KeyError:
            raise StoreError("the store does not say who it is; it needs `lineage: none`", definite=True) from None
    return hashlib.sha256(setting.encode()).hexdigest()[:16]


def _facts(info: Any) -> dict[str, str]:
    lines = info.decode("utf-8", "replace").splitlines() if isinstance(info, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line)
