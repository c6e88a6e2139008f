"""The bridge beside a model that looks at every offset: what it gives is whole, and what it cannot give it says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rt.protocol.bridge import Covered, Gap, Missing, Recent, bridge, cut, fits
from rt.protocol.publication import Page, Position, Publication

quick = settings(deadline=None, max_examples=200)
sizes = st.lists(st.integers(1, 12), max_size=150)


def made(offset: int, size: int = 1) -> Publication:
    """A publication that only its offset and size tell from others."""
    return Publication(b"x" * size, "e", offset)


@quick
@given(sizes, st.integers(0, 8), st.integers(0, 40))
def test_recent_is_the_longest_end_within_its_bounds(bodies: list[int], count: int, size: int) -> None:
    """However much went through it, it holds the newest that fit, and says so."""
    recent = Recent(count, size)
    kept: list[int] = []
    for offset, body in enumerate(bodies, 1):
        recent.append(made(offset, body))
        kept.append(offset)
        while len(kept) > count or sum(bodies[at - 1] for at in kept) > size:
            del kept[0]
        assert (len(recent), recent.size) == (len(kept), sum(bodies[at - 1] for at in kept))
        assert [recent.covers(at) for at in range(offset)] == [bool(kept) and kept[0] <= at + 1 for at in range(offset)]
        newest = recent.newest()
        assert (newest.offset if newest else None) == (kept[-1] if kept else None)
        if kept:
            assert [found.offset for found in recent.between(kept[0] - 1, offset)] == kept
    recent.clear()
    assert (len(recent), recent.size, recent.newest()) == (0, 0, None)


@quick
@given(sizes, st.integers(0, 8), st.integers(0, 40), st.integers(0, 150), st.integers(0, 150))
def test_recent_takes_what_came_before(bodies: list[int], count: int, size: int, read: int, after: int) -> None:
    """A page that ends where it begins makes it longer, within its bounds and without a hole."""
    recent = Recent(count, size)
    page = [made(offset, body) for offset, body in enumerate(bodies[:read], 1)]
    for offset, body in enumerate(bodies[read:], len(page) + 1):
        recent.append(made(offset, body))
    end = (recent.oldest() or len(bodies) + 1) - 1
    before = len(recent)
    recent.extend_back([one for one in page if after < one.offset] if end == len(page) else [])
    kept = list(range(recent.oldest(), len(bodies) + 1)) if len(recent) else []
    assert len(recent) == len(kept) >= before
    assert len(recent) <= count and recent.size == sum(bodies[at - 1] for at in kept) <= size
    assert not kept or [found.offset for found in recent.between(kept[0] - 1, len(bodies))] == kept
    if end == len(page) and kept and kept[0] > after + 1:
        assert len(kept) == count or recent.size + bodies[kept[0] - 2] > size
    recent.append(made(len(bodies) + 1))
    newest = recent.newest()
    assert newest is None or newest.offset == len(bodies) + 1


@quick
@given(st.data())
def test_the_way_is_whole_or_said_not_to_be(data: st.DataObject) -> None:
    """Complete is everything up to the base; incomplete is a start of it; a gap only where the store has lost it."""
    position = data.draw(st.integers(0, 12))
    base = data.draw(st.integers(0, position))
    since = data.draw(st.integers(0, base))
    recent = Recent(data.draw(st.integers(0, 12)), 1000)
    for offset in range(1, position + 1):
        recent.append(made(offset))
    top = position + data.draw(st.integers(0, 3))
    first = data.draw(st.integers(1, top + 1))
    limit = data.draw(st.integers(1, 12))
    after = data.draw(st.integers(0, since))
    stream = [made(offset) for offset in range(max(first, after + 1), top + 1)][:limit]
    page = data.draw(st.sampled_from([None, Page(Position("e", top), stream)]))
    way = bridge(Position("e", since), Position("e", base), recent, page)
    if isinstance(way, Covered):
        offsets = [found.offset for found in way.publications]
        assert offsets == list(range(since + 1, since + 1 + len(offsets)))
        assert way.complete == (since + len(offsets) == base)
        assert way.complete or (page is not None and offsets)
    elif isinstance(way, Missing):
        assert page is None and way.after == since
    else:
        shown = [found.offset for found in stream]
        assert page is not None and since + 1 not in shown and way.reason == "trimmed"
    if since == base or len(recent) >= position - since:
        assert isinstance(way, Covered) and way.complete


@quick
@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_another_epoch_or_a_shorter_stream_is_a_gap(base: int, since: int, top: int) -> None:
    """What was seen of another stream proves nothing, wherever that is noticed."""
    since = min(since, base - 1)
    here, recent = Position("e", base), Recent(0, 0)
    assert bridge(Position("f", since), here, recent) == Gap("epoch")
    assert bridge(Position("e", since), here, recent, Page(Position("f", top), [])) == Gap("epoch")
    short = bridge(Position("e", since), here, recent, Page(Position("e", top), []))
    assert short == (Gap("ahead") if top < since else Gap("trimmed") if top > since else Missing(since))


@quick
@given(sizes, st.integers(0, 60))
def test_a_cut_is_a_start_that_fits_and_never_nothing(bodies: list[int], room: int) -> None:
    """As many as fit, at least one, in order."""
    publications = [made(offset, body) for offset, body in enumerate(bodies, 1)]
    given = cut(publications, room)
    assert list(given) == publications[: len(given)]
    assert len(given) <= 1 or fits(given, room)
    assert given or not publications
    assert len(given) == len(publications) or not fits(publications[: len(given) + 1], room)
