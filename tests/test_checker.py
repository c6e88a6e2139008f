"""The checker is believed only because it finds what is planted, for the right reason and for no other."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checker import Judge, Record, check
from tests.roles.cast import cast
from tests.servers import DEFAULT, Server

COUNT = 10
HEALED = 100.0


def clean_run() -> list[Record]:
    """Two clients read ten publications; one of them leaves after five, comes back and recovers; then come probes."""
    records: list[Record] = [{"do": "follow", "client": client, "channel": "c"} for client in ("a", "b")]
    records += [subscribed("a", 0), subscribed("b", 0)]
    for offset in range(1, COUNT + 1):
        records += [publish(offset), recv("a", offset), published(offset)]
        if offset <= 5:
            records.append(recv("b", offset))
        if offset == 5:
            records.append({"do": "left", "client": "b", "channel": "c"})
    records.append(subscribed("b", 5, recovered=True))
    records += [recv("b", offset) for offset in range(6, COUNT + 1)]
    records.append({"do": "healed", "t": HEALED, "within": 5.0})
    probe = COUNT + 1
    return [*records, {**publish(probe), "do": "probe"}, published(probe), recv("a", probe), recv("b", probe)]


def place(offset: int) -> Record:
    """What stands in every record of the ``offset``-th publication."""
    return {"channel": "c", "id": f"m{offset}", "t": HEALED - COUNT + offset, "sha": f"s{offset}", "tag": "secret"}


def publish(offset: int) -> Record:
    """It is about to be sent."""
    return {"do": "publish", **place(offset)}


def published(offset: int) -> Record:
    """It was accepted."""
    return {"do": "published", **place(offset), "epoch": "e", "offset": offset}


def recv(client: str, offset: int) -> Record:
    """``client`` received it."""
    return {"do": "recv", "client": client, **place(offset), "epoch": "e", "offset": offset}


def subscribed(client: str, offset: int, *, recovered: bool = False, epoch: str = "e") -> Record:
    """A granted subscription at ``offset``."""
    where = {"channel": "c", "epoch": epoch, "offset": offset}
    return {"do": "subscribed", "client": client, **where, "recovered": recovered}


def gap(client: str, offset: int, epoch: str = "e") -> Record:
    """Something is missed; it goes on behind ``offset``."""
    return {"do": "gap", "client": client, "channel": "c", "epoch": epoch, "offset": offset}


def find(records: list[Record], do: str, **fields: object) -> list[int]:
    """Where the records of a kind stand that have these fields."""
    wanted = {"do": do, **fields}.items()
    return [index for index, one in enumerate(records) if wanted <= one.items()]


def receives(records: list[Record], client: str) -> list[int]:
    """Where the receives of ``client`` stand."""
    return find(records, "recv", client=client)


def rules(records: list[Record], at_least: int = 1) -> set[str]:
    """The rules that ``records`` break."""
    return {finding.rule for finding in check(records, at_least=at_least)}


# What is no fault


def test_a_clean_run_is_clean() -> None:
    """Leaving and recovering breaks nothing, and it took until the last probe to heal."""
    judge = Judge()
    for record in clean_run():
        judge.take(record)
    assert judge.finish({"recv": 2 * COUNT, "publish": COUNT, "probe": 1}) == []
    assert judge.heal_time() == 1.0


def test_what_is_not_about_a_publication_is_left_alone() -> None:
    """A cast's own records."""
    records: list[Record] = [{"do": "cast", "seed": 1}, {"do": "fault", "name": "x", "what": "start"}, *clean_run()]
    assert check(records, at_least={"recv": 1, "fault": 1}) == []


def test_nothing_of_another_epoch_is_owed() -> None:
    """What was accepted in an epoch that this client never was in is no loss to it; if it ought to be, it is stuck."""
    other = {**published(3), "id": "n3", "epoch": "f"}
    assert check([*clean_run(), {**publish(3), "id": "n3"}, other]) == []


def test_the_order_of_files_does_not_matter() -> None:
    """Readers first or publishers first: only the own order of each client counts."""
    records = clean_run()
    readers = [one for one in records if "client" in one]
    others = [one for one in records if "client" not in one]
    assert check(readers + others) == check(others + readers) == []


def test_a_gap_that_is_told_is_no_hole() -> None:
    """After a gap everything from its position on is owed, and nothing before it."""
    records = clean_run()
    third = receives(records, "a")[3]
    dropped = records.pop(third)
    records.insert(third, gap("a", dropped["offset"]))
    assert check(records) == []


def test_a_recovery_that_says_no_is_a_gap() -> None:
    """So is a subscription that was not recovered."""
    records = [one for one in clean_run() if one["do"] != "recv" or one["client"] == "a" or not 5 < one["offset"] <= 8]
    records[find(records, "subscribed", client="b", recovered=True)[0]] = subscribed("b", 8)
    assert check(records) == []


def test_an_unknown_publication_may_arrive_or_not() -> None:
    """Neither is anything wrong."""
    records = clean_run()
    del records[find(records, "published", id="m4")[0]]
    records.append({"do": "unknown", "channel": "c", "id": "m4"})
    assert check(records) == []
    records.append({"do": "publish", "channel": "c", "id": "never-seen"})
    assert check(records) == []


def test_without_history_nothing_is_owed() -> None:
    """Offset 0 is no place: a client may miss one, but not receive it twice."""
    records: list[Record] = [{**subscribed("a", 0), "epoch": ""}]
    for one in ("x", "y", "z"):
        where = {"channel": "c", "id": one, "epoch": "", "offset": 0}
        records += [{"do": "publish", **where}, {"do": "published", **where}]
        records += [] if one == "y" else [{"do": "recv", "client": "a", **where}]
    assert check(records) == []
    assert rules([*records, records[-1]]) == {"DUP"}


# What one client sees


def test_a_swapped_pair_is_found() -> None:
    """Two publications in the wrong order break ORDER (and show as a hole when the later one comes first)."""
    records = clean_run()
    first, second = receives(records, "a")[3:5]
    records[first], records[second] = records[second], records[first]
    assert rules(records) == {"ORDER", "HOLE"}


@pytest.mark.parametrize(("client", "which"), [("a", 3), ("b", 5)], ids=["live", "recovered"])
def test_a_dropped_receive_is_found(client: str, which: int) -> None:
    """A receive that is missing is a hole, and the publication is lost; also right after coming back."""
    records = clean_run()
    del records[receives(records, client)[which]]
    assert rules(records) == {"HOLE", "LOST"}


def test_a_hole_is_one_though_nothing_was_accepted() -> None:
    """Nobody needs to have been told of the publication that is missing."""
    records = clean_run()
    del records[find(records, "published", id="m4")[0]]
    del records[receives(records, "a")[3]]
    assert rules(records) == {"HOLE"}


def test_a_missing_end_is_found() -> None:
    """Whoever is a member at the end is owed the last publication too."""
    records = [one for one in clean_run() if "do" in one and one.get("id") != f"m{COUNT + 1}"]
    del records[find(records, "healed")[0]]
    del records[receives(records, "a")[-1]]
    assert rules(records) == {"LOST"}


def test_a_gap_of_one_client_covers_no_other() -> None:
    """What ``a`` was told does not help ``b``."""
    records = clean_run()
    dropped = records.pop(receives(records, "b")[3])
    records.insert(receives(records, "a")[3], gap("a", dropped["offset"] - 1))
    assert rules(records) == {"HOLE", "LOST"}


def test_a_gap_that_is_too_short_is_found() -> None:
    """A gap covers what lies before its position, not what follows."""
    records = clean_run()
    third, fourth = receives(records, "a")[3:5]
    del records[fourth], records[third]
    records.insert(third, gap("a", 4))
    assert rules(records) == {"HOLE", "LOST"}


def test_a_duplicate_is_found() -> None:
    """The same publication twice breaks DUP, also when it comes at another offset."""
    records = clean_run()
    index = receives(records, "a")[-1]
    records.insert(index + 1, copy.deepcopy(records[index]))
    assert rules(records) == {"DUP"}
    records[index + 1]["offset"] = COUNT + 2
    assert rules(records) == {"DUP"}


def test_a_new_id_at_an_old_offset_is_found() -> None:
    """The same offset twice is DUP, even if nobody else ever saw the place."""
    records = [one for one in clean_run() if one.get("id") != "m4" or one.get("client") == "a"]
    records = [one for one in records if one.get("client") != "b"]
    index = receives(records, "a")[4]
    records.insert(index, {**records[receives(records, "a")[3]], "id": "n4"})
    records += [{"do": "publish", "channel": "c", "id": one} for one in ("m4", "n4")]
    assert rules(records) == {"DUP", "FORK"}


def test_a_publication_after_leaving_is_found() -> None:
    """Whoever left receives nothing."""
    records = clean_run()
    records.insert(receives(records, "a")[-1], {"do": "left", "client": "a", "channel": "c"})
    assert rules(records) == {"PHANTOM"}


def test_a_recovery_from_elsewhere_is_found() -> None:
    """A recovery that continues behind where the client was is a hole that no receive shows."""
    records = [one for one in clean_run() if one["do"] != "recv" or one["client"] == "a" or one["offset"] <= 5]
    records = [one for one in records if one["do"] not in ("healed", "follow")]
    records[find(records, "subscribed", client="b", recovered=True)[0]]["offset"] = COUNT + 1
    assert rules(records) == {"HOLE"}


def test_a_recovery_into_another_epoch_is_found() -> None:
    """What was missed in the old epoch cannot have been recovered."""
    records = clean_run()
    index = find(records, "subscribed", client="b", recovered=True)[0]
    records = [one for one in records[:index] if one["do"] != "follow"]
    assert rules([*records, subscribed("b", 5, recovered=True, epoch="f")]) == {"HOLE"}


def test_an_epoch_that_nobody_announced_is_found() -> None:
    """A message of another epoch without a word before it."""
    records = clean_run()
    for index in find(records, "published", id=f"m{COUNT + 1}") + find(records, "recv", id=f"m{COUNT + 1}"):
        records[index] |= {"epoch": "f", "offset": 1}
    assert rules(records) == {"HOLE"}
    for client in ("a", "b"):
        records.insert(receives(records, client)[-1], gap(client, 0, "f"))
    assert check(records) == []


def test_an_epoch_that_nobody_announced_is_found_once() -> None:
    """And then it is followed: what comes in it is owed and in order."""
    records: list[Record] = [subscribed("a", 0)]
    for offset in range(1, 6):
        records += [{**one, "epoch": "f"} for one in (publish(offset), published(offset), recv("a", offset))]
    assert [finding.rule for finding in check(records)] == ["HOLE"]
    assert rules([one for one in records if one["id" if "id" in one else "do"] != "m4"]) == {"HOLE"}
    records = [one for one in records if one.get("id") != "m4" or one["do"] != "recv"]
    assert sorted(finding.rule for finding in check(records)) == ["HOLE", "HOLE", "LOST"]


def test_what_is_before_a_subscription_does_not_come() -> None:
    """Its position says that this one was there already."""
    records = [publish(5), published(5), subscribed("a", 5), recv("a", 5)]
    assert rules(records) == {"ORDER"}


def test_a_cursor_that_names_another_place_is_found() -> None:
    """Who came back with it would miss something."""
    records = clean_run()
    records[receives(records, "a")[3]]["cursor"] = "e.9"
    assert rules(records) == {"HOLE"}


# What is true of a publication


def test_a_forged_id_is_found() -> None:
    """An id that nobody published is a phantom; one that is known elsewhere makes a fork and a duplicate."""
    records = clean_run()
    index = receives(records, "a")[3]
    records[index]["id"] = "forged"
    assert rules(records) == {"PHANTOM"}
    records[index] |= {"id": "m9", "sha": "s9"}
    assert rules(records) == {"DUP", "FORK"}


@pytest.mark.parametrize("field", ["sha", "tag"])
def test_an_altered_publication_is_found(field: str) -> None:
    """Another body than was sent, or the tag of another tenant's channel."""
    for client in ("a", "b"):
        records = clean_run()
        records[receives(records, client)[3]][field] = "other"
        assert rules(records) == {"PHANTOM"}
    records = clean_run()
    for index in find(records, "recv", id="m4"):
        records[index][field] = "other"
    assert rules(records) == {"PHANTOM"}


def test_a_publication_of_another_channel_is_found() -> None:
    """An id is known on its own channel only."""
    records = clean_run()
    records[find(records, "publish", id="m4")[0]]["channel"] = "d"
    records[find(records, "published", id="m4")[0]]["channel"] = "d"
    assert rules(records) == {"PHANTOM"}


def test_a_reused_offset_is_found() -> None:
    """Two publications that were both accepted at one place: each client saw one of them, in perfect order."""
    records = clean_run()
    records[receives(records, "b")[3]] |= {"id": "n4", "sha": "t4"}
    records.append({**publish(4), "id": "n4", "sha": "t4"})
    assert rules(records) == {"FORK"}
    records.append({**published(4), "id": "n4"})
    assert rules(records) == {"FORK"}


def test_an_acknowledgement_of_another_place_is_found() -> None:
    """The place in the answer is the place in the stream, and that of every repeat."""
    records = [publish(4), published(4), {**published(4), "offset": 5}]
    assert rules(records, at_least=0) == {"DUP"}
    assert rules([publish(4), {**published(4), "offset": 5}, subscribed("a", 3), recv("a", 4)]) == {"DUP", "LOST"}


def test_a_refused_publication_must_not_arrive() -> None:
    """What was refused for certain must not come."""
    records = clean_run()
    records[find(records, "published", id="m3")[0]] = {"do": "refused", "channel": "c", "id": "m3"}
    assert rules(records) == {"REFUTED-FAIL"}


def test_a_refused_publication_must_not_be_accepted() -> None:
    """Both cannot be true, although nobody received it."""
    records = [{**publish(1)}, published(1), {"do": "refused", "channel": "c", "id": "m1"}]
    assert rules(records, at_least=0) == {"REFUTED-FAIL"}


def second_epoch() -> list[Record]:
    """``a`` receives the fourth publication, is told of a new epoch, and receives the same there."""
    records = clean_run()[: find(clean_run(), "publish", id="m5")[0]]
    records = [one for one in records if one["do"] not in ("follow",)]
    for client in ("a", "b"):
        records += [gap(client, 0, "f"), {**recv(client, 4), "epoch": "f", "offset": 1}]
    return records


def test_a_repeat_in_a_new_epoch_is_no_duplicate() -> None:
    """Its first try had an unknown outcome, and the repeat was accepted in the new epoch."""
    records = second_epoch()
    records[find(records, "published", id="m4")[0]] |= {"epoch": "f", "offset": 1}
    assert check(records) == []
    del records[find(records, "published", id="m4")[0]]
    assert check(records) == []


def test_what_was_accepted_does_not_come_again_in_a_new_epoch() -> None:
    """Nobody repeats what was accepted."""
    assert rules(second_epoch()) == {"DUP"}


# Whether it lives, and whether it ran


def test_a_client_that_stays_away_is_found() -> None:
    """It left and was never subscribed again: nothing is owed, and yet something is wrong."""
    records = clean_run()
    last = receives(records, "a")[-1]
    records[last] = {"do": "left", "client": "a", "channel": "c"}
    assert rules(records) == {"STUCK"}


def test_a_client_that_never_came_is_found() -> None:
    """Wanting to follow is enough to be owed a probe."""
    assert rules([*clean_run(), {"do": "follow", "client": "z", "channel": "c"}]) == {"STUCK"}


def test_a_deaf_client_is_found() -> None:
    """It believes that it is subscribed: the probe is lost too."""
    records = clean_run()
    del records[receives(records, "b")[-1]]
    assert rules(records) == {"STUCK", "LOST"}


def test_a_late_probe_is_found() -> None:
    """Healing has a bound."""
    records = clean_run()
    records[receives(records, "b")[-1]]["t"] = HEALED + 5.1
    assert rules(records) == {"STUCK"}


def test_a_probe_before_the_last_fault_is_no_probe() -> None:
    """Healed twice: only what came after the second time counts, wherever it is written."""
    again = {"do": "healed", "t": HEALED + 3, "within": 5.0}
    assert rules([*clean_run(), again]) == {"STUCK"}
    assert rules([again, *(one for one in clean_run() if one["do"] != "healed")]) == {"STUCK"}


def test_there_is_no_time_to_heal_when_somebody_did_not() -> None:
    """Nor when nobody said that it is over."""
    records = clean_run()
    for left in (records[:-1], [one for one in records if one["do"] != "healed"]):
        judge = Judge()
        for record in left:
            judge.take(record)
        judge.finish()
        assert judge.heal_time() is None


def test_an_ordinary_publication_is_no_probe() -> None:
    """What was sent before everything was healed proves nothing."""
    records = clean_run()
    records[find(records, "probe")[0]]["do"] = "publish"
    assert rules(records) == {"STUCK"}


@pytest.mark.parametrize(("code", "found"), [(3001, set()), (503, set()), (3501, {"STUCK"}), (403, {"STUCK"})])
def test_who_is_told_never_to_come_back_is_stuck(code: int, found: set[str]) -> None:
    """Other codes invite to come back."""
    assert rules([*clean_run(), {"do": "closed", "client": "a", "code": code}]) == found


def test_a_run_that_did_nothing_is_found() -> None:
    """Too few receives prove nothing, and neither do too few of anything else."""
    assert rules([], at_least=1) == {"COUNT"}
    assert rules(clean_run(), at_least=2 * COUNT + 3) == {"COUNT"}
    assert [one.text for one in check(clean_run(), at_least={"recv": 5, "gap": 1})] == ["0 x gap, wanted at least 1"]


def test_gaps_where_nothing_may_be_lost_are_found() -> None:
    """A gap that is told, and a recovery that says no; a first visit is neither."""
    records = [*clean_run(), {**subscribed("z", COUNT + 1), "was_recovering": False}]
    records[find(records, "subscribed", client="b", recovered=True)[0]]["was_recovering"] = True
    assert check(records, at_most={"gaps": 0}) == []
    told = [gap("a", COUNT + 1), {**subscribed("b", COUNT + 1), "was_recovering": True}]
    assert [one.text for one in check(records + told, at_most={"gaps": 1})] == ["2 x gaps, wanted at most 1"]


# The same with what was really recorded


@pytest.fixture(scope="module")
def recorded(common: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Record]]:
    """A short run over all doors, with readers that come back again and again."""
    folder: Path = tmp_path_factory.mktemp("cast")
    server = common(DEFAULT)
    with cast(server, readers=6, rate=100, channels=2, seed=7, reconnect_every=0.2, folder=folder) as run:
        run.wait(receives=500)
        yield run.assert_clean(at_least={"recv": 500, "subscribed": 20, "published": 50})


def drop(records: list[Record], at: int) -> None:
    """It is not there."""
    del records[at]


def double(records: list[Record], at: int) -> None:
    """It is there twice."""
    records.insert(at, dict(records[at]))


def swap(records: list[Record], at: int) -> None:
    """It changes places with the one before."""
    client, channel, where = records[at]["client"], records[at]["channel"], records[at]["offset"] - 1
    before = find(records, "recv", client=client, channel=channel, offset=where)[-1]
    records[at], records[before] = records[before], records[at]


def forge(records: list[Record], at: int) -> None:
    """Nobody published it."""
    records[at] = {**records[at], "id": "forged"}


def reuse(records: list[Record], at: int) -> None:
    """Another publication has its place, for this one client."""
    records[at] = {**records[at], "id": "second"}
    records.append({"do": "publish", **{name: records[at][name] for name in ("channel", "id", "sha", "tag")}})


def refute(records: list[Record], at: int) -> None:
    """The publisher swears that it was refused."""
    where = find(records, "published", channel=records[at]["channel"], id=records[at]["id"])[0]
    records[where] = {"do": "refused", "channel": records[at]["channel"], "id": records[at]["id"]}


MUTATIONS: list[tuple[Callable[[list[Record], int], None], set[str]]] = [
    (drop, {"HOLE", "LOST"}),
    (double, {"DUP"}),
    (swap, {"ORDER", "HOLE"}),
    (forge, {"PHANTOM"}),
    (reuse, {"FORK"}),
    (refute, {"REFUTED-FAIL"}),
]


@pytest.mark.parametrize(("mutate", "broken"), MUTATIONS, ids=[mutate.__name__ for mutate, _ in MUTATIONS])
def test_one_changed_line_of_a_real_run_is_found(
    recorded: list[Record], mutate: Callable[[list[Record], int], None], broken: set[str]
) -> None:
    """Wherever it is: live, recovered, over whatever door."""
    dice = random.Random(5)
    healed = recorded[find(recorded, "healed")[0]]["t"]
    inner = [
        index
        for index, one in enumerate(recorded)
        if one["do"] == "recv" and one["t"] < healed and has_neighbours(recorded, index)
    ]
    for at in dice.sample(inner, 20):
        records = list(recorded)
        mutate(records, at)
        assert rules(records) == broken, recorded[at]


def has_neighbours(records: list[Record], at: int) -> bool:
    """Whether the publications before and behind it came to the same client, without anything else between."""
    who = (records[at]["client"], records[at]["channel"])
    same = [one for one in records if (one.get("client"), one.get("channel")) == who]
    place = next(index for index, one in enumerate(same) if one is records[at])
    return 0 < place < len(same) - 1 and same[place - 1]["do"] == same[place + 1]["do"] == "recv"
