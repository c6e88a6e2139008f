"""The cast sees what there is to see: the roles at work on a server to which something happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import torture
from tests.checker import Judge
from tests.faults import process
from tests.faults.store import Embedded
from tests.leaks import Baseline
from tests.roles.cast import cast
from tests.servers import Server


def test_a_quiet_run_is_clean_and_leaves_nothing(start_server: Callable[..., Server]) -> None:
    """Readers over all doors come, leave, come back and stop reading; then everything is as it was."""
    server = start_server({"delivery": {"linger": "100ms"}})
    baseline = Baseline(server)
    with cast(server, readers=9, rate=60, reconnect_every=0.3, pause_every=0.3, refusals=0.05) as run:
        run.wait(receives=800)
        counts = {"recv": 800, "subscribed": 30, "published": 100, "refused": 1, "left": 10, "probe": 2}
        run.assert_clean(counts, at_most={"gaps": 0, "unknown": 0})
        assert run.healed is not None
    baseline.assert_back()


def test_an_unknown_outcome_is_repeated_and_becomes_known(own_server: Server) -> None:
    """A store that stands still gives unknown tries, and yet every publication is accepted once."""
    with cast(own_server, publishers=4, readers=3, rate=40) as run:
        with run.fault("store stands still"), Embedded(own_server).stopped():
            before = run.published()["unknown"]
            run.play(1.5)
            assert run.published()["unknown"] > before
        run.wait(receives=100)
        run.assert_clean({"recv": 100, "unknown": 1, "fault": 2})


def test_publishers_on_a_chosen_worker(own_server: Server) -> None:
    """Only that one takes calls: when it stands still, nothing is accepted."""
    first, second = own_server.worker_pids()
    with cast(own_server, readers=2, rate=40, workers=[first]) as run:
        run.wait(receives=20)
        with process.stopped(second):
            before = run.published()["published"]
            run.play(1.0)
            assert run.published()["published"] > before + 10
        run.assert_clean(at_least=20)


def test_a_server_that_does_not_heal_is_found(own_server: Server) -> None:
    """Who does not receive in time is told by name."""
    with cast(own_server, readers=2, rate=20) as run:
        run.wait(receives=10)
        with Embedded(own_server).stopped():
            run.stop(within=1.0)
        findings = run.judge()
        assert run.healed is None
    assert {finding.rule for finding in findings} == {"STUCK"}
    assert len(findings) >= 2


def test_the_records_stay_where_they_are_asked_to(server: Server, tmp_path: Path) -> None:
    """And can be judged again later."""
    with cast(server, readers=2, folder=tmp_path) as run:
        run.wait(receives=20)
        records = run.assert_clean()
    judge = Judge()
    for record in records:
        judge.take(record)
    assert judge.finish(20) == []
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "cast.jsonl",
        "publishers.jsonl",
        "readers-0.jsonl",
    ]


def test_a_cast_that_fails_leaves_its_records(server: Server) -> None:
    """The error says where."""
    with pytest.raises(AssertionError) as raised, cast(server, readers=1, rate=0.0) as run:
        run.wait(receives=1, timeout=0.2)
    assert raised.value.__notes__ == [f"records in {run.folder}"]
    assert (run.folder / "readers-0.jsonl").exists()


@pytest.mark.timeout(120)
def test_a_little_torture(tmp_path: Path) -> None:
    """Some rounds of faults; ``make torture`` does it at length and with other seeds."""
    assert torture.torture(4, "valkey", 3000, "", tmp_path) == []
