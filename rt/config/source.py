"""YAML text to a tree that knows the line of every key.

The parser's events are read directly, for three reasons: a scalar keeps the text that was typed (``on``, ``010`` and
``1:30`` mean nothing before a key says what it wants), a repeated key is seen, and nothing in the text can make the
tree larger than the text: anchors, aliases, merge keys and tags are refused, depth and size are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import yaml

from rt.config.problem import ConfigError, Place, Problem

MAX_SIZE = 1 << 20
MAX_DEPTH = 16
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
# In flow style ({key: ${VAR}}) YAML takes the braces of a variable for its own, so while it is parsed they are two
# characters of the private use area.
_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OPEN, _CLOSE = "\ue000", "\ue001"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_QUOTED_PART = re.compile(r"""'(?!<)[^']{2,}'|"[^"]{2,}"|('[^']*')""")


class Scalar(NamedTuple):
    """One value as it was typed: ``plain`` or in quotes (or a block), or ``given`` by an environment variable."""

    text: str
    style: Literal["plain", "quoted", "given"]
    place: Place

    @property
    def null(self) -> bool:
        """Whether nothing was written: ``key:`` alone, ``~`` or ``null``."""
        return self.style == "plain" and self.text in _NULLS


class Sequence(NamedTuple):
    """A list."""

    items: list[Node]
    place: Place


class Entry(NamedTuple):
    """A key's value, and where the key stands."""

    node: Node
    place: Place


class Mapping(NamedTuple):
    """Keys with their values."""

    entries: dict[str, Entry]
    place: Place


class Refused(NamedTuple):
    """A value that was reported already and means nothing."""

    place: Place


Node = Scalar | Sequence | Mapping | Refused


def parse(data: bytes, file: str) -> tuple[Mapping, list[Problem]]:
    """The tree of a document, and the mistakes that leave the rest readable (repeated keys, tags, aliases).

    Raises :class:`ConfigError` with one mistake for text that cannot be read at all: too large, not UTF-8, not YAML,
    too deep, more than one document, or anything but keys at the top.
    """
    if len(data) > MAX_SIZE:
        raise ConfigError([Problem(file, 0, "", f"{len(data)} bytes", f"a file of at most {MAX_SIZE} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(file, line, "", "bytes that are not UTF-8", "a text file in UTF-8")]) from None
    builder = _Builder(text, file)
    return builder.document(), builder.problems


class _Builder:
    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._lines = text.count("\n") + 1
        self._events = self._read(text)
        self.problems: list[Problem] = []

    def _read(self, text: str) -> Iterator[yaml.Event]:
        text = _VARIABLE.sub(rf"{_OPEN}\1{_CLOSE}", text)
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._fatal(line, f"the character U+{ord(text[error.position]):04X}", "printable text") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._fatal(mark.line + 1 if mark else 0, *_syntax(error.problem or "")) from None
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML lets an escape beyond Unicode or an endless version number out as one of these, without a mark.
            raise self._fatal(0, "an escape or a directive that means nothing", "valid YAML") from None

    def _fatal(self, line: int, found: str, allowed: str) -> ConfigError:
        return ConfigError([*self.problems, Problem(self._file, line, "", found, allowed)])

    def _place(self, event: yaml.Event) -> Place:
        # A value that is missing at the end of the file is marked one line beyond it.
        return Place(self._file, min(_line(event), self._lines))

    def document(self) -> Mapping:
        root: Node = Mapping({}, Place(self._file, 1))
        documents = 0
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            documents += 1
            if documents > 1:
                raise self._fatal(_line(event), "a second document", "one document in the file")
            root = self._node(next(self._events), "", 1)
        if isinstance(root, Scalar) and root.null:
            root = Mapping({}, root.place)
        if not isinstance(root, Mapping):
            raise self._fatal(root.place.line, kind_of(root), "keys such as server: at the top")
        return root

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        place = self._place(event)
        if depth > MAX_DEPTH:
            raise self._fatal(place.line, f"more than {MAX_DEPTH} levels", "a flatter file")
        if self._decorated(event, path, place):
            self._skip(event)
            return Refused(place)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(_text(event), "quoted" if event.style else "plain", place)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(self._items(path, depth), place)
        return self._mapping(path, place, depth)

    def _decorated(self, event: yaml.Event, path: str, place: Place) -> bool:
        """Whether the value is an alias, or has an anchor or a tag. The names may be secrets."""
        if isinstance(event, yaml.AliasEvent):
            found = "an alias (*name)"
        elif getattr(event, "anchor", None) is not None:
            found = "an anchor (&name)"
        elif getattr(event, "tag", None) is not None:
            found = "a tag (!name)"
        else:
            return False
        allowed = "the value itself, in quotes if it begins with *, & or !"
        self.problems.append(Problem(place.file, place.line, path, found, allowed))
        return True

    def _items(self, path: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}[{len(items)}]", depth + 1))
        return items

    def _mapping(self, path: str, place: Place, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            where = self._place(event)
            inner = step(path, key) if key is not None else path
            node = self._node(next(self._events), inner, depth + 1)
            if key is None:
                continue
            if key in entries:
                found = f"the key a second time (first on line {entries[key].place.line})"
                self.problems.append(Problem(where.file, where.line, inner, found, "each key once"))
                continue
            entries[key] = Entry(node, where)
        return Mapping(entries, place)

    def _key(self, event: yaml.Event, path: str) -> str | None:
        place = self._place(event)
        if self._decorated(event, path, place):
            self._skip(event)
            return None
        if isinstance(event, yaml.ScalarEvent):
            return _text(event)
        self._skip(event)
        found = "a list or a section as a key"
        self.problems.append(Problem(place.file, place.line, path, found, "a name as the key"))
        return None

    def _skip(self, event: yaml.Event) -> None:
        """Read past the value that ``event`` begins, without looking at it."""
        depth = int(isinstance(event, yaml.CollectionStartEvent))
        while depth:
            if depth > MAX_DEPTH:
                raise self._fatal(_line(event), f"more than {MAX_DEPTH} levels", "a flatter file")
            event = next(self._events)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)


def step(path: str, key: str) -> str:
    """The path of ``key`` inside ``path``; ``?`` for a key that cannot be one of ours: it may be a misplaced secret."""
    name = key if _NAME.fullmatch(key) else "?"
    return f"{path}.{name}" if path else name


def kind_of(node: Node) -> str:
    """What a value is, in words that do not show it."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a section"
    return "nothing" if isinstance(node, Scalar) and node.null else "a single value"


def _text(event: yaml.ScalarEvent) -> str:
    return str(event.value).replace(_OPEN, "${").replace(_CLOSE, "}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _syntax(problem: str) -> tuple[str, str]:
    if "'\\t'" in problem:
        return "a tab", "spaces for indentation"
    # What the parser quotes may be part of a secret; its own words, such as '<block end>', are kept.
    plain = _QUOTED_PART.sub(lambda part: part[1] or "...", problem).replace("\n", " ")
    return f"text that is not YAML ({plain})", "valid YAML"
