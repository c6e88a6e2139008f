"""What a section of the config is made of: keys with a sentence, a kind of value and a default."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, get_type_hints

import msgspec

from rt.config.values import Kind, Secret, StoreUrl


class Key(NamedTuple):
    """What the manual says about a key, and the kind of value it takes."""

    sentence: str
    kind: Kind | ListOf | Group | Groups
    required: bool = False
    default: str = ""
    """The default in words, where it depends on something."""


class ListOf(NamedTuple):
    """A list of values of one kind."""

    kind: Kind
    example: str


class Group(NamedTuple):
    """A section with keys of its own; an ``optional`` one is None when absent; ``omit`` names keys it lacks here.

    One that ``inherits`` has every setting of the top level's section of the same name that it does not set itself.
    """

    section: type
    optional: bool = False
    omit: frozenset[str] = frozenset()
    inherits: bool = False


class Groups(NamedTuple):
    """A list of sections. ``words`` and ``example`` say what each is made of."""

    section: type
    words: str
    example: str


class Section(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A section of the config. Its ``repr`` names secrets but does not show them. Encoded, it leaves out defaults."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        parts = []
        for name, key in keys(type(self)).items():
            value = getattr(self, name)
            hidden = isinstance(key.kind, (Secret, StoreUrl)) and value not in ("", "embedded")
            parts.append((name, "***" if hidden else value))
        return parts

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({inner})"


@functools.cache
def keys(section: type[Section]) -> dict[str, Key]:
    """The keys of a section in the order of the file."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in section.__struct_fields__}
