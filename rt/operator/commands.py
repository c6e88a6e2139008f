"""What ``server.py`` offers for looking into a running server, and how each command ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rt.config import load
from rt.operator import looks
from rt.operator.door import Door, Unanswered

EX_FAILED = 1

Commands = Any
"""What ``ArgumentParser.add_subparsers`` gives; its class has no public name."""


def add(commands: Commands) -> None:
    """Add the commands. Each prints, and returns 0 for done and 1 for not done, with a line on stderr."""
    command = _command(commands, "status", "show how a running server is; 1 when it is not ready", _status)
    command.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="2", help="what rates are taken over; up to 60"
    )

    command = _command(commands, "connections", "list connections, those that have waited longest first", _connections)
    command.add_argument("--user", help='of this user; "" is the anonymous one')
    command.add_argument("--channel", help="that follow this channel")
    command.add_argument("--ip", help="from this address, or a range such as 192.0.2.0/24")
    command.add_argument("--slow", action="store_true", help="for which something waits, or that are behind")
    command.add_argument("--limit", type=int, metavar="100", help="how many at most, up to 1000")
    _as_json(command)

    command = _command(commands, "connection", "show how one connection stands, as JSON", _connection)
    command.add_argument("client", metavar="ID")

    command = _command(commands, "channel", "show how a channel stands, on every worker", _channel)
    command.add_argument("channel", metavar="NAME")
    _as_json(command)

    command = _command(commands, "tail", "show what passes through a channel, until Ctrl-C", _tail)
    command.add_argument("channel", metavar="NAME")
    _as_json(command)


def _command(
    commands: Commands, name: str, words: str, do: Callable[[argparse.Namespace, Door], int]
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=words)
    command.add_argument("file", type=Path, metavar="FILE", help="the config that the server runs with")
    command.add_argument("--tenant", default="", metavar="NAME", help="of this tenant, with its key")

    def carry_out(options: argparse.Namespace) -> int:
        try:
            return do(options, Door(load(options.file), options.tenant))
        except Unanswered as why:
            print(why, file=sys.stderr)
            return EX_FAILED
        except BrokenPipeError:
            sys.stderr.close()  # who read has had enough
            return 0

    command.set_defaults(command=carry_out)
    return command


def _as_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="as JSON, for other programs")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 60:
        raise ValueError(text)
    return value


def _status(options: argparse.Namespace, door: Door) -> int:
    # Only now: prometheus_client decides at its import where a process counts, and a server reads this file too.
    from rt.operator.status import status

    text, ready = status(door, options.tenant, options.seconds)
    sys.stdout.write(text)
    return 0 if ready else EX_FAILED


def _connections(options: argparse.Namespace, door: Door) -> int:
    found, text = looks.connections(
        door,
        user=options.user,
        channel=options.channel,
        ip=options.ip,
        slow=options.slow or None,
        limit=options.limit,
    )
    sys.stdout.write(looks.raw(found) if options.json else text)
    return 0


def _connection(options: argparse.Namespace, door: Door) -> int:
    found = door.call("connection", client=options.client)
    if not found:
        raise Unanswered("no worker has such a connection")
    sys.stdout.write(looks.raw(found))
    return 0


def _channel(options: argparse.Namespace, door: Door) -> int:
    found, text = looks.channel(door, options.channel)
    sys.stdout.write(looks.raw(found) if options.json else text)
    return 0


def _tail(options: argparse.Namespace, door: Door) -> int:
    try:
        for event, line in looks.tail(door, options.channel):
            print(looks.raw_line(event) if options.json else line, flush=True)
    except KeyboardInterrupt:
        return 0
    raise Unanswered("the stream has ended")
