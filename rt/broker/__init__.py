"""The store: keys, scripts, order, history, idempotency, and the two connections that lead there."""

from rt.broker.broker import NOWHERE, Broker, Published, PublishOptions, Status
from rt.broker.counters import Counters
from rt.broker.settings import StoreSettings

__all__ = ["NOWHERE", "Broker", "Counters", "PublishOptions", "Published", "Status", "StoreSettings"]
