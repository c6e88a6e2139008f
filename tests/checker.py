"""Judges what publishers and readers recorded: nothing lost, doubled, swapped or invented without being told.

A record is a JSON-like object, in the order in which its own client saw it. ``t`` is seconds of a monotonic clock that
all share; only what is said about healing needs it.

publish     id, channel [, sha, tag]              about to be sent; ``tag`` is a secret of the tenant's channel
probe       id, channel [, sha, tag], t           the same, after all faults: everybody who follows must receive it
unknown     id, channel                           one try of it has an outcome that nobody knows
published   id, channel, epoch, offset            accepted, with its position
refused     id, channel                           certainly not accepted, in any try
follow      client, channel                       wants to be subscribed from now on and for ever
subscribed  client, channel, epoch, offset, recovered   from here on everything is owed
recv        client, channel, epoch, offset, id [, sha, tag, cursor]   received; ``cursor`` where it names another place
gap         client, channel, epoch, offset        told that something is missed; from here on everything is owed
left        client, channel                       nothing is owed until it is subscribed again
closed      client, code                          the server ended the connection, or did not let it in
fault       name, what                            ``start`` or ``end`` of a fault
healed      t, within                             all faults are over; probes arrive within that many seconds

A publish with neither answer is unknown: it may arrive or not. Offset 0 means that a channel has no history: then
nothing is owed and nothing has a place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Record = dict[str, Any]
Place = tuple[str, int]

TERMINAL = (range(400, 500), range(3500, 4000), range(4500, 5000))
"""Codes of a close, and statuses of a refusal, after which a client does not come back."""


class Finding(NamedTuple):
    """One broken promise.

    ============  ======================================================================================
    ORDER         an offset that is not above the one before, in one epoch
    HOLE          offsets were left out, and no gap was told before
    DUP           one publication twice: in what a client received, or at two places of an epoch
    LOST          an accepted publication did not reach a client that was owed it
    PHANTOM       something that nobody published there, that was altered, or that came to who had left
    FORK          one place with two publications
    REFUTED-FAIL  something arrived, or was accepted, that had been refused for certain
    STUCK         a client receives no more although all faults are over, or was told never to come back
    COUNT         too little happened for a clean result to mean anything, or more than was allowed
    ============  ======================================================================================
    """

    rule: str
    text: str


class Walk:
    """One client on one channel, record by record."""

    def __init__(self, client: str, channel: str, found: Callable[[str, str], None]) -> None:
        self.who = f"{client} on {channel}"
        self.channel = channel
        self.report = found
        self.epoch: str | None = None
        self.offset = 0
        self.member = False
        self.ids: dict[str, Place] = {}
        self.again: list[str] = []  # ids that came in a second epoch
        self.owed: list[tuple[str, int, int]] = []  # (epoch, first, last) offsets that had to be received
        self.got: set[Place] = set()
        self.probed: float | None = None  # when the first probe came

    def found(self, rule: str, text: str) -> None:
        """Note a broken promise."""
        self.report(rule, f"{self.who}: {text}")

    def take(self, record: Record) -> None:
        """One record of this client on this channel."""
        match record["do"]:
            case "subscribed":
                self.resume(record)
                self.start(record)
            case "gap":
                self.start(record)
            case "left":
                self.member = False
            case "recv":
                self.receive(record)

    def resume(self, record: Record) -> None:
        """A recovery goes on exactly where this client was."""
        was = self.epoch is not None
        if was and record["recovered"] and (record["epoch"], record["offset"]) != (self.epoch, self.offset):
            place = f"{record['epoch']}.{record['offset']}"
            self.found("HOLE", f"recovered from {place}, was at {self.epoch}.{self.offset}")

    def start(self, record: Record) -> None:
        """From here on everything is owed."""
        self.member = True
        self.epoch, self.offset = record["epoch"], record["offset"]
        self.owed.append((record["epoch"], self.offset + 1, self.offset))

    def receive(self, record: Record) -> None:
        """One publication."""
        place = (record["epoch"], record["offset"])
        if not self.member:
            self.found("PHANTOM", f"offset {place[1]} after it left")
        self.check_place(record["id"], place)
        if "cursor" in record:
            self.found("HOLE", f"the cursor {record['cursor']} came with offset {place[1]}")
        if record["id"] in self.ids and self.ids[record["id"]][0] != place[0]:
            self.again.append(record["id"])
        self.ids[record["id"]] = place
        if place[1]:
            self.got.add(place)
            self.advance(*place)

    def advance(self, epoch: str, offset: int) -> None:
        """Everything up to here was owed. An epoch that nobody announced is found once, and then followed."""
        if epoch != self.epoch or not self.owed:
            self.epoch, self.offset = epoch, offset
            self.owed.append((epoch, offset, offset))
        else:
            self.offset = max(self.offset, offset)
            self.owed[-1] = (epoch, self.owed[-1][1], self.offset)

    def check_place(self, one: str, place: Place) -> None:
        """The next offset of the epoch, and nothing that came before."""
        epoch, offset = place
        if one in self.ids and self.ids[one][0] == epoch:
            self.found("DUP", f"id {one} at offset {offset} and before at {self.ids[one][1]}")
        elif place in self.got:
            self.found("DUP", f"offset {offset} twice")
        elif not offset:
            return
        elif epoch != self.epoch:
            self.found("HOLE", f"epoch {epoch} after {self.epoch}, and no gap was told")
        elif offset <= self.offset:
            self.found("ORDER", f"offset {offset} after {self.offset}")
        elif offset > self.offset + 1:
            self.found("HOLE", f"offset {offset} after {self.offset}")

    def is_owed(self, epoch: str, offset: int) -> bool:
        """Whether this position had to be received. Whoever is a member at the end is owed everything from there on."""
        if self.member and epoch == self.epoch and offset > self.offset:
            return True
        return any(one == epoch and first <= offset <= last for one, first, last in self.owed)


class Sent(NamedTuple):
    """What a publisher said of a publication before it was sent."""

    sha: str | None
    tag: str | None
    probe: bool


class Judge:
    """Takes records, those of one client in its own order, and gives the findings in the end.

    Records of publishers may come before or after those of the readers.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.walks: dict[tuple[str, str], Walk] = {}
        self.sent: dict[tuple[str, str], Sent] = {}
        self.refused: set[tuple[str, str]] = set()
        self.published: dict[tuple[str, str], list[Place]] = defaultdict(list)
        self.seen: dict[tuple[str, str], tuple[Any, Any, str]] = {}  # (channel, id) -> (sha, tag, who)
        self.arrivals: list[tuple[Walk, str, float]] = []  # late ones: some of them are probes
        self.altered: list[tuple[str, str, str]] = []
        self.at: dict[tuple[str, str, int], str] = {}
        self.forks: dict[tuple[str, str, int], dict[str, str]] = defaultdict(dict)  # place -> id -> who
        self.places: dict[tuple[str, str, str], int] = {}  # (channel, id, epoch) -> offset
        self.follows: list[tuple[str, str]] = []
        self.healed: Record | None = None

    def found(self, rule: str, text: str) -> None:
        """Note a broken promise."""
        self.findings.append(Finding(rule, text))

    def take(self, record: Record) -> None:
        """One record."""
        do = record["do"]
        self.counts[do] += 1
        if do == "gap" or (do == "subscribed" and record.get("was_recovering") and not record["recovered"]):
            self.counts["gaps"] += 1
        if do == "closed":
            self.take_closed(record)
        elif do == "healed":
            self.healed = record
        elif do == "follow":
            self.follows.append((record["client"], record["channel"]))
        elif "client" in record:
            self.take_reader(do, record)
        elif "id" in record:
            self.take_publisher(do, record)

    def take_reader(self, do: str, record: Record) -> None:
        """What a client saw of a channel."""
        key = (record["client"], record["channel"])
        walk = self.walks.get(key)
        if walk is None:
            walk = self.walks[key] = Walk(*key, self.found)
        walk.take(record)
        if do == "recv":
            one = (record["channel"], record["id"])
            self.take_place(*one, (record["epoch"], record["offset"]), walk.who)
            what = (record.get("sha"), record.get("tag"))
            known = self.seen.setdefault(one, (*what, walk.who))
            if known[:2] != what:
                self.altered.append((*one, walk.who))
            if self.is_late(record):
                self.arrivals.append((walk, record["id"], record["t"]))

    def is_late(self, record: Record) -> bool:
        """Whether it can be a probe: those are sent when everything is healed, and there are not many of them."""
        return "t" in record and (self.healed is None or record["t"] >= self.healed["t"])

    def take_publisher(self, do: str, record: Record) -> None:
        """What a publisher knows of a publication."""
        one = (record["channel"], record["id"])
        if do in ("publish", "probe"):
            self.sent[one] = Sent(record.get("sha"), record.get("tag"), do == "probe")
        elif do == "refused":
            self.refused.add(one)
        elif do == "published":
            place = (record["epoch"], record["offset"])
            self.published[one].append(place)
            self.take_place(*one, place, "the publisher")

    def take_place(self, channel: str, one: str, place: Place, who: str) -> None:
        """A place carries one publication for good, and a publication has one place in an epoch."""
        epoch, offset = place
        if not offset:
            return
        other = self.at.setdefault((channel, epoch, offset), one)
        if other != one:
            self.forks[channel, epoch, offset].setdefault(one, who)
        elsewhere = self.places.setdefault((channel, one, epoch), offset)
        if elsewhere != offset:
            self.found("DUP", f"{who}: id {one} at offset {offset} of {epoch} on {channel}, and elsewhere {elsewhere}")

    def take_closed(self, record: Record) -> None:
        """Nobody who behaves is told never to come back."""
        if any(record["code"] in codes for codes in TERMINAL):
            self.found("STUCK", f"{record['client']}: told never to come back ({record['code']})")

    # In the end

    def finish(self, at_least: int | Mapping[str, int] = 1, at_most: Mapping[str, int] | None = None) -> list[Finding]:
        """All findings; COUNT when there are fewer records of a kind than ``at_least`` (a number is about ``recv``), or
        more than ``at_most``. ``gaps`` are all that were told: ``gap``, and recoveries that said no."""
        self.check_arrived()
        self.check_forks()
        self.check_again()
        self.check_lost()
        self.check_stuck()
        for do, wanted in ({"recv": at_least} if isinstance(at_least, int) else at_least).items():
            if self.counts[do] < wanted:
                self.found("COUNT", f"{self.counts[do]} x {do}, wanted at least {wanted}")
        for do, allowed in (at_most or {}).items():
            if self.counts[do] > allowed:
                self.found("COUNT", f"{self.counts[do]} x {do}, wanted at most {allowed}")
        return self.findings

    def check_arrived(self) -> None:
        """What arrived was published on that channel, as it came, and was not refused."""
        for one, (sha, mark, who) in self.seen.items():
            sent = self.sent.get(one)
            if sent is None:
                self.found("PHANTOM", f"{who}: id {one[1]} was never published on {one[0]}")
            elif (sent.sha or sent.tag) and (sent.sha, sent.tag) != (sha, mark):
                self.found("PHANTOM", f"{who}: id {one[1]} of {one[0]} came with another hash or tag")
            if one in self.refused:
                self.found("REFUTED-FAIL", f"{who}: id {one[1]} of {one[0]} had been refused")
        for channel, name, who in self.altered:
            self.found("PHANTOM", f"{who}: id {name} of {channel} came with another hash or tag than elsewhere")
        for one in self.published.keys() & self.refused:
            self.found("REFUTED-FAIL", f"id {one[1]} of {one[0]} was refused for certain, and is published")
        for one in self.published.keys() - self.sent.keys():
            self.found("PHANTOM", f"id {one[1]} of {one[0]} was accepted, but never sent")

    def check_forks(self) -> None:
        """No place carries two publications; what was never sent is a phantom, and no second one."""
        for (channel, epoch, offset), others in self.forks.items():
            ids = [one for one in (self.at[channel, epoch, offset], *others) if (channel, one) in self.sent]
            if len(ids) > 1:
                who = ", ".join(sorted(set(others.values())))
                self.found("FORK", f"offset {offset} of {epoch} on {channel} carries {ids} ({who})")

    def check_again(self) -> None:
        """The same id in two epochs: only when a repeat of an unknown try came into a newer epoch, and was accepted
        there if it was accepted at all."""
        for (_, channel), walk in self.walks.items():
            for one in walk.again:
                accepted = self.published.get((channel, one), [])
                if accepted and walk.ids[one] not in accepted:
                    self.found("DUP", f"{walk.who}: id {one} at {walk.ids[one]}, but it was accepted at {accepted}")

    def check_lost(self) -> None:
        """Every accepted publication reached everybody who was owed it."""
        readers: dict[str, list[Walk]] = defaultdict(list)
        for (_, channel), walk in self.walks.items():
            readers[channel].append(walk)
        for (channel, one), places in self.published.items():
            for place in set(places):
                for walk in readers[channel]:
                    if place[1] and place not in walk.got and walk.is_owed(*place):
                        self.found("LOST", f"{walk.who}: id {one} at offset {place[1]} of {place[0]}")

    def check_stuck(self) -> None:
        """Once everything is healed, everybody who follows a channel receives a probe in time."""
        if self.healed is None:
            return
        for walk, one, t in self.arrivals:
            sent = self.sent.get((walk.channel, one))
            if sent is not None and sent.probe and walk.probed is None and t >= self.healed["t"]:
                walk.probed = t
        deadline = self.healed["t"] + self.healed["within"]
        for key in self.follows:
            probed = self.walks[key].probed if key in self.walks else None
            if probed is None:
                self.found("STUCK", f"{key[0]} on {key[1]}: no probe arrived")
            elif probed > deadline:
                late = probed - self.healed["t"]
                self.found("STUCK", f"{key[0]} on {key[1]}: a probe arrived only after {late:.1f} s")

    def heal_time(self) -> float | None:
        """Seconds from the end of the faults until the last of all had a probe; None when one never had."""
        probes = [self.walks[key].probed if key in self.walks else None for key in self.follows]
        times = [probed for probed in probes if probed is not None]
        if self.healed is None or len(times) < len(probes):
            return None
        return max(times, default=self.healed["t"]) - float(self.healed["t"])


def check(
    records: Iterable[Record], *, at_least: int | Mapping[str, int] = 1, at_most: Mapping[str, int] | None = None
) -> list[Finding]:
    """Everything that is wrong with ``records``; a run with fewer than ``at_least`` receives proves nothing (COUNT)."""
    judge = Judge()
    for record in records:
        judge.take(record)
    return judge.finish(at_least, at_most)
