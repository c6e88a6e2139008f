"""Judges what publishers and readers recorded: nothing lost, doubled, swapped or invented without being told.

A record is a JSON-like object, in the order in which its own client saw it:

publish    id, channel                          about to be sent
published  id, channel, epoch, offset           accepted, with its position
refused    id, channel                          certainly not accepted
subscribed client, channel, epoch, offset, recovered   from this position on everything is owed
recv       client, channel, epoch, offset, id   received
gap        client, channel, epoch, offset       told that something is missed; from this position on everything is owed
left       client, channel                      nothing is owed until it is subscribed again

A publish with neither answer is unknown: it may arrive or not.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

Record = dict[str, Any]


class Finding(NamedTuple):
    """One broken promise. ``rule`` is ORDER, HOLE, DUP, LOST, PHANTOM, FORK or COUNT."""

    rule: str
    text: str


class Walk:
    """One client on one channel, record by record."""

    def __init__(self, client: str, channel: str) -> None:
        self.who = f"{client} on {channel}"
        self.epoch: str | None = None
        self.offset = 0
        self.member = False
        self.ids: dict[str, int] = {}
        self.owed: list[tuple[str, int, int]] = []  # (epoch, first, last) offsets that had to be received
        self.got: set[tuple[str, int]] = set()
        self.findings: list[Finding] = []

    def found(self, rule: str, text: str) -> None:
        """Note a broken promise."""
        self.findings.append(Finding(rule, f"{self.who}: {text}"))

    def take(self, record: Record) -> None:
        """One record of this client on this channel."""
        match record["do"]:
            case "subscribed":
                if record["recovered"] and record["epoch"] == self.epoch and record["offset"] != self.offset:
                    self.found("HOLE", f"recovered from {record['offset']}, was at {self.offset}")
                self.start(record)
            case "gap":
                self.start(record)
            case "left":
                self.member = False
            case "recv":
                self.receive(record)

    def start(self, record: Record) -> None:
        """From here on everything is owed."""
        self.member = True
        self.epoch, self.offset = record["epoch"], record["offset"]
        self.owed.append((record["epoch"], self.offset + 1, self.offset))

    def receive(self, record: Record) -> None:
        """One publication."""
        offset, one = record["offset"], record["id"]
        if not self.member:
            self.found("PHANTOM", f"offset {offset} after it left")
        if one in self.ids:
            self.found("DUP", f"id {one} at offset {offset} and before at {self.ids[one]}")
        elif (record["epoch"], offset) in self.got:
            self.found("DUP", f"offset {offset} twice")
        elif offset <= self.offset:
            self.found("ORDER", f"offset {offset} after {self.offset}")
        elif offset > self.offset + 1:
            self.found("HOLE", f"offset {offset} after {self.offset}")
        self.ids[one] = offset
        self.got.add((record["epoch"], offset))
        self.offset = max(self.offset, offset)
        if self.owed:
            epoch, first, _ = self.owed[-1]
            self.owed[-1] = (epoch, first, self.offset)

    def is_owed(self, epoch: str, offset: int) -> bool:
        """Whether this position had to be received. Whoever is a member at the end is owed everything from there on."""
        if self.member and epoch == self.epoch and offset > self.offset:
            return True
        return any(one == epoch and first <= offset <= last for one, first, last in self.owed)


def check(records: list[Record], *, at_least: int = 1) -> list[Finding]:
    """Everything that is wrong with ``records``; a run with fewer than ``at_least`` receives proves nothing (COUNT)."""
    walks: dict[tuple[str, str], Walk] = {}
    for record in records:
        if "client" in record:
            key = (record["client"], record["channel"])
            walks.setdefault(key, Walk(*key)).take(record)
    findings = [finding for walk in walks.values() for finding in walk.findings]
    findings += check_publishers(records)
    findings += check_lost(records, walks)
    received = sum(record["do"] == "recv" for record in records)
    if received < at_least:
        findings.append(Finding("COUNT", f"{received} receives, wanted at least {at_least}"))
    return findings


def check_publishers(records: list[Record]) -> list[Finding]:
    """Received ids were published on that channel and not refused; one position never carries two ids."""
    sent = {(record["channel"], record["id"]) for record in records if record["do"] == "publish"}
    refused = {(record["channel"], record["id"]) for record in records if record["do"] == "refused"}
    at: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    findings = []
    for record in records:
        if record["do"] not in ("recv", "published"):
            continue
        channel, one = record["channel"], record["id"]
        if (channel, one) not in sent:
            findings.append(Finding("PHANTOM", f"{record.get('client')}: id {one} was never published on {channel}"))
        elif (channel, one) in refused:
            findings.append(Finding("PHANTOM", f"{record.get('client')}: id {one} had been refused"))
        elif record["offset"]:
            at[channel, record["epoch"], record["offset"]].add(one)
    return findings + [Finding("FORK", f"{place} carries {sorted(ids)}") for place, ids in at.items() if len(ids) > 1]


def check_lost(records: list[Record], walks: dict[tuple[str, str], Walk]) -> list[Finding]:
    """Every accepted publication reached everybody who was owed it."""
    readers: dict[str, list[Walk]] = defaultdict(list)
    for (_, channel), walk in walks.items():
        readers[channel].append(walk)
    findings = []
    for record in records:
        if record["do"] != "published" or not record["offset"]:
            continue
        place = (record["epoch"], record["offset"])
        for walk in readers[record["channel"]]:
            if place not in walk.got and walk.is_owed(*place):
                findings.append(Finding("LOST", f"{walk.who}: id {record['id']} at offset {place[1]}"))
    return findings
