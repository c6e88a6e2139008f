"""A tree of text becomes objects of the schema; every value that does not fit is reported, and its default taken."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from typing import Any, TypeVar

from rt.config import source
from rt.config.environment import UnsetVariable, expand
from rt.config.problem import Place, Problem
from rt.config.section import Group, Groups, Key, ListOf, Section, keys
from rt.config.values import File, Filed, Kind, Unfit

# More than any secret: what is longer is refused by its kind.
SECRET_FILE_SIZE = 8192
_FILE = File()

S = TypeVar("S", bound=Section)


class Reader:
    """Reads one tree. What was written has its place and value in ``places`` and ``written``, by path; what did
    not fit is in ``failed``."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._values: dict[str, dict[str, Any]] = {}
        self.problems: list[Problem] = []
        self.places: dict[str, Place] = {}
        self.written: dict[str, Any] = {}
        self.failed: set[str] = set()

    def refuse(self, place: Place, path: str, found: str, allowed: str) -> None:
        """Report one mistake."""
        self.failed.add(path)
        self.problems.append(Problem(place.file, place.line, path, found, allowed))

    def section(self, group: Group, node: source.Node, path: str, below: str = "") -> Any:
        """The object of one section. What it does not set itself is what the section read at ``below`` was given."""
        if isinstance(node, source.Scalar) and node.null:
            node = source.Mapping({}, node.place)
        if not isinstance(node, source.Mapping):
            self._wrong_shape(node, path, "a section with keys")
            return group.section()
        known = {name: key for name, key in keys(group.section).items() if name not in group.omit}
        self._unknown(node, path, known)
        values = dict(self._values.get(below, {})) if below else {}
        for name, key in known.items():
            value = self._value(key, node, path, name, below)
            if value is not None:
                values[name] = value
        self._values[path] = values
        return group.section(**values)

    def _unknown(self, node: source.Mapping, path: str, known: Mapping[str, Key]) -> None:
        names = [*known, *(f"{name}_file" for name, key in known.items() if isinstance(key.kind, Filed))]
        for name, entry in node.entries.items():
            if name not in names:
                close = difflib.get_close_matches(name[:64], names, 1)
                allowed = f"{close[0]} perhaps" if close else f"one of {', '.join(names)}"
                # "{secret}" and "{key:secret}" (no space) are keys without a value: their text is not for a log.
                bare = isinstance(entry.node, source.Scalar) and entry.node.null and not close
                self.refuse(entry.place, source.step(path, "?" if bare else name), "an unknown key", allowed)

    def _value(self, key: Key, node: source.Mapping, path: str, name: str, below: str) -> Any:
        """The value of one key, or ``None`` where the section does not set it."""
        inner = source.step(path, name)
        if isinstance(key.kind, Filed) and f"{name}_file" in node.entries:
            return self._filed(key.kind, node, path, name)
        entry = node.entries.get(name)
        if entry is None:
            return self._unwritten(key, node, inner, name)
        self.places[inner] = entry.place
        if isinstance(key.kind, Group):
            return self.section(key.kind, entry.node, inner, name if key.kind.inherits else below and f"{below}.{name}")
        if isinstance(key.kind, Kind):
            value = self.written[inner] = self._scalar(key.kind, entry.node, inner, entry.place)
            return value
        return self._list(key.kind, entry.node, inner)

    def _unwritten(self, key: Key, node: source.Mapping, path: str, name: str) -> Any:
        if key.required:
            self.refuse(node.place, path, "nothing", _words(key))
        if isinstance(key.kind, Group) and key.kind.inherits:
            return self.section(key.kind, source.Mapping({}, node.place), path, name)
        return None

    def _list(self, kind: ListOf | Groups, node: source.Node, path: str) -> Any:
        if isinstance(node, source.Scalar) and node.null:
            return ()
        if not isinstance(node, source.Sequence):
            self._wrong_shape(node, path, "a list")
            return None
        values: list[Any] = []
        for index, item in enumerate(node.items):
            inner = f"{path}[{index}]"
            self.places[inner] = item.place
            if isinstance(kind, Groups):
                values.append(self.section(Group(kind.section), item, inner))
            else:
                values.append(self._scalar(kind.kind, item, inner, item.place))
        return tuple(value for value in values if value is not None)

    def _wrong_shape(self, node: source.Node, path: str, allowed: str) -> None:
        if isinstance(node, source.Refused):
            self.failed.add(path)
        else:
            self.refuse(node.place, path, source.kind_of(node), allowed)

    def _scalar(self, kind: Kind, node: source.Node, path: str, place: Place) -> Any:
        """The value of one scalar, or ``None`` after a report; ``place`` is that of its key."""
        if not isinstance(node, source.Scalar) or node.null:
            self._wrong_shape(node, path, kind.words)
            return None
        try:
            text = node.text if node.style == "given" else expand(node.text, self._env)
        except UnsetVariable as error:
            self.refuse(place, path, str(error), "a variable that is set, or $${ for a plain ${")
            return None
        if kind.bare and node.style == "quoted" and text == node.text:
            self.refuse(place, path, f"{kind.show(text)} in quotes", f"{kind.words}, without quotes")
            return None
        return self._read(kind, text, path, place)

    def _read(self, kind: Kind, text: str, path: str, place: Place) -> Any:
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.refuse(place, path, "text that is not Unicode", kind.words)
            return None
        if not kind.several_lines and any(char < " " or char == "\x7f" for char in text):
            self.refuse(place, path, "text with control characters", kind.words)
            return None
        try:
            return kind.read(text)
        except Unfit:
            self.refuse(place, path, kind.show(text), kind.words)
            return None

    def _filed(self, kind: Filed, node: source.Mapping, path: str, name: str) -> str | None:
        """The value in the file that ``<name>_file`` names; it counts as written at ``name`` too."""
        entry, inner = node.entries[f"{name}_file"], source.step(path, f"{name}_file")
        self.places[inner] = self.places[source.step(path, name)] = entry.place
        value = None
        if name in node.entries:
            self.refuse(entry.place, inner, f"both {name} and {name}_file", "one of them")
        else:
            file = self._scalar(_FILE, entry.node, inner, entry.place)
            text = file and self._content(kind, file, inner, entry.place)
            value = text and self._read(kind, text, inner, entry.place)
        if value is None:
            self.failed.add(source.step(path, name))
        return value

    def _content(self, kind: Filed, file: str, path: str, place: Place) -> str | None:
        """The text of such a file without the line end that editors add; ``None`` after a report."""
        try:
            text = read_small(file, SECRET_FILE_SIZE).decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            found = f"a file that cannot be read ({error.strerror})"
        except UnicodeDecodeError:
            found = "a file that is not UTF-8"
        else:
            if text:
                return text
            found = "an empty file"
        self.refuse(place, path, found, f"a readable file with {kind.content} in UTF-8")
        return None


def read_small(file: str, limit: int) -> bytes:
    """The first ``limit`` bytes of a regular file; anything else (a pipe would block for ever) raises ``OSError``."""
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        return opened.read(limit)


def _words(key: Key) -> str:
    return key.kind.words if isinstance(key.kind, Kind) else "a value"
