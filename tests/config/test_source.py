"""The tree: every key knows its line, every scalar its text."""

from __future__ import annotations

import pytest

from rt.config.problem import ConfigError, Place
from rt.config.source import Mapping, Scalar, Sequence, parse

TEXT = b"""\
# a comment
server:
  mode: on

  port: "010"
list:
  - a
  - {key:
      'b'}
"""


def test_places_and_texts() -> None:
    """Keys carry their own line, and scalars what was typed and how."""
    tree, problems = parse(TEXT, "f")
    assert problems == []
    server, items = tree.entries["server"], tree.entries["list"].node
    assert server.place == Place("f", 2)
    assert isinstance(server.node, Mapping)
    assert server.node.entries["mode"].node == Scalar("on", "plain", Place("f", 3))
    assert server.node.entries["port"].node == Scalar("010", "quoted", Place("f", 5))
    assert isinstance(items, Sequence)
    assert items.items[0] == Scalar("a", "plain", Place("f", 7))
    assert isinstance(items.items[1], Mapping)
    assert items.items[1].entries["key"].place == Place("f", 8)


def test_first_of_two_equal_keys_stays() -> None:
    """A repeated key is reported, and the first one counts for the mistakes that follow."""
    tree, problems = parse(b"a: 1\nb: 2\na: 3\n", "f")
    assert [problem.line for problem in problems] == [3]
    node = tree.entries["a"].node
    assert isinstance(node, Scalar)
    assert node.text == "1"


@pytest.mark.parametrize("text", ["", "\ufeff", "#", "---", "--- ~\n", "null"])
def test_nothing_is_an_empty_tree(text: str) -> None:
    """An empty file is a file without keys, with a byte order mark too."""
    assert parse(text.encode(), "f")[0].entries == {}


@pytest.mark.parametrize(
    "text", ['a: "\\UFFFFFFFF"', "%YAML 1." + "1" * 5000 + "\n---\na: b", "%YAML 9.9\n---\na: b", "a: b: c"]
)
def test_what_the_parser_trips_over_is_a_mistake(text: str) -> None:
    """Escapes beyond Unicode and endless versions end like any text that is not YAML."""
    with pytest.raises(ConfigError, match="expected valid YAML"):
        parse(text.encode(), "f")


def test_refused_values_do_not_stop_the_rest() -> None:
    """Anchors, aliases and tags, around whole sections too, are each told, and keys after them are still read."""
    tree, problems = parse(b"a: &x {b: [1, {c: 2}]}\nd: *x\n? !t [1]\n: 1\n&y e: 1\nf: 1\n", "f")
    assert [problem.line for problem in problems] == [1, 2, 3, 5]
    assert list(tree.entries) == ["a", "d", "f"]
