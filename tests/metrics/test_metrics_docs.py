"""docs/metrics.md says what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from rt.metrics import definitions
from rt.metrics.definitions import DEFINITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(rt_\w+)` \| (\w+) \|([^|]*)\|([^|]*)\|$", re.MULTILINE)
AFTER = {
    "livesum": "",
    "livemin": " The lowest of the workers.",
    "livemax": " The highest of the workers.",
    "liveall": " One series per worker, by `pid`.",
}


def test_every_metric_stands_in_the_page_with_its_labels_and_its_words() -> None:
    """The tables are those of the code, row by row, also in what a gauge of several workers is."""
    rows = {name: (kind, labels.strip(), words.strip()) for name, kind, labels, words in ROW.findall(PAGE)}
    expected = {
        row.name: (row.kind, ", ".join(f"`{label}`" for label in row.labels), row.help + AFTER[row.mode])
        for row in DEFINITIONS
    }
    assert rows == expected


def test_every_value_of_a_closed_label_is_explained() -> None:
    """Reasons, outcomes and transports are all in the page."""
    sets = (
        definitions.TRANSPORTS,
        definitions.OUTCOMES,
        definitions.DROPS,
        definitions.SLOW,
        definitions.REPAIRS,
        definitions.SHEDS,
        definitions.STEPS,
        definitions.REFUSALS,
        definitions.TOKEN_FAILURES,
    )
    missing = [word for words in sets for word in words if f"`{word}`" not in PAGE]
    assert not missing


def test_names_follow_the_rules_of_prometheus() -> None:
    """One prefix, base units, counters end in _total, and each name once."""
    names = [row.name for row in DEFINITIONS]
    assert len(set(names)) == len(names)
    for row in DEFINITIONS:
        assert re.fullmatch(r"rt_[a-z_]+[a-z]", row.name)
        assert row.name.endswith("_total") is (row.kind == "counter")
        assert row.kind != "histogram" or row.name.endswith("_seconds")
        assert not {"channel", "user", "client", "ip"} & set(row.labels)


def test_expressions_name_metrics_that_exist() -> None:
    """What the page recommends to watch can be watched."""
    names = {row.name for row in DEFINITIONS}
    used = set(re.findall(r"\brt_[a-z_]+[a-z]\b", PAGE))
    assert {name.removesuffix("_bucket") for name in used} <= names
