"""Drives whichever cent is on the path for tests/sdk/test_cent.py: ``python cent_caller.py URL KEY sync|async``.

One JSON object per line on stdin is a call (``method``, ``fields``; for a batch ``fields`` is a list of such), one per
line on stdout is its result or the error that cent raised. The first line names the version and its methods. It ends
when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

import cent


def camel(method: str) -> str:
    """The name of a method as classes have it."""
    return "".join(part.title() for part in method.split("_"))


def request(method: str, fields: Any) -> Any:
    """The request object of a call; the models of cent check it, unless there are no fields at all."""
    kind = getattr(cent.dto, f"{camel(method)}Request")
    if method == "batch":
        return kind(
            requests=[request(one["method"], one["fields"]) for one in fields["requests"]], parallel=fields["parallel"]
        )
    return kind(**fields) if fields is not None else kind.model_construct()


def error(raised: Exception) -> dict[str, Any]:
    """What a test wants to know about an error."""
    found = {"kind": type(raised).__name__}
    return found | {
        name: value for name in ("code", "message", "status_code") if (value := getattr(raised, name, None))
    }


async def answer(client: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Carry out one call."""
    try:
        made = getattr(client, call["method"])(request(call["method"], call["fields"]))
        result = await made if asyncio.iscoroutine(made) else made
    except Exception as raised:
        return {"error": error(raised)}
    return {"result": dump(result)}


def dump(result: Any) -> Any:
    """A result as plain data; in a batch each as what it is."""
    if isinstance(result, cent.BatchResult):
        return {"replies": [dump(reply) for reply in result.replies]}
    return None if result is None else result.model_dump()


async def run(url: str, key: str, kind: str) -> None:
    """Answer call after call."""
    client: Any = cent.AsyncClient(url, key) if kind == "async" else cent.Client(url, key)
    methods = [name for name in dir(cent.Client) if not name.startswith("_") and name != "close"]
    print(json.dumps({"version": version("cent"), "methods": methods}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(client, json.loads(line))), flush=True)
    closed = client.close()
    if asyncio.iscoroutine(closed):
        await closed


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
