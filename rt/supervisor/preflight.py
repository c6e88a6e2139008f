"""What can be wrong with a good config once it is carried out: a port is taken, a directory is in use.

Such mistakes are told like those in the file: with file, line, key, what was found and what is expected.
"""

from __future__ import annotations

import datetime
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from rt import logs
from rt.config import Config, ConfigError, Problem
from rt.config.certificate import Certificate
from rt.config.source import Mapping, parse
from rt.store import Store, StoreBootError
from rt.supervisor import listeners
from rt.supervisor.listeners import BindError

log = logging.getLogger(__name__)


def tell_certificate(config: Config) -> None:
    """Log until when the certificate of the public doors is good; as a warning when it should be renewed by now."""
    tls = config.server.tls
    if tls is None:
        return
    now = datetime.datetime.now(datetime.UTC)
    try:
        certificate = Certificate.read(tls.cert_file)
    except (OSError, ValueError) as error:  # TLS could use it, which is what counts
        log.warning("the certificate says nothing of itself: %s", type(error).__name__)
        return
    level = logging.WARNING if certificate.is_due(now) else logging.INFO
    log.log(level, "certificate %s", certificate.told(now), extra=logs.fields(file=tls.cert_file))


def require_free_ports(config: Config, file: Path | None) -> None:
    """Raise ConfigError when somebody listens on one of the ports."""
    problems = []
    internal = config.server.internal
    for section, address, port in (
        ("server", config.server.address, config.server.port),
        ("server.internal", internal.address, internal.port),
    ):
        try:
            listeners.require_free(address, port)
        except BindError as error:
            problems.append(_bind_problem(file, section, error))
    if problems:
        raise ConfigError(problems)


def bind(config: Config, file: Path | None) -> tuple[list[socket.socket], list[socket.socket]]:
    """One worker's sockets on the public and the internal port, not listening yet; ConfigError when that cannot be."""
    section = "server"
    public: list[socket.socket] = []
    try:
        public = listeners.bind(config.server.address, config.server.port)
        section = "server.internal"
        return public, listeners.bind(config.server.internal.address, config.server.internal.port)
    except BindError as error:
        listeners.close(public)
        raise ConfigError([_bind_problem(file, section, error)]) from error


async def start_store(
    config: Config, file: Path | None, runtime_dir: Path, on_lineage: Callable[[str], Awaitable[None]]
) -> Store:
    """The embedded store, started. ConfigError when another server uses its directory, StoreBootError for what else."""
    store = Store(Path(config.redis.state_dir), runtime_dir, on_lineage)
    try:
        await store.start()
    except StoreBootError as error:
        if not error.in_use:
            raise
        allowed = "a directory of its own, or a redis:// URL to share a store"
        raise ConfigError([problem(file, "redis.state_dir", str(error), allowed)]) from error
    return store


def problem(file: Path | None, path: str, found: str, allowed: str) -> Problem:
    """A mistake at the dotted key ``path``, with the place that gave it its value: a variable, a line of ``file``, or
    none.
    """
    variable = f"RT_{path.upper().replace('.', '_')}"
    if os.environ.get(variable):
        return Problem(f"${variable}", 0, path, found, allowed)
    return Problem(str(file or "(no file)"), _line(file, path), path, found, allowed)


def _bind_problem(file: Path | None, section: str, error: BindError) -> Problem:
    return problem(file, f"{section}.{error.key}", error.found, error.allowed)


def _line(file: Path | None, path: str) -> int:
    """The line of the dotted key ``path`` in ``file``, of the nearest key above when it is left out; 0 when none is
    there.
    """
    line = 0
    try:
        node = parse(file.read_bytes(), str(file))[0] if file else None
    except (OSError, ConfigError):
        return 0
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node.entries:
            break
        entry = node.entries[key]
        line, node = entry.place.line, entry.node if isinstance(entry.node, Mapping) else None
    return line
