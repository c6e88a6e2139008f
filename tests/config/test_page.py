"""docs/config.md is what the schema says."""

from __future__ import annotations

import re
from pathlib import Path

from rt.config import markdown, parse
from rt.config.problem import ConfigError

PAGE = Path(__file__).parents[2] / "docs/config.md"


def test_page_is_up_to_date() -> None:
    """The file equals the rendering; if not: python server.py defaults --markdown > docs/config.md."""
    assert PAGE.read_text() == markdown()


def test_examples_of_mistakes_are_real() -> None:
    """The mistakes that the page shows are what such a file gives."""
    examples = re.findall(r"^config/site\.yaml:.*$", markdown(), re.MULTILINE)
    text = b"server:\n  mode: development\n  port: 80000\n\n\n\n\nclient:\n  pong_timeot: 1s\n"
    try:
        parse(text, "config/site.yaml", {})
    except ConfigError as error:
        assert str(error).splitlines() == examples
