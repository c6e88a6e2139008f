"""Which rules a config breaks: as a whole without tenants, else each tenant's settings and what is between tenants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from rt.config import limit_rules, rules, tenant_rules
from rt.config.finding import Draft, Finding
from rt.config.problem import Place
from rt.config.schema import INHERITED

_V = TypeVar("_V")


def findings(draft: Draft) -> Iterator[Finding]:
    """Every broken rule of the config's mode, each once.

    With tenants the top level is judged as they inherit it: what all of them set themselves need not hold there.
    """
    production = draft.config.server.mode == "production"
    if not draft.config.tenants:
        yield from _broken(draft, production)
        return
    # The top level is where connections begin whose tenant is not known yet.
    found = list(rules.not_insecure(draft)) if production else []
    places, written = _by_tenant(draft.places), _by_tenant(draft.written)
    top = draft._replace(places=places.pop("", {}), written=written.pop("", {}))
    for index in range(len(draft.config.tenants)):
        prefix = f"tenants[{index}]"
        found += _of_tenant(top, index, places.get(prefix, {}), written.get(prefix, {}), production)
    for rule in tenant_rules.RULES:
        found += rule(draft)
    yield from dict.fromkeys(found)


def _broken(draft: Draft, production: bool) -> Iterator[Finding]:
    always = (*rules.RULES, *limit_rules.RULES)
    for rule in (*always, *rules.PRODUCTION) if production else always:
        yield from rule(draft)


def _by_tenant(by_path: Mapping[str, _V]) -> dict[str, dict[str, _V]]:
    """What stands below each ``tenants[0]``, and at the top level (``""``), by the rest of the path."""
    parts: dict[str, dict[str, _V]] = {}
    for path, value in by_path.items():
        item, dot, rest = path.partition(".") if path.startswith("tenants[") else ("", ".", path)
        if dot:
            parts.setdefault(item, {})[rest] = value
    return parts


def _of_tenant(
    draft: Draft, index: int, own: Mapping[str, Place], own_written: Mapping[str, Any], production: bool
) -> Iterator[Finding]:
    """What is wrong with one tenant's settings. What it inherited as a whole is told at the top level.

    ``draft`` holds what is written there, ``own`` and ``own_written`` what the tenant wrote, by paths in the tenant.
    """
    prefix = f"tenants[{index}]."
    places, written = _over(draft.places, own, own), _over(draft.written, own_written, own)
    config = draft.config.of(draft.config.tenants[index])
    view = Draft(config, places, written, frozenset(places.keys() - own.keys()))
    for finding in _broken(view, production):
        keys = (finding.path, *finding.needs)
        owned = {key for key in keys if _is_own(key, own)}
        missing = finding.path.startswith(INHERITED) and not any(key in places for key in keys)
        if owned or missing:
            # Its own keys come first: that is where to point. An inherited one is involved too, so that nothing
            # follows from a mistake in it.
            needs = [prefix + key for key in keys if key in owned] + [key for key in keys if key not in owned]
            finding = finding._replace(path=prefix + finding.path, needs=tuple(needs))
        yield finding


def _over(top: Mapping[str, _V], below: Mapping[str, _V], own: Mapping[str, object]) -> dict[str, _V]:
    """What counts for a tenant; of a list that it writes itself nothing is left of the top level's."""
    return {path: value for path, value in top.items() if not _in_list(path, own)} | dict(below)


def _in_list(path: str, own: Mapping[str, object]) -> bool:
    name, bracket, _ = path.partition("[")
    return bool(bracket) and name in own


def _is_own(path: str, own: Mapping[str, object]) -> bool:
    """Whether the tenant wrote the key, something in it, or the list that it is in."""
    return _in_list(path, own) or any(key == path or key.startswith((f"{path}.", f"{path}[")) for key in own)
