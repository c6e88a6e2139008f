"""What there is to configure, told from the schema: the list of keys, and a file with all defaults."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from rt.config.schema import Config
from rt.config.section import Group, Groups, Key, ListOf, Section, keys
from rt.config.values import Filed, Kind

_WIDTH = 110


class Entry(NamedTuple):
    """One key of the manual: its path, the values it allows, its default (YAML text or words), and what it does."""

    path: str
    kind: str
    default: str
    sentence: str
    literal: bool = False
    """Whether ``default`` is YAML text rather than words."""


def describe() -> list[Entry]:
    """Every key in the order of the file. ``[]`` in a path stands for the items of a list."""
    return list(entries(Config(), ""))


def entries(section: Section, path: str, omit: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """The keys of ``section``, which stands at ``path``, and of the sections in it, but not those named by ``omit``."""
    for name, key in keys(type(section)).items():
        inner = f"{path}.{name}" if path else name
        if name in omit:
            continue
        if isinstance(key.kind, Group) and key.kind.inherits:
            yield Entry(inner, f"a section with the keys of {name}", "that of the top level", key.sentence)
        elif isinstance(key.kind, Group):
            value = getattr(section, name) or key.kind.section()
            yield Entry(inner, "a section", "absent" if key.kind.optional else "", key.sentence)
            yield from entries(value, inner, key.kind.omit)
        elif isinstance(key.kind, Groups):
            yield Entry(inner, "a list of sections", "[]", key.sentence, literal=True)
            yield from entries(key.kind.section(), f"{inner}[]")
        else:
            default, literal = _default(key, getattr(section, name))
            yield Entry(inner, allowed(key.kind), default, key.sentence, literal)
            if isinstance(key.kind, Filed):
                yield Entry(f"{inner}_file", "a path", "absent", f"A file that holds `{name}`.")


def allowed(kind: Kind | ListOf) -> str:
    """What a key allows, in words; without the examples that a mistake is given."""
    words = kind.words if isinstance(kind, Kind) else f"a list of {kind.kind.words}"
    return words.partition(", such as ")[0]


def _default(key: Key, value: Any) -> tuple[str, bool]:
    """A key's default, and whether it is YAML text."""
    if key.required:
        return "must be given", False
    text = key.default or _yaml(key, value)
    return text, text != "absent" and " " not in text


def _yaml(key: Key, value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(key.kind, Kind):
        return key.kind.write(value)
    return "[]"


def defaults() -> str:
    """A complete config file, which loads to the defaults: every key with its sentence, allowed values and default.

    Keys that have no value by default stand in comments.
    """
    head = "# Every key of the config with its default. A file needs only the keys that it changes.\n"
    return head + "".join(f"{line}\n" for line in _section_lines(Config(), "", ""))


def _section_lines(section: Section, indent: str, off: str, omit: frozenset[str] = frozenset()) -> Iterator[str]:
    """The lines of one section; ``off`` is ``# `` where the section itself stands in a comment."""
    for name, key in keys(type(section)).items():
        if name in omit:
            continue
        value = getattr(section, name)
        if not indent:
            yield ""
        yield from _comment(key, indent)
        if isinstance(key.kind, Group):
            hidden = off or ("# " if value is None else "")
            yield f"{indent}{hidden}{name}:"
            yield from _section_lines(value or key.kind.section(), indent + "  ", hidden, key.kind.omit)
            continue
        text = _yaml(key, value)
        missing = key.required or text == "absent"
        yield f"{indent}{'# ' if off or missing else ''}{name}:{'' if missing else ' ' + text}"
        if isinstance(key.kind, Filed):
            yield f"{indent}# {name}_file: /run/secrets/{name}"


def _comment(key: Key, indent: str) -> Iterator[str]:
    words = key.sentence
    if isinstance(key.kind, (Kind, ListOf)):
        words += f" Allowed: {allowed(key.kind)}."
    if isinstance(key.kind, ListOf):
        words += f" For example [{key.kind.kind.write(key.kind.example)}]."
    if isinstance(key.kind, Groups):
        words += f" Each has {key.kind.words}, for example {key.kind.example}."
    yield from textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
