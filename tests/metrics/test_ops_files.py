"""The dashboard and the alert rules of docs/ops ask for what there is, and Prometheus understands them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from rt.metrics import definitions
from rt.metrics.definitions import DEFINITIONS, Definition
from tests.clients import Api, Http, SdkClient
from tests.servers import Server
from tests.tokens import sign
from tests.tools import promtool
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
OPS = ROOT / "docs" / "ops"
ALERTS = OPS / "alerts.yaml"
TRIED = Path(__file__).parent / "alerts.yaml"
"""What promtool tries the alert rules with."""

NAME = re.compile(r"\b(rt_\w+)(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\bby \(([^)]*)\)")
NAMED = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")
OF_SCRAPE = {"instance", "job"}
CLOSED = {
    ("rt_recoveries_total", "outcome"): definitions.OUTCOMES,
    ("rt_repairs_total", "outcome"): definitions.REPAIRS,
    ("rt_slow_total", "reason"): definitions.SLOW,
    ("rt_drops_total", "reason"): definitions.DROPS,
    ("rt_refusals_total", "reason"): definitions.REFUSALS,
    ("rt_token_failures_total", "reason"): definitions.TOKEN_FAILURES,
}


class Asked(NamedTuple):
    """An expression, where it stands, and the words that its result is told with."""

    where: str
    expression: str
    words: str = ""


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads((OPS / "grafana.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> Iterator[Asked]:
    """What the dashboard asks."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield Asked(panel["title"], target["expr"], target["legendFormat"])
    for note in dashboard()["annotations"]["list"]:
        yield Asked(note["name"], note["expr"], note["titleFormat"])


def alerts() -> Iterator[Asked]:
    """What the alert rules ask."""
    for rule in rules():
        yield Asked(rule["alert"], rule["expr"], " ".join(rule["annotations"].values()))


def page() -> Iterator[Asked]:
    """What docs/metrics.md recommends to ask."""
    section = (ROOT / "docs" / "metrics.md").read_text().partition("## What to watch")[2]
    for row in re.findall(r"^\| .*\|$", section, re.MULTILINE):
        yield from (Asked(row[:60], expression) for expression in re.findall(r"`(rt_[^`]*|[^`]*\(.*?)`", row))


EVERYTHING = [*panels(), *alerts(), *page()]


def labels_of(row: Definition, suffix: str) -> set[str]:
    """The labels that samples of a metric have."""
    found = {*row.labels, *OF_SCRAPE}
    if row.mode == "liveall":
        found.add("pid")
    return found | ({"le"} if suffix == "_bucket" else set())


def asked(expression: str) -> Iterator[tuple[Definition, str, str]]:
    """(metric, suffix, matchers) for each metric in an expression; AssertionError for one that does not exist."""
    rows = {row.name: row for row in DEFINITIONS}
    for name, matchers in NAME.findall(expression):
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        row = rows.get(name) or rows.get(plain)
        assert row is not None, f"there is no {name}"
        suffix = name.removeprefix(row.name)
        assert bool(suffix) is (row.kind == "histogram"), name
        yield row, suffix, matchers


@pytest.mark.parametrize("one", EVERYTHING, ids=lambda one: one.where)
def test_what_is_asked_for_exists(one: Asked) -> None:
    """Every metric, every label by which it is chosen, summed or told, and every value of a closed label."""
    known = set(OF_SCRAPE)
    for row, suffix, matchers in asked(one.expression):
        here = labels_of(row, suffix)
        known |= here
        for label, text in MATCHER.findall(matchers):
            assert label in here, f"{row.name} has no label {label}"
            values = CLOSED.get((row.name, label))
            assert values is None or set(text.split("|")) <= set(values), f"{row.name}: {label} is never {text}"
        for grouped in GROUPED.findall(one.expression):
            wanted = {label.strip() for label in grouped.split(",")}
            assert wanted <= here | {"le"}, f"{row.name} cannot be summed by {wanted}"
    words = set(NAMED.findall(one.words)) - {"value"}
    assert words <= known
    summed = [{label.strip() for label in grouped.split(",")} for grouped in GROUPED.findall(one.expression)]
    if summed:
        assert words <= set().union(*summed), "a sum has only the labels that it is made by"


def test_what_is_found_wrong_is_wrong() -> None:
    """The test above sees a metric, a label or a value that does not exist."""
    for expression in (
        "rate(rt_nothing_total[5m])",
        'rt_connections{channel="a"}',
        "sum by (user) (rt_connections)",
        'rt_recoveries_total{outcome="lost"}',
        "rt_connections_count",
        "rt_loop_lag_seconds",
    ):
        with pytest.raises(AssertionError):
            test_what_is_asked_for_exists(Asked("made up", expression))


def test_the_dashboard_can_be_imported() -> None:
    """Ids are unique, every panel is on the grid, has something to draw, and lets the viewer choose the source."""
    found = dashboard()
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids)) and found["uid"] and found["title"]
    assert {variable["name"] for variable in found["templating"]["list"]} == {"datasource", "tenant"}
    for panel in found["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    """A name, a severity, a sentence with the numbers in it, and a second one with the next step."""
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["alert"].startswith("Rt") and rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


def check(*arguments: str, text: str = "") -> str:
    """What promtool says; AssertionError with it when it is not content."""
    ended = subprocess.run([str(promtool()), *arguments], input=text, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.needs("promtool")
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """Alert rules as they are; what the dashboard and the page ask, as rules made of it."""
    check("check", "rules", str(ALERTS))
    made = []
    for number, one in enumerate(EVERYTHING):
        text = one.expression.replace("$__rate_interval", "5m").replace("$tenant", ".*")
        made.append({"record": f"asked:{number}", "expr": text})
    file = tmp_path / "asked.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": made}]}))
    assert f"{len(EVERYTHING)} rules found" in check("check", "rules", str(file))


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    """Series that are made up, for a server that is well and for what can go wrong."""
    tried = yaml.safe_load(TRIED.read_text())
    tried["rule_files"] = [str(ALERTS)]
    file = tmp_path / "tried.yaml"
    file.write_text(yaml.safe_dump(tried))
    assert "SUCCESS" in check("test", "rules", str(file))


def counted(server: Server, reason: str) -> bool:
    """Whether one token was not accepted for this reason."""
    return server.metric("rt_token_failures_total", reason=reason) == 1


@pytest.mark.needs("promtool")
def test_what_a_server_says_is_as_prometheus_wants_it(start_server: Callable[..., Server], channel: str) -> None:
    """Connections, publications and failures of all kinds have been: promtool finds nothing to say about it."""
    server = start_server()

    async def run() -> None:
        async with SdkClient(server) as client, Api(server) as api:
            await client.subscribe(channel)
            await api.publish(channel, 1)
            assert await client.until(channel, 1) == [1]
            for token in ("nonsense", sign({"sub": "a"}, "another-key-of-nobody-0123456789abcdef")):
                async with Http(server) as http:
                    assert (await http.request("GET", f"/sse?channel={channel}&token={token}")).status == 401
        for reason in ("form", "signature"):
            await eventually(partial(counted, server, reason))
        await eventually(lambda: server.metric("rt_api_requests_total", method="publish", code="0") == 1)

    asyncio.run(run())
    text = server.internal("/metrics")[1]
    assert check("check", "metrics", text=text) == ""
    told = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert told <= {row.name for row in DEFINITIONS}
    for name in ("rt_token_failures_total", "rt_store_lag_seconds", "rt_queued_bytes", "rt_log_lines_dropped_total"):
        assert name in told
