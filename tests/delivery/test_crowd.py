"""How many there are: of an address, of a user over all workers, and in all."""

from __future__ import annotations

import msgspec
import pytest

from rt.config import Config, Connections, Limits
from rt.delivery.gate import Gate
from tests.delivery.hubs import MemoryStore, Sdk, Uni, config, finish, make_hub, run, token, turns


def limited(**connections: object) -> Config:
    """A config with these limits of connections."""
    limits = Limits(connections=Connections(**connections))  # type: ignore[arg-type]
    return msgspec.structs.replace(config(), limits=limits)


def test_an_address_is_counted_while_somebody_is_there() -> None:
    """A network of IPv6 is one; nothing is left when all have gone, also when the prefix changed meanwhile."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, limited(per_ip=2))
        gate, clients = Gate(hub), []
        for address in ("2001:db8:0:1::1", "2001:db8:0:1::2", "192.0.2.1"):
            assert gate.refusal(address) is None
            clients.append(Sdk(hub))
            clients[-1].connection.came_from(address)
        assert gate.refusal("2001:db8:0:1::3") == "per_ip" and gate.refusal("2001:db8:0:2::1") is None
        assert gate.refusal("192.0.2.1") is None and gate.refusal("") is None
        wider = msgspec.structs.replace(hub.config.limits, ipv6_prefix=48)
        hub.reload(msgspec.structs.replace(hub.config, limits=wider))
        assert gate.refusal("2001:db8:0:2::1") == "per_ip"
        clients[0].connection.broken()
        assert gate.refusal("2001:db8:0:2::1") is None and hub.crowd.addresses == 2
        await finish(hub)
        assert hub.crowd.addresses == 0

    run(test)


def test_what_a_worker_takes_in_all() -> None:
    """Its own, those of all tenants, and those that other workers told of."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, limited(per_worker=2, total=5))
        gate = Gate(hub)
        assert gate.refusal("") is None
        hub.crowd.elsewhere = 5
        assert gate.refusal("") == "total"
        hub.crowd.elsewhere, hub.crowd.all_here = 0, lambda: 7
        assert gate.refusal("") == "total"
        hub.crowd.most = 8
        assert gate.refusal("") is None
        clients = [Sdk(hub), Sdk(hub)]
        assert gate.refusal("") == "total" and len(clients) == 2
        assert hub.tally.refusals["total"] == 3
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kick", ["newest", "oldest"])
@pytest.mark.parametrize("kind", [Sdk, Uni])
def test_one_too_many_of_a_user_over_two_workers(kick: str, kind: type[Sdk]) -> None:
    """The newest is closed, or those that came first; users beside it and the anonymous are not counted."""

    async def test() -> None:
        store = MemoryStore()
        hubs = [make_hub(store, limited(per_user=2, kick=kick)) for _ in range(2)]
        clients = []
        for number in range(5):
            clients.append(kind(hubs[number % 2], token()))
            await turns(store)
        others = [kind(hubs[0], token("43")), *(kind(hubs[0]) for _ in range(4))]
        await turns(store)
        closed = [number for number, client in enumerate(clients) if client.connection.closed]
        assert closed == ([2, 3, 4] if kick == "newest" else [0, 1, 2])
        assert {clients[number].code for number in closed} == {3504}
        assert not any(client.connection.closed for client in others)
        next(client for client in clients if not client.connection.closed).connection.broken()
        await turns(store)
        late = kind(hubs[0], token())
        await turns(store)
        assert not late.connection.closed
        await finish(*hubs)
        await turns(store)
        assert not any(store.present.values())

    run(test)


def test_a_user_that_is_over_its_limit_here_costs_no_call() -> None:
    """Those that this worker has already are enough to know it."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, limited(per_user=1))
        first = Sdk(hub, token())
        await turns(store)
        calls = len(store.calls)
        late = [Sdk(hub, token()) for _ in range(20)]
        await turns(store)
        assert {client.code for client in late} == {3504} and len(store.calls) == calls
        assert not first.connection.closed and hub.tally.refusals["per_user"] == 20
        await finish(hub)

    run(test)


def test_while_the_store_is_away_nobody_is_sent_away() -> None:
    """It cannot be known; who is there is counted again with the next renewal."""

    async def test() -> None:
        store = MemoryStore()
        hubs = [make_hub(store, limited(per_user=1)) for _ in range(2)]
        store.away = True
        clients = [Sdk(hub, token()) for hub in hubs]
        await turns(store)
        assert not any(client.connection.closed for client in clients)
        store.away = False
        await finish(*hubs)

    run(test)
