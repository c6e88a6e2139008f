"""``server.py connections``, ``connection``, ``channel`` and ``tail``: the answers of the server API, as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from rt.operator.door import Door
from rt.operator.shown import facts, seconds, size, table, visible

SHOWN = 300
"""Characters of a publication in one line of ``tail``."""


def raw(value: Any) -> str:
    """As JSON on several lines, for other programs."""
    lines = msgspec.json.format(msgspec.json.encode(value), indent=2).decode().split("\n")
    return "".join(f"{_escaped(text)}\n" for text in lines)


def raw_line(value: Any) -> str:
    """As JSON on one line."""
    return _escaped(msgspec.json.encode(value).decode())


def _escaped(text: str) -> str:
    """JSON in which all that does not print is an escape, which means the same."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def connections(door: Door, **filters: Any) -> tuple[dict[str, Any], str]:
    """Those that fit, and the table of them."""
    found = door.call("connections", **filters)
    heads = ("CONNECTION", "USER", "ADDRESS", "TRANSPORT", "WORKER", "CHANNELS", "QUEUED", "FOR", "BEHIND", "FOR")
    rows = [
        [
            one["client"],
            one["user"],
            one["address"],
            one["transport"],
            one["node"],
            one["channels"],
            size(one["queued_bytes"]),
            seconds(one["queued_for"]),
            one["behind"],
            seconds(one["behind_for"]),
        ]
        for one in found["connections"]
    ]
    words = f"{len(rows):,} of {found['total']:,}; --limit shows more" if found["more"] else f"{len(rows):,} in all"
    return found, (table(heads, rows) if rows else "") + words + "\n"


def channel(door: Door, name: str) -> tuple[dict[str, Any], str]:
    """The channel, and what there is to say of it."""
    found = door.call("channel", channel=name)
    position = found.get("position")
    policy = found["policy"]
    history = f"{policy['history_size']:,} publications for {seconds(policy['history_ttl'])}" if position else "none"
    pairs = [
        ("channel", found["channel"]),
        ("namespace", found["namespace"] or "(none)"),
        ("position", f"{position['offset']} in epoch {position['epoch']}" if position else "none, without history"),
        ("history", history),
        ("slow readers", f"{policy['slow']}, priority {policy['priority']}"),
        ("subscribers", f"{found['num_clients']:,}"),
    ]
    heads = ("WORKER", "SUBSCRIBERS", "LIVE", "OFFSET", "LACKS", "QUIET FOR", "KEEPS", "FROM", "TO", "BYTES")
    rows = [_worker(one, position) for one in found["workers"]]
    return found, facts(pairs) + (f"\n{table(heads, rows)}" if rows else "no worker follows it\n")


def _worker(one: dict[str, Any], position: dict[str, Any] | None) -> list[str | int]:
    recent = one["recent"]
    lacks = "-"
    if position is not None:
        same = one["epoch"] == position["epoch"]
        lacks = f"{max(position['offset'] - one['offset'], 0):,}" if same else "another epoch"
        lacks += ", repairing" if one["repairing"] else ""
    kept = recent["count"] or one["spare"]
    return [
        one["node"], one["subscribers"], one["live"], one["offset"], lacks, seconds(one["quiet_for"]), kept,
        recent["oldest"], recent["newest"], size(recent["bytes"]),
    ]  # fmt: skip


def tail(door: Door, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each event, and its line."""
    for event in door.stream("tail", channel=name):
        yield event, line(event)


def line(event: dict[str, Any]) -> str:
    """An event of a tail on one line."""
    return visible(_line(event))


def _line(event: dict[str, Any]) -> str:
    if "publication" in event:
        publication = dict(event["publication"])
        at = datetime.fromtimestamp(event["time"]).strftime("%H:%M:%S.%f")[:-3]
        offset = publication.pop("offset", "-")
        text = msgspec.json.encode(publication).decode()
        text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        return f"{at}  {offset}  {size(event['size'])}  {text}"
    ((kind, what),) = event.items()
    match kind:
        case "tail":
            return (
                f"-- {what['channel']} on {what['node']}, from offset {what['offset']} of epoch {what['epoch'] or '-'}"
            )
        case "gap":
            return f"-- GAP: it goes on from offset {what['offset']} of epoch {what['epoch']}"
        case "dropped":
            return f"-- {what} publications are not shown: they came faster than they were read"
        case "end":
            return f"-- the end: {what}"
        case _:
            return f"-- {kind} {msgspec.json.encode(what).decode()}"
