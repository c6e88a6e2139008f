"""The registry of workers: who lives, and what each says about itself."""

from __future__ import annotations

import asyncio

from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline


class Registry:
    """Keys that live as long as their worker says so, and a set of their names."""

    __slots__ = ("_keys", "_pipeline", "_worker")

    def __init__(self, pipeline: Pipeline, keys: Keys, worker: str) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._worker = worker

    async def register(self, node: bytes, ttl: float) -> None:
        """See :meth:`rt.broker.Broker.register`."""
        key, index = self._keys.worker(self._worker), self._keys.workers
        await asyncio.gather(
            self._pipeline.call("SET", key, node, "PX", max(int(ttl * 1000), 1)),
            self._pipeline.call("SADD", index, self._worker),
        )

    async def workers(self) -> list[bytes]:
        """See :meth:`rt.broker.Broker.workers`."""
        index = self._keys.workers
        names: list[bytes] = sorted(await self._pipeline.call("SMEMBERS", index))
        if not names:
            return []
        nodes = await self._pipeline.call("MGET", *(self._keys.worker(name.decode()) for name in names))
        gone = [name for name, node in zip(names, nodes, strict=True) if node is None]
        if gone:
            # One that is not gone after all says so again with its next register().
            await self._pipeline.call("SREM", index, *gone)
        return [node for node in nodes if node is not None]
