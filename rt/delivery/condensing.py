"""Conflating a turn before it is written: of each key only the newest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rt.protocol.publication import Publication
from rt.protocol.wires import Item

if TYPE_CHECKING:
    from rt.delivery.channel import Channel


def condensed(channels: Sequence[Channel], turn: Sequence[Item], leave_out: Callable[[int, str], None]) -> list[Item]:
    """The turn with only the newest of each key, on the channels where that is what counts. ``leave_out`` is called
    with the place and the reason of everything else."""
    kept: list[Item] = []
    seen: set[tuple[int, str]] = set()
    for item in reversed(turn):
        place, what = item
        channel = channels[place]
        if isinstance(what, Publication) and channel.namespace.slow == "conflate" and channel.namespace.batch:
            key = (place, channel.key(what))
            if key in seen:
                leave_out(place, "")
                continue
            seen.add(key)
        kept.append(item)
    kept.reverse()
    return kept
