"""docs/api.md describes the methods that there are, with the bounds of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from rt import errors
from rt.broker import Broker
from rt.broker.sessions import MAX_FIELDS
from rt.config import Config
from rt.delivery import publishing
from rt.protocol import pattern, payload
from rt.web import api, audiences, batch, envelope, inspection, methods, publications, tail, users

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_each_method_has_its_section_and_its_example() -> None:
    """A heading and a call with curl, for the methods of the table and no other."""
    known = [*methods.Methods(Config(), cast(Broker, None)).by_name, api.TAIL]
    sections = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")}
    assert {name for name in sections if re.fullmatch(r"[a-z_]+", name)} == set(known)
    assert all(f"/api/{name} " in sections[name] for name in known)


def test_the_old_form_is_told_with_its_numbers() -> None:
    """Name by name, and the most that one body may hold."""
    text = " ".join(PAGE.partition("## The old form")[2].split())
    assert ", ".join(f"{number} {name}" for number, name in enumerate(envelope.METHODS)) in text
    assert f"up to {methods.BATCH_COMMANDS} commands" in text


def test_every_method_stands_in_the_table_at_the_top() -> None:
    """With a link to its section."""
    top = PAGE.partition("## The key")[0]
    known = [*methods.Methods(Config(), cast(Broker, None)).by_name, api.TAIL]
    assert all(f"[{name}](#{name})" in top for name in known)


def test_bounds_and_statuses_are_those_of_the_code() -> None:
    """Numbers in the page cannot go stale."""
    for words in (
        f"1 to {publications.BROADCAST_CHANNELS}",
        f"at most {publications.BROADCAST_BYTES >> 20} MiB",
        f"Up to {methods.BATCH_COMMANDS}",
        f"{methods.BATCH_WINDOW} at a time",
        f"beyond {batch.REPLY_BYTES >> 20} MiB",
        f"at most {publishing.KEY_LENGTH} bytes",
        f"At most {payload.DEPTH} levels",
        f"More than {audiences.CHANNELS:,} channels",
        f"at most {pattern.LENGTH_MAX} characters",
        f"may have {users.COMMAND_BYTES >> 10} KiB",
        f"at most {errors.REASON_MAX} bytes",
        f"have {tail.TAILS} of them at once on each worker",
        f"1 to {inspection.LISTED_MAX} connections ({inspection.LISTED} without it)",
        f"about {MAX_FIELDS // 100 * 100} channels",
    ):
        assert words in " ".join(PAGE.split()), words
    assert "100 → 500, 102 and 104 → 404, 107 and 108 → 400, 112 → 416" in PAGE
    assert {api.STATUS[code] for code in (102, 104)} == {404} and {api.STATUS[code] for code in (107, 108)} == {400}
    assert (api.STATUS[100], api.STATUS[112]) == (500, 416)
