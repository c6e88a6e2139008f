"""The command line of rt: run a server, check a config, print the defaults, make tokens, upgrade or drain a server."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rt import __version__
from rt.config import Config, ConfigError, Token, defaults, load, markdown

EX_FAILED = 1
EX_STORE = 69
EX_CONFIG = 78


def main(arguments: Sequence[str]) -> int:
    """Carry out a command line; the exit status. 0 done, 1 not done, 2 not understood, 69 and 70 a server that failed,
    78 a bad config, with one line on stderr for each mistake.
    """
    if arguments[:1] == ["worker"]:
        return worker(arguments[1:])
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        return status
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="server.py", description="rt: a real-time server.")
    top.add_argument("--version", action="version", version=f"rt {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="serve until SIGTERM, in the foreground")
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the config; all defaults without it")
    command.add_argument("--single", action="store_true", help="one process, without a supervisor")
    command.set_defaults(command=run)

    command = commands.add_parser("check", help="say what is wrong with a config")
    command.add_argument("file", type=Path, metavar="FILE")
    command.set_defaults(command=check)

    command = commands.add_parser("defaults", help="print a config with every key, what it means and its default")
    command.add_argument("--markdown", action="store_true", help="as the page docs/config.md")
    command.set_defaults(command=print_defaults)

    command = commands.add_parser("token", help="make a token to try things out with")
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the config, for its key")
    command.add_argument("--user", required=True, help='who; "" is the anonymous user')
    command.add_argument("--channel", help="a token to subscribe to this channel, instead of one to connect")
    command.add_argument("--tenant", metavar="NAME", help="one for this tenant of the config, with its key")
    command.add_argument("--ttl", type=duration, default=3600.0, metavar="1h", help="good for so long; 0 is for ever")
    command.set_defaults(command=token)

    command = commands.add_parser("upgrade", help="have a running server replace its workers by the code now on disk")
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the config it runs with")
    command.add_argument("--pid", type=int, help="its supervisor, instead of the one in the pid file")
    command.set_defaults(command=upgrade)

    command = commands.add_parser("drain", help="have a running server, or one worker, tell its clients to go, and end")
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the config it runs with")
    command.add_argument("--pid", type=int, help="its supervisor, instead of the one in the pid file")
    command.add_argument("--worker", type=int, metavar="PID", help="only this worker, which gets a successor before")
    command.set_defaults(command=drain)

    from rt.operator import commands as looks

    looks.add(commands)
    return top


def duration(text: str) -> float:
    """Seconds of "90", "90s", "15m", "1h" or "7d"; ValueError otherwise."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    if not number.isascii() or not number.isdecimal():
        raise ValueError(text)
    return float(int(number) * unit)


def run(options: argparse.Namespace) -> int:
    """Serve. Standard error gets the log."""
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)  # either would end us before we listen to it
    config = load(options.file)

    from rt import logs
    from rt.store import StoreBootError
    from rt.supervisor import leftovers

    leftovers.refuse(config)
    raise_file_limit()

    writer = logs.setup("single" if options.single else "")
    try:
        if options.single:
            from rt.supervisor import single

            return single.run(config, options.file)
        return asyncio.run(supervise(config, options.file))
    except StoreBootError as error:
        writer.flush(1.0)
        print(f"the embedded store cannot be started: {error}", file=sys.stderr)
        return EX_STORE
    finally:
        writer.close()


async def supervise(config: Config, file: Path | None) -> int:
    """Be the supervisor until the end; the exit status."""
    from rt.supervisor.supervisor import Supervisor

    # Not resolved: a release that is a symbolic link is followed anew at each upgrade.
    program = Path(os.path.abspath(__file__))
    return await Supervisor(config, file, program).run()


def raise_file_limit() -> None:
    """Allow as many open files as may be: a connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check(options: argparse.Namespace) -> int:
    """Load a config, which tells what is wrong with it; and say how long its certificate is good. 1 when it is not."""
    from rt.config.certificate import Certificate

    config = load(options.file)
    good, now, tls = True, datetime.datetime.now(datetime.UTC), config.server.tls
    if tls is not None:
        try:
            certificate = Certificate.read(tls.cert_file)
        except ValueError:
            print(f"{tls.cert_file}: TLS can use it, but nothing says until when", file=sys.stderr)
            return EX_FAILED
        good = certificate.is_good(now)
        print(f"{tls.cert_file}: a certificate {certificate.told(now)}", file=sys.stdout if good else sys.stderr)
    if good:
        print(f"{options.file}: good")
    return 0 if good else EX_FAILED


def print_defaults(options: argparse.Namespace) -> int:
    """Print every key of the config."""
    sys.stdout.write(markdown() if options.markdown else defaults())
    return 0


def token(options: argparse.Namespace) -> int:
    """Print a token signed with the config's key, or with that of one of its tenants."""
    from rt.protocol import tokens

    config = load(options.file)
    if options.tenant is not None:
        tenant = next((tenant for tenant in config.tenants if tenant.name == options.tenant), None)
        if tenant is None:
            print(f"the config has no tenant {options.tenant}", file=sys.stderr)
            return EX_FAILED
        config = config.of(tenant)
    settings = config.client.token
    key, claims = settings.hmac_secret_key, claims_wanted(settings, options.user)
    if not key:
        print("client.token.hmac_secret_key is not set: there is nothing to sign with", file=sys.stderr)
        return EX_FAILED
    now, ttl = time.time(), options.ttl or None
    if options.channel is None:
        print(tokens.connection_token(options.user, key, now=now, ttl=ttl, claims=claims))
    else:
        print(tokens.subscription_token(options.user, options.channel, key, now=now, ttl=ttl, claims=claims))
    return 0


def claims_wanted(settings: Token, user: str) -> dict[str, object]:
    """What a token must claim besides, so that it is accepted. An expression that it must match is not met."""
    claims = {"iss": settings.issuer, "aud": settings.audience}
    wanted: dict[str, object] = {name: value for name, value in claims.items() if value}
    return wanted | ({settings.user_id_claim: user} if settings.user_id_claim else {})


def upgrade(options: argparse.Namespace) -> int:
    """Tell a running supervisor to replace its workers."""
    pid = supervisor_of(options)
    if pid is None:
        return EX_FAILED
    try:
        os.kill(pid, signal.SIGUSR2)
    except OSError as error:
        print(f"process {pid}: {error.strerror}", file=sys.stderr)
        return EX_FAILED
    print(f"process {pid} replaces its workers; its log says how it goes")
    return 0


def drain(options: argparse.Namespace) -> int:
    """Tell a running supervisor, or one worker, to leave, and wait until it has."""
    from rt.supervisor import farewell

    pid = supervisor_of(options)
    if pid is None:
        return EX_FAILED
    seconds = 1.2 * load(options.file).server.shutdown_timeout + 5.0
    whom = f"process {pid}" if options.worker is None else f"worker {options.worker}"
    try:
        handle = farewell.leave(pid, options.worker)
    except farewell.NotOurs as error:
        print(error, file=sys.stderr)
        return EX_FAILED
    print(f"{whom} tells its clients to go", flush=True)
    if not farewell.gone(handle, seconds):
        print(f"{whom} is still there after {seconds:g} s", file=sys.stderr)
        return EX_FAILED
    print(f"{whom} is gone")
    return 0


def supervisor_of(options: argparse.Namespace) -> int | None:
    """The pid of the supervisor that is meant; None, said on stderr, when nobody is."""
    from rt.supervisor.runtime import holder, pid_file

    pid: int | None = options.pid
    if pid is None:
        config = load(options.file)
        path = pid_file(Path(config.redis.state_dir), config.server.port)
        pid = holder(path)
        if pid is None:
            print(f"no running server holds {path}; name its supervisor with --pid", file=sys.stderr)
    return pid


def worker(arguments: Sequence[str]) -> int:
    """Be a worker. Only the supervisor calls this, with descriptors that it has opened."""
    inner = argparse.ArgumentParser(prog="server.py worker")
    inner.add_argument("--control", type=int, required=True)
    for name in ("--public", "--internal"):
        inner.add_argument(name, type=lambda text: [int(fd) for fd in text.split(",")], required=True)
    options = inner.parse_args(arguments)

    from rt.worker import main as be_worker

    return be_worker(options.control, options.public, options.internal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
