"""The checker is believed only because it finds what is planted."""

from __future__ import annotations

import copy

from tests.checker import Record, check

COUNT = 10


def clean_run() -> list[Record]:
    """Two clients read ten publications; one of them leaves after five, comes back and recovers."""
    records: list[Record] = []
    for client in ("a", "b"):
        records.append(subscribed(client, 0))
    for offset in range(1, COUNT + 1):
        place = {"channel": "c", "epoch": "e", "offset": offset, "id": f"m{offset}"}
        records.append({"do": "publish", "channel": "c", "id": f"m{offset}"})
        records.append({"do": "recv", "client": "a", **place})
        records.append({"do": "published", **place})
        if offset <= 5:
            records.append({"do": "recv", "client": "b", **place})
        if offset == 5:
            records.append({"do": "left", "client": "b", "channel": "c"})
    records.append(subscribed("b", 5, recovered=True))
    for offset in range(6, COUNT + 1):
        place = {"channel": "c", "epoch": "e", "offset": offset, "id": f"m{offset}"}
        records.append({"do": "recv", "client": "b", **place})
    return records


def subscribed(client: str, offset: int, recovered: bool = False) -> Record:
    """A granted subscription at ``offset``."""
    place = {"channel": "c", "epoch": "e", "offset": offset}
    return {"do": "subscribed", "client": client, **place, "recovered": recovered}


def receives(records: list[Record], client: str) -> list[int]:
    """Where the receives of ``client`` stand."""
    return [index for index, one in enumerate(records) if one["do"] == "recv" and one["client"] == client]


def rules(records: list[Record], at_least: int = 1) -> set[str]:
    """The rules that ``records`` break."""
    return {finding.rule for finding in check(records, at_least=at_least)}


def test_a_clean_run_is_clean() -> None:
    """Leaving and recovering breaks nothing."""
    assert check(clean_run(), at_least=2 * COUNT) == []


def test_a_swapped_pair_is_found() -> None:
    """Two publications in the wrong order break ORDER (and show as a hole when the first comes early)."""
    records = clean_run()
    first, second = receives(records, "a")[3:5]
    records[first], records[second] = records[second], records[first]
    assert rules(records) == {"ORDER", "HOLE"}


def test_a_dropped_receive_is_found() -> None:
    """A receive that is missing in the middle is a hole, and the publication is lost."""
    records = clean_run()
    del records[receives(records, "a")[3]]
    assert rules(records) == {"HOLE", "LOST"}


def test_a_dropped_receive_during_recovery_is_found() -> None:
    """So is one that is missing right after coming back."""
    records = clean_run()
    del records[receives(records, "b")[5]]
    assert rules(records) == {"HOLE", "LOST"}


def test_a_missing_end_is_found() -> None:
    """Whoever is a member at the end is owed the last publication too."""
    records = clean_run()
    del records[receives(records, "a")[-1]]
    assert rules(records) == {"LOST"}


def test_a_duplicate_is_found() -> None:
    """The same publication twice breaks DUP, also when it comes at another offset."""
    records = clean_run()
    index = receives(records, "a")[3]
    records.insert(index + 1, copy.deepcopy(records[index]))
    assert rules(records) == {"DUP"}
    records[index + 1]["offset"] = COUNT + 1
    assert "DUP" in rules(records)


def test_a_forged_id_is_found() -> None:
    """An id that nobody published is a phantom, and one position with two ids is a fork."""
    records = clean_run()
    records[receives(records, "a")[3]]["id"] = "forged"
    assert rules(records) == {"PHANTOM"}
    records[receives(records, "a")[3]]["id"] = "m9"
    assert {"DUP", "FORK"} <= rules(records)


def test_a_refused_publication_must_not_arrive() -> None:
    """What was refused for certain must not come."""
    records = clean_run()
    records.append({"do": "refused", "channel": "c", "id": "m3"})
    assert rules(records) == {"REFUTED-FAIL"}


def test_a_publication_after_leaving_is_found() -> None:
    """Whoever left receives nothing."""
    records = clean_run()
    last = receives(records, "a")[-1]
    records.insert(last, {"do": "left", "client": "a", "channel": "c"})
    assert rules(records) == {"PHANTOM"}


def test_a_recovery_from_elsewhere_is_found() -> None:
    """A recovery that continues behind where the client was is a hole that no receive shows."""
    records = [one for one in clean_run() if one["do"] != "recv" or one["client"] == "a" or one["offset"] <= 5]
    for one in records:
        if one["do"] == "subscribed" and one["recovered"]:
            one["offset"] = COUNT
    assert rules(records) == {"HOLE"}


def test_a_gap_that_is_told_is_no_hole() -> None:
    """After a gap everything from its position on is owed, and nothing before it."""
    records = clean_run()
    third = receives(records, "a")[3]
    dropped = records.pop(third)
    records.insert(third, {"do": "gap", "client": "a", "channel": "c", "epoch": "e", "offset": dropped["offset"]})
    assert check(records) == []


def test_a_run_that_did_nothing_is_found() -> None:
    """Too few receives prove nothing."""
    assert rules([], at_least=1) == {"COUNT"}
