"""F30: all clients of a killed worker come back at once. bench/storm.py is the same with ten thousand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.promises.crowd import Crowd
from tests.promises.storms import storm
from tests.servers import OPEN, STREAM, Server

CLIENTS = 400
CHANNELS = 8
MISSED = 20
RATE = 100


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_f30_p10_everybody_is_whole_after_a_storm(start_server: Callable[..., Server], channel: str) -> None:
    """Four hundred within half a second, paced by the rate: nobody is refused, nobody misses anything or gets it
    twice, and the store is read once per channel and worker, not once per client."""
    settings = {
        "limits": {"connections": {"new_per_second": RATE, "wait": "10s"}},
        "channel": {"namespaces": [{"name": "storm", **STREAM, **OPEN}]},
    }
    server = start_server(settings)
    channels = [f"storm:{channel}-{number}" for number in range(CHANNELS)]
    with Crowd(server.port) as crowd:
        found = storm(server, crowd, channels, clients=CLIENTS, missed=MISSED, within=0.5, patience=30.0)
    print(found)
    assert found.wrong == {}
    assert (found.back, found.whole, found.refused) == (CLIENTS, CLIENTS, 0)
    assert found.waits > CLIENTS / 4, "they were paced"
    assert found.seconds >= (CLIENTS / 2 - RATE) / RATE, "and not let in all at once"
    # On the survivor and on the new worker: the position, and the page; at the kill everything else was there already.
    assert found.reads <= 2 * 2 * CHANNELS
    assert found.lag <= 0.2
