"""From a file and an environment to a validated :class:`~rt.config.schema.Config`, and to a worker and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rt.config import environment, judge, reader, source
from rt.config.finding import Draft
from rt.config.problem import ConfigError, Place, Problem
from rt.config.schema import Config
from rt.config.section import Group

_NO_FILE = "(no file)"


def load(path: str | Path | None, env: Mapping[str, str] | None = None) -> Config:
    """The config in the YAML file at ``path``; ``None`` for all defaults. ``env`` is the process's own if not given.

    Variables replace ``${VAR}`` in values, and ``RT_SERVER_PORT`` takes the place of ``server.port``. Files that
    the config names are looked for from the working directory. Raises :class:`ConfigError` with every mistake at once.
    """
    return parse(b"" if path is None else _content(path), _NO_FILE if path is None else str(path), env)


def parse(data: bytes, file: str, env: Mapping[str, str] | None = None) -> Config:
    """The config in ``data``; ``file`` is its name in mistakes. Otherwise as :func:`load`."""
    env = os.environ if env is None else env
    tree, problems = source.parse(data, file)
    problems += environment.override(tree, env, data.decode("utf-8-sig"))
    read = reader.Reader(env)
    read.failed.update(problem.path for problem in problems)
    config: Config = read.section(Group(Config), tree, "")
    problems += read.problems
    failed = read.failed
    for finding in judge.findings(Draft(config, read.places, read.written)):
        if not any(_covers(bad, path) for bad in failed for path in (finding.path, *finding.needs)):
            place = _place(read.places, finding.path, finding.needs) or Place(file, 1 if data else 0)
            problems.append(Problem(place.file, place.line, finding.path, finding.found, finding.allowed))
    if problems:
        raise ConfigError(problems)
    return config


def encode(config: Config) -> bytes:
    """A validated config as bytes for :func:`decode` in another process of the same version. They hold its secrets."""
    return msgspec.msgpack.encode(config)


def decode(data: bytes) -> Config:
    """The config that :func:`encode` was given; raises ``msgspec.DecodeError`` for anything else."""
    return msgspec.msgpack.decode(data, type=Config)


def _content(path: str | Path) -> bytes:
    try:
        return reader.read_small(str(path), source.MAX_SIZE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or "not a file name"
        problem = Problem(str(path), 0, "", f"a file that cannot be read ({reason})", "a config file")
        raise ConfigError([problem]) from None


def _covers(bad: str, path: str) -> bool:
    """Whether a mistake at ``bad`` is one at ``path`` too: it is the same, or around it."""
    return bad == path or (bool(bad) and path.startswith((f"{bad}.", f"{bad}[")))


def _place(places: Mapping[str, Place], path: str, needs: tuple[str, ...]) -> Place | None:
    """Where to point: at the key, else at one it does not go with, else at the section around it."""
    around = (path.rsplit(".", depth)[0] for depth in range(1, path.count(".") + 1))
    return next((places[key] for key in (path, *needs, *around) if key in places), None)
