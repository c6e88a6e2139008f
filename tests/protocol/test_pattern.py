"""Patterns of channel names: a table, an oracle, and a bound."""

from __future__ import annotations

import time
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.protocol import pattern


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("", ["a", "chat:1"], []),
        ("*", ["", "a", "chat:1"], []),
        ("**", ["", "a", "chat:1"], []),
        ("chat", ["chat"], ["chat1", "achat", ""]),
        ("chat:*", ["chat:", "chat:1", "chat:a:b"], ["chat", "xchat:1"]),
        ("*:1", [":1", "a:1", "a:b:1"], ["a:2", "a:11"]),
        ("a*b*c", ["abc", "axbxc", "abcbc", "aXbbc"], ["ab", "acb", "abcd", "bac"]),
        ("*ab", ["ab", "aab", "abab"], ["aba"]),
        ("*a*a*", ["aa", "xaxax"], ["a", "xax"]),
        ("a?c", ["abc", "a:c"], ["ac", "abbc"]),
        ("???", ["abc"], ["ab", "abcd"]),
        ("[abc]", ["a", "c"], ["d", "ab", ""]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]", ["d", "-"], ["a", ""]),
        ("[a-cx-z_]", ["b", "y", "_"], ["d", "-"]),
        (r"[\]\-^]", ["]", "-", "^"], ["\\", "a"]),
        (r"[\!a]", ["!", "a"], ["b"]),
        ("[[&|~]", ["[", "&", "|", "~"], ["a"]),
        ("{a,b}", ["a", "b"], ["c", "ab", "{a,b}"]),
        ("{a,ab}c", ["ac", "abc"], ["abbc"]),
        ("*{a,ab}c", ["abc", "xabc", "ac"], ["ab"]),
        ("{a*,*b}", ["a", "axx", "xxb"], ["x", ""]),
        ("{,x}y", ["y", "xy"], ["xxy"]),
        ("{a,{b,c?}}d", ["ad", "bd", "cxd"], ["cd", "d"]),
        ("{}", [""], ["a"]),
        (r"\*", ["*"], ["a"]),
        (r"\{a\,b\}", ["{a,b}"], ["a"]),
        (r"\\", ["\\"], [""]),
        ("a,b", ["a,b"], ["a"]),
        ("a}", ["a}"], ["a"]),
        ("a]", ["a]"], ["a"]),
        ("a.b+(c)|d^$", ["a.b+(c)|d^$"], ["aXb+(c)|d^$", "d^$"]),
        ("#42", ["#42"], ["#421"]),
    ],
)
def test_patterns(glob: str, yes: list[str], no: list[str]) -> None:
    """Each sign of a pattern means what it means to the tools of the protocol."""
    matches = pattern.compile(glob)
    assert [name for name in yes if not matches(name)] == []
    assert [name for name in no if matches(name)] == []


@pytest.mark.parametrize(
    "glob",
    [
        "[",
        "[]",
        "[!]",
        "[a",
        "[a-",
        "[a-]",
        "[-a]",
        "[z-a]",
        "[\\",
        "{",
        "{a",
        "{a,",
        "{a,b",
        "{{a}",
        "a\\",
        "{a\\",
        "a" * 256,
        "{a,b}" * 8,
        "{" * 20 + "}" * 20,
        "{" + ",".join("ab" * 60) + "}" + "*b" * 60,
    ],
)
def test_patterns_that_are_none(glob: str) -> None:
    """What is left open, empty, upside down, or stands for too many is a bad request."""
    with pytest.raises(errors.Refused) as refused:
        pattern.compile(glob)
    assert refused.value.error == errors.BAD_REQUEST


def test_the_largest_patterns() -> None:
    """What is just within the bounds is taken."""
    assert pattern.compile("a" * 255)("a" * 255)
    assert pattern.compile("{a,b}" * 7)("abababa")
    assert pattern.compile("{" * 8 + "a" + "}" * 8)("a")
    assert pattern.compile("{" + ",".join("a" * 120) + "}")("a")


TOKENS = st.sampled_from(["a", "b", "?", "*", "[ab]", "[!a]", "{", "}", ","])


def oracle(glob: str, name: str) -> bool:
    """The same by trying everything, for patterns of TOKENS that are not left open."""

    @cache
    def ends(glob: str, name: str) -> bool:
        if not glob:
            return not name
        if glob[0] == "{":
            inner, rest = closed(glob)
            return any(ends(alternative + rest, name) for alternative in inner)
        if glob[0] == "*":
            return ends(glob[1:], name) or (name != "" and ends(glob, name[1:]))
        if not name:
            return False
        if glob[0] == "[":
            members, _, rest = glob[1:].partition("]")
            held = name[0] in members.removeprefix("!")
            return held != members.startswith("!") and ends(rest, name[1:])
        return glob[0] in ("?", name[0]) and ends(glob[1:], name[1:])

    return ends(glob, name)


def closed(glob: str) -> tuple[list[str], str]:
    """The alternatives of the braces that ``glob`` begins with, and what follows them."""
    depth, start = 0, 1
    inner: list[str] = []
    for at, character in enumerate(glob):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return [*inner, glob[start:at]], glob[at + 1 :]
        elif character == "," and depth == 1:
            inner.append(glob[start:at])
            start = at + 1
    raise AssertionError(glob)


@given(st.lists(TOKENS, max_size=12).map("".join), st.lists(st.text("ab,}", max_size=7), max_size=8))
def test_against_trying_everything(glob: str, names: list[str]) -> None:
    """Being quick gives up nothing: the same names match as when every way is tried."""
    try:
        matches = pattern.compile(glob)
    except errors.Refused:
        return
    if glob:
        assert [matches(name) for name in names] == [oracle(glob, name) for name in names]


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_refused(glob: str) -> None:
    """No pattern raises anything but the refusal, nor does any name."""
    try:
        pattern.compile(glob)("a:b")
    except errors.Refused as refused:
        assert refused.error == errors.BAD_REQUEST


@pytest.mark.parametrize(
    "glob",
    [
        "*a" * 127 + "b",
        "a*" * 127 + "b",
        "{a,aa}" * 7 + "*a" * 10 + "b",
        "*" * 254 + "b",
        "?*" * 127 + "b",
        "*[!b]" * 50 + "b",
    ],
)
def test_no_pattern_explodes(glob: str) -> None:
    """Patterns on which a search that tries everything would never end are answered in the time of a glance."""
    matches = pattern.compile(glob)
    start = time.process_time()
    assert not matches("a" * 255)
    assert time.process_time() - start < 0.1
