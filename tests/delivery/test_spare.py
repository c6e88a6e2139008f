"""What is kept for those who are behind: against plain models of what each policy owes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.config import Delivery, Namespace
from rt.config.schema import PerSubscription
from rt.delivery.policy import Share
from rt.delivery.spare import Keyed, Newest, Nothing, Rest, Spare, Whole, spare, tag_of
from rt.protocol.publication import Publication

WIDE = Share(1 << 20, 10_000)


def body(text: str, key: str = "") -> bytes:
    """A publication's body, with a tag or without."""
    tags = b',"tags":{"k":"%s"}' % key.encode() if key else b""
    return b'{"data":"%s"%s}' % (text.encode(), tags)


def numbers(rest: Rest) -> list[int]:
    """The numbers of publications made by :func:`filled`."""
    return [publication.time for publication in rest.publications]


def filled(kept: Spare, keys: str) -> Spare:
    """One publication per letter, which is its key; its number is its time."""
    for number, key in enumerate(keys, 1):
        kept.put(number, Publication(body("x", key), time=number), float(number))
    return kept


keys = st.text("abcd", max_size=30)
places = st.integers(0, 30)


@given(keys, places, places, st.integers(1, 12))
def test_newest_is_the_end_of_what_came(came: str, first: int, second: int, count: int) -> None:
    """Within the bound, in order, without a hole; the rest up to the base is counted, and nothing beyond it given."""
    since, upto = sorted(min(place, len(came)) for place in (first, second))
    rest = filled(Newest(Share(1 << 20, count), 1e9), came).after(since, upto, 0.0)
    expected = [number for number in range(since + 1, upto + 1) if number > len(came) - count]
    assert (numbers(rest), rest.dropped, rest.conflated) == (expected, upto - since - len(expected), 0)


@given(keys, places, places)
def test_keyed_is_the_newest_of_each_key(came: str, first: int, second: int) -> None:
    """In order of their coming; what has a newer one, even beyond the base, is conflated."""
    since, upto = sorted(min(place, len(came)) for place in (first, second))
    rest = filled(Keyed(WIDE, 1e9, "k"), came).after(since, upto, 0.0)
    newest = sorted(came.rindex(key) + 1 for key in set(came))
    expected = [number for number in newest if since < number <= upto]
    assert (numbers(rest), rest.dropped) == (expected, 0)
    assert rest.conflated == upto - since - len(expected)


@settings(max_examples=50)
@given(st.text("abcdefgh", min_size=1, max_size=40), places, st.integers(1, 4))
def test_keys_beyond_the_bound_are_dropped_and_counted(came: str, first: int, count: int) -> None:
    """The bound is kept, the newest is always there, and everything that came is given, conflated or dropped."""
    kept = filled(Keyed(Share(1 << 20, count), 1e9, "k"), came)
    since = min(first, len(came))
    rest = kept.after(since, len(came), 0.0)
    assert len(kept) <= count
    assert len(rest.publications) + rest.dropped + rest.conflated == len(came) - since
    if since < len(came):
        assert numbers(rest)[-1] == len(came)
    if len(set(came)) <= count:
        assert not rest.dropped


def test_a_key_that_comes_back_was_conflated_and_not_dropped() -> None:
    """Who gets its newest lacks nothing."""
    rest = filled(Keyed(Share(1 << 20, 2), 1e9, "k"), "abca").after(0, 4, 0.0)
    assert (numbers(rest), rest.dropped, rest.conflated) == ([3, 4], 1, 1), "b was dropped, a was not"


@pytest.mark.parametrize("kind", [Newest, Whole])
def test_bytes_and_age_are_bounded_and_one_is_always_kept(kind: type[Newest]) -> None:
    """However large it is; but not beyond its age."""
    kept = kind(Share(50, 100), 10.0)
    for number in range(1, 5):
        kept.put(number, Publication(body("x" * 20), time=number), 0.0)
    assert (kept.size <= 50, numbers(kept.after(0, 4, 0.0))) == (True, [4])
    kept.put(5, Publication(body("x" * 200), time=5), 5.0)
    assert numbers(kept.after(0, 5, 14.0)) == [5]
    assert kept.after(0, 5, 16.0) == Rest([], dropped=5)
    assert (kept.size, len(kept)) == (0, 0)


def test_values_do_not_age() -> None:
    """Of a key nothing newer is known, however long ago it was."""
    kept = filled(Keyed(WIDE, 10.0, "k"), "ab")
    assert numbers(kept.after(0, 2, 1e6)) == [1, 2]


def test_nothing_is_kept_where_the_newest_are_dropped() -> None:
    """What was queued is in the outbox."""
    assert filled(Nothing(WIDE, 1e9), "abc").after(1, 3, 0.0) == Rest(dropped=2)


@given(keys, places)
def test_what_is_forgotten_is_what_nobody_asks_for(came: str, floor: int) -> None:
    """From the floor on everything is as before, and what lies below is gone."""
    floor = min(floor, len(came))
    for make in (lambda: Newest(WIDE, 1e9), lambda: Keyed(WIDE, 1e9, "k")):
        kept, whole = filled(make(), came), filled(make(), came)
        kept.forget(floor)
        rests = [one.after(floor, len(came), 0.0) for one in (kept, whole)]
        assert len({(tuple(numbers(rest)), rest.dropped, rest.conflated) for rest in rests}) == 1
        assert len(kept) == len(kept.after(0, len(came), 0.0).publications)
        assert kept.size == sum(len(one.body) for one in kept.after(0, len(came), 0.0).publications)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"data":{"tags":{"k":"no"}},"tags":{"k":"yes"}}', "yes"),
        (b'{"data":{"tags":{"k":"no"}}}', ""),
        (b'{"data":1,"tags":{"other":"x"}}', ""),
        (b'{"data":1,"tags":{}}', ""),
        (b'{"data":1,"tags":null}', ""),
        (b'{"data":1,"tags":{"k":7}}', ""),
        (b'{"data":%s1%s,"tags":{"k":"deep"}}' % (b"[" * 128, b"]" * 128), "deep"),
        (b"nonsense", ""),
    ],
)
def test_the_key_is_the_tag_of_the_publication_itself(text: bytes, value: str) -> None:
    """Not one within its data; what has none is of the channel's own key."""
    assert tag_of(text, "k") == value


def test_what_lacks_the_tag_is_known_by_the_channel() -> None:
    """All of it together, and said so."""
    kept = Keyed(WIDE, 1e9, "k")
    assert [kept.put(1, Publication(body("x"), time=1), 0.0), kept.put(2, Publication(body("y"), time=2), 0.0)] == [
        False,
        False,
    ]
    assert kept.put(3, Publication(body("z", "a"), time=3), 0.0)
    assert numbers(kept.after(0, 3, 0.0)) == [2, 3]
    assert Keyed(WIDE, 1e9, "").put(1, Publication(body("x")), 0.0), "there is no tag to lack"


@pytest.mark.parametrize(
    ("namespace", "kind"),
    [
        (Namespace(name="aa"), None),
        (Namespace(name="aa", slow="disconnect"), None),
        (Namespace(name="aa", history_size=0), None),
        (Namespace(name="aa", history_size=0, slow="drop_oldest"), Newest),
        (Namespace(name="aa", history_size=0, slow="drop_newest"), Nothing),
        (Namespace(name="aa", history_size=0, slow="conflate"), Keyed),
        (Namespace(name="aa", slow="conflate", force_recovery_mode="cache"), None),
    ],
)
def test_who_has_a_spare(namespace: Namespace, kind: type | None) -> None:
    """Channels without history whose policy leaves things out; where the priority is low, a quarter, high, four times
    as much. A channel of ``disconnect`` has one beside such in a stream, as large as an outbox may be."""
    bounds = PerSubscription(max_bytes=4000, max_messages=40)
    delivery = Delivery(subscription=bounds, high_watermark=9000, max_messages=90)
    found = spare(namespace, delivery, whole=False)
    assert (None if found is None else type(found)) is kind
    if found is not None:
        assert found.bounds == (4000, 40)
    whole = spare(Namespace(name="aa", history_size=0), delivery, whole=True)
    assert isinstance(whole, Whole) and whole.bounds == (9000, 90) and whole.fatal


@pytest.mark.parametrize(("priority", "bounds"), [("low", (1000, 10)), ("normal", (4000, 40)), ("high", (16000, 160))])
def test_bounds_go_by_priority(priority: str, bounds: tuple[int, int]) -> None:
    """So that of channels that are alike the lower lose something first."""
    namespace = Namespace(name="aa", history_size=0, slow="drop_oldest", priority=priority)  # type: ignore[arg-type]
    found = spare(namespace, Delivery(subscription=PerSubscription(max_bytes=4000, max_messages=40)), whole=False)
    assert found is not None and found.bounds == bounds
