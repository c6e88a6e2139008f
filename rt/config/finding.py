"""What a rule looks at, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rt.config.channel import Namespace
from rt.config.problem import Place
from rt.config.schema import Config


class Finding(NamedTuple):
    """A broken rule: the key to point at, what was found, what is expected; ``needs`` are the other keys involved."""

    path: str
    found: str
    allowed: str
    needs: tuple[str, ...] = ()


class Draft(NamedTuple):
    """A config whose values fit one by one. What was written has a place and (a scalar) a value, by path.

    In that of a tenant, ``inherited`` are the paths written at the top level only.
    """

    config: Config
    places: Mapping[str, Place]
    written: Mapping[str, Any]
    inherited: frozenset[str] = frozenset()

    def namespaces(self) -> Iterator[tuple[str, Namespace]]:
        """Every namespace, with its path."""
        yield "channel.without_namespace", self.config.channel.without_namespace
        for index, namespace in enumerate(self.config.channel.namespaces):
            yield f"channel.namespaces[{index}]", namespace


Rule = Callable[[Draft], Iterator[Finding]]
"""Yields what breaks it. Its docstring is its sentence in the manual."""
