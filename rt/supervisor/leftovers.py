"""What is good for looking for mistakes, and has no place where clients are served: switches of Python that make it
slow, talkative, or wait for somebody at a terminal. They come from the environment, so a config cannot forbid them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from rt.config import Config, ConfigError, Problem

_VARIABLES = {
    "PYTHONASYNCIODEBUG": "no debug mode of asyncio, which looks at each step of each task",
    "PYTHONDEVMODE": "no development mode of Python",
    "PYTHONINSPECT": "nobody waiting at a terminal when the server ends",
    "PYTHONTRACEMALLOC": "no tracing of each allocation",
}


def refuse(config: Config) -> None:
    """ConfigError in ``mode: production`` where one of them is on, with a line for each."""
    if config.server.mode == "production":
        problems = list(found())
        if problems:
            raise ConfigError(problems)


def found() -> Iterator[Problem]:
    """Those that are on, by the variable that says so or, for an option of the command line, without one."""
    told = [name for name in _VARIABLES if os.environ.get(name)]
    for name in told:
        yield Problem(f"${name}", 0, "", repr(os.environ[name][:40]), f"{_VARIABLES[name]} in production")
    for name, is_on, option in (
        ("PYTHONDEVMODE", sys.flags.dev_mode, "-X dev"),
        ("PYTHONINSPECT", sys.flags.inspect or sys.flags.interactive, "-i"),
    ):
        if is_on and name not in told:
            yield Problem("(command line)", 0, "", f"python {option}", f"{_VARIABLES[name]} in production")
