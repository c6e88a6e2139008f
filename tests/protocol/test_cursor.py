"""Cursors: there and back, and nothing else accepted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.protocol import cursor
from rt.protocol.cursor import CursorError
from rt.protocol.publication import Position

epochs = st.text("abcXYZ019_-", min_size=1, max_size=32)
positions = st.builds(Position, epochs, st.integers(0, cursor.MAX_OFFSET))
names = st.text(min_size=1, max_size=12).filter(lambda name: name.isprintable())
named = st.dictionaries(names, st.none() | positions, min_size=1, max_size=20)


def places(count: int) -> list[str]:
    """The channels of a request."""
    return [f"c{place}" for place in range(count)]


def read(text: str, count: int) -> list[Position | None]:
    """A cursor by place, read back."""
    return list(cursor.decode(text, places(count)).values())


def written(wanted: dict[str, Position | None]) -> str:
    """A cursor by name."""
    return ",".join(cursor.mark(name) + cursor.entry(position) for name, position in wanted.items())


lists = st.lists(st.none() | positions, min_size=1, max_size=cursor.MAX_CHANNELS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x.3", [Position("x", 3)]),
        ("x.0", [Position("x", 0)]),
        ("-", [None]),
        ("-,-", [None, None]),
        ("x.3,-,y.10", [Position("x", 3), None, Position("y", 10)]),
        ("-.1", [Position("-", 1)]),
        ("x.9007199254740991", [Position("x", 2**53 - 1)]),
        (f"{'e' * 32}.1", [Position("e" * 32, 1)]),
    ],
)
def test_a_cursor_is_read_and_written(text: str, expected: list[Position | None]) -> None:
    """Each list of positions has one spelling."""
    assert read(text, len(expected)) == expected
    assert cursor.encode(expected) == text


def test_a_channel_without_history_is_a_dash() -> None:
    """The position without epoch is written like no position at all."""
    assert cursor.encode([Position("", 0), Position("a", 1)]) == "-,a.1"
    assert cursor.encode([Position("", 7), Position("a", 1)]) == "-,a.1", "a number that is nobody else's business"


@settings(deadline=None)
@given(lists)
def test_every_list_of_positions_comes_back(wanted: list[Position | None]) -> None:
    """Encoding loses nothing, and stays below the bound that decoding has."""
    text = cursor.encode(wanted)
    assert len(text) <= cursor.MAX_TEXT
    assert read(text, len(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "x",
        "x.",
        ".1",
        "3",
        "x.3.4",
        "x.-1",
        "x.+1",
        "x.01",
        "x.00",
        "x.1e3",
        "x.1.0",
        "x.0x1",
        " x.1",
        "x.1 ",
        "x .1",
        "x.1\n",
        "x.1\0",
        "x.9007199254740992",
        "x.9999999999999999",
        "x." + "9" * 17,
        "x.1" + "0" * 30,
        "x.\u0661",
        "x.\uff11",
        "\u00e9.1",
        "a:b.1",
        "a/b.1",
        "a%2e.1",
        f"{'e' * 33}.1",
        "--",
        "\u2212",
        "None",
        "x.1;y.2",
        "x.1,",
        ",x.1",
        "x.1,y.2",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """One channel, and a text that is not exactly one position in its one spelling."""
    with pytest.raises(CursorError) as caught:
        read(text, 1)
    assert text not in str(caught.value) or len(text) < 4


@pytest.mark.parametrize(("text", "count"), [("x.1", 2), ("x.1,y.2", 1), ("x.1,y.2", 3), ("-", 0), ("", 0), ("-", -1)])
def test_another_number_of_positions_is_refused(text: str, count: int) -> None:
    """A cursor is for the channels of the request, no more and no fewer."""
    with pytest.raises(CursorError):
        read(text, count)


def test_more_than_sixteen_channels_are_refused() -> None:
    """The bound holds in both directions."""
    seventeen = ",".join(["-"] * 17)
    with pytest.raises(CursorError, match="16"):
        read(seventeen, 17)
    with pytest.raises(CursorError, match="16"):
        cursor.encode([None] * 17)
    with pytest.raises(CursorError, match="16"):
        cursor.encode([])


def test_a_long_text_is_refused_unread() -> None:
    """Beyond 1 KiB nothing is looked at."""
    with pytest.raises(CursorError, match="longer"):
        read("x.1," * 20000, 16)


@pytest.mark.parametrize("position", [("a b", 1), ("a,b", 1), ("a.b", 1), ("e" * 33, 1), ("x", -1), ("x", 2**53)])
def test_what_could_not_be_read_back_is_not_written(position: tuple[str, int]) -> None:
    """A position that no client could send back is refused when it is written."""
    with pytest.raises(CursorError):
        cursor.encode([Position(*position)])


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=80) | st.text("x.,=%A-0129_", max_size=80), st.integers(-1, 20))
def test_any_text_is_a_cursor_or_a_cursor_error(text: str, count: int) -> None:
    """Hostile text raises CursorError and nothing else; what is accepted is written the same way again."""
    try:
        got = cursor.decode(text, places(count))
    except CursorError:
        return
    if "=" in text:
        assert written(got) == text
    else:
        assert list(got) == places(count)
        assert cursor.encode(list(got.values())) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=x.3", {"a": Position("x", 3)}),
        ("a=-", {"a": None}),
        ("b=x.3,a=-", {"b": Position("x", 3), "a": None}),
        ("chat:lobby=x.3", {"chat:lobby": Position("x", 3)}),
        ("a%2Cb=x.3,a%3Db=y.1", {"a,b": Position("x", 3), "a=b": Position("y", 1)}),
        ("%C3%A4=x.3", {"\u00e4": Position("x", 3)}),
        ("%25=-", {"%": None}),
    ],
)
def test_a_cursor_by_name_is_read_and_written(text: str, expected: dict[str, Position | None]) -> None:
    """Whatever the request's own list is, the names say which position is whose."""
    assert cursor.decode(text, places(3)) == expected
    assert written(expected) == text


@settings(deadline=None)
@given(named)
def test_every_named_position_comes_back(wanted: dict[str, Position | None]) -> None:
    """Any name can be written, is ASCII then, and needs no escape in JSON."""
    text = written(wanted)
    assert text.isascii()
    assert not set(text) & set('"\\\n ')
    assert cursor.decode(text, []) == wanted
    assert not cursor.fits(list(wanted)) or len(text) <= cursor.MAX_NAMED


@pytest.mark.parametrize(
    "text",
    [
        "=",
        "=x.1",
        "a=",
        "a=x",
        "a=x.1,",
        "a=x.1,x.1",
        "a=x.1,a=x.2",
        "a=b=x.1",
        "%61=x.1",
        "%2c=x.1",
        "%=x.1",
        "%FF=x.1",
        "a b=x.1",
        "\u00e4=x.1",
        'a"=x.1',
        "\ud800=x.1",
        "a=x.01",
    ],
)
def test_another_spelling_of_a_named_cursor_is_refused(text: str) -> None:
    """A name that is no name, one twice, or one that could be written shorter."""
    with pytest.raises(CursorError):
        cursor.decode(text, ["a"])


def test_a_long_named_cursor_is_refused_unread() -> None:
    """The bound is the one that streams are held to when they grow."""
    many = [f"chat:room{place}" for place in range(1000)]
    assert not cursor.fits(many)
    assert cursor.fits(many[:100])
    with pytest.raises(CursorError, match="longer"):
        cursor.decode(written(dict.fromkeys(many, Position("e" * 32, cursor.MAX_OFFSET))), [])
