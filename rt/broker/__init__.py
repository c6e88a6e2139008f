"""The store: keys, scripts, order, history, idempotency, presence, sessions, quotas, what workers say to one another,
and the two connections that lead there."""

from rt.broker.broker import Broker, Status
from rt.broker.counters import Counters
from rt.broker.presence import Member, Stats
from rt.broker.quotas import Drawn
from rt.broker.settings import StoreSettings
from rt.broker.streams import Published, PublishOptions
from rt.protocol.publication import NOWHERE

__all__ = [
    "NOWHERE",
    "Broker",
    "Counters",
    "Drawn",
    "Member",
    "PublishOptions",
    "Published",
    "Stats",
    "Status",
    "StoreSettings",
]
