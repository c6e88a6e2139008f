"""P1: on one channel every reader sees strictly increasing offsets, live and from replay to live; and the same ones."""

from __future__ import annotations

import signal

from tests import processes
from tests.promises.stages import Stage
from tests.roles.cast import cast


def test_p01_order_over_reconnects_and_a_stopped_worker(stage: Stage) -> None:
    """Eight publishers on all workers to one channel, readers that come and go five times a second, and a worker that
    stands still for half a second now and then."""
    with cast(stage.server, publishers=8, move=0.2, rate=20, readers=9, channels=1, reconnect_every=0.2, seed=1) as run:
        run.wait(receives=200)
        for pid in stage.server.worker_pids():
            processes.kill(pid, signal.SIGSTOP)
            run.play(0.5)
            processes.kill(pid, signal.SIGCONT)
            run.wait(receives=500)
        run.assert_clean(at_least={"recv": 1200, "published": 150, "subscribed": 30})
