"""What the environment adds to a file: ``${VAR}`` in its values, and ``RT_A_B`` in place of a key."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rt.config import source
from rt.config.problem import Place, Problem, shown
from rt.config.schema import Config
from rt.config.section import Group, Groups, ListOf, Section, keys
from rt.config.values import Filed

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]{0,254})\}|\$\{")
# What Kubernetes and Docker links set for a service named "rt" or "rt-redis"; nobody wrote these for us.
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_[0-9]+_(TCP|UDP)\w*)", re.ASCII)
_LINK_VALUE = re.compile(r"(tcp|udp)://.*", re.ASCII)


class UnsetVariable(Exception):
    """A ``${...}`` that gives no text; the message says what was found."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """``text`` with every ``${VAR}`` replaced; ``$${`` is a plain ``${``. An empty variable counts as unset.

    Raises :class:`UnsetVariable`; only the variable's name is in its message.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise UnsetVariable("${ without a variable's name and }")
        if not env.get(match[1]):
            state = "empty" if match[1] in env else "unset"
            raise UnsetVariable(f"the {state} variable ${{{match[1]}}}")
        return env[match[1]]

    return _VARIABLE.sub(value, text)


class Variable(NamedTuple):
    """The key that a variable stands for; ``twin`` is the other of ``key`` and ``key_file``, or empty."""

    path: tuple[str, ...]
    many: bool = False
    twin: str = ""


@functools.cache
def variables() -> dict[str, Variable]:
    """The names of all overriding variables, with the key each stands for."""
    return {"RT_" + "_".join(key.path).upper(): key for key in _keys(Config, ())}


def _keys(section: type[Section], above: tuple[str, ...]) -> Iterator[Variable]:
    for name, key in keys(section).items():
        path = (*above, name)
        if isinstance(key.kind, Group):
            yield from (inner for inner in _keys(key.kind.section, path) if inner.path[-1] not in key.kind.omit)
        elif isinstance(key.kind, Filed):
            yield Variable(path, twin=f"{name}_file")
            yield Variable((*above, f"{name}_file"), twin=name)
        elif not isinstance(key.kind, Groups):
            yield Variable(path, many=isinstance(key.kind, ListOf))


def override(tree: source.Mapping, env: Mapping[str, str], text: str) -> list[Problem]:
    """Put the keys that ``env`` overrides into ``tree``; return what is wrong with such variables.

    ``text`` is the file's: a variable that it uses as ``${RT_...}`` is not taken for a misspelled key.
    """
    problems = []
    known = variables()
    given = {name: value for name, value in sorted(env.items()) if name in known and not _is_link(name, value)}
    for name, value in given.items():
        if not value:
            path = ".".join(known[name].path)
            problems.append(Problem(f"${name}", 0, path, "an empty variable", "a value, or no variable"))
        _forget(tree, known[name])
    for name, value in given.items():
        if value:
            _put(tree, known[name], value, Place(f"${name}", 0))
    return problems + list(_misspelled(env, known, text))


def _is_link(name: str, value: str) -> bool:
    return _SERVICE_LINK.fullmatch(name) is not None and _LINK_VALUE.fullmatch(value) is not None


def _misspelled(env: Mapping[str, str], known: Mapping[str, Variable], text: str) -> Iterator[Problem]:
    sections = tuple(f"RT_{name.upper()}_" for name in keys(Config))
    for name in sorted(env):
        if not name.startswith(sections) or name in known or _SERVICE_LINK.fullmatch(name):
            continue
        if f"${{{name}}}" not in text:
            yield Problem(
                f"${shown(name)}", 0, "", "a variable that names no key", "RT_ and the path of a key, or another name"
            )


def _forget(tree: source.Mapping, key: Variable) -> None:
    """Remove a key and its twin from the file's tree: the variable replaces both."""
    section = _section(tree, key.path[:-1], None)
    if section is not None:
        section.entries.pop(key.path[-1], None)
        section.entries.pop(key.twin, None)


def _put(tree: source.Mapping, key: Variable, value: str, place: Place) -> None:
    section = _section(tree, key.path[:-1], place)
    if section is not None:
        node: source.Node = source.Scalar(value, "given", place)
        if key.many:
            items = [source.Scalar(part, "given", place) for part in re.split(r"[\s,]+", value) if part]
            node = source.Sequence([*items], place)
        section.entries[key.path[-1]] = source.Entry(node, place)


def _section(tree: source.Mapping, path: tuple[str, ...], place: Place | None) -> source.Mapping | None:
    """The section at ``path``, made where it is missing if ``place`` is given; ``None`` where there is none."""
    for name in path:
        entry = tree.entries.get(name)
        missing = entry is None or (isinstance(entry.node, source.Scalar) and entry.node.null)
        if missing and place is not None:
            entry = tree.entries[name] = source.Entry(source.Mapping({}, place), place)
        if entry is None or not isinstance(entry.node, source.Mapping):
            return None
        tree = entry.node
    return tree
