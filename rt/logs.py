"""Logging to stderr: one line per record, nothing secret in it, and never a reason to wait.

A line is ``time level logger[worker] message key=value ...``; under journald the time is left out and the level becomes
the ``<n>`` prefix that journald reads (sd-daemon(3)). Control characters are escaped, so that one record is one line
whatever a client sent. Query strings and tokens are cut out of every line, because Tornado logs whole URIs. Lines go
through a bounded queue to a thread of their own: when stderr is blocked or gone, lines are dropped and counted, and
nobody waits.
"""

from __future__ import annotations

import collections
import logging
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

INTERVAL = 10.0
"""Seconds in which one class of event is logged once; the rest is counted."""

MAX_LINE = 8192
"""Characters of one line; what is beyond is cut, so that a traceback cannot fill the queue."""

MAX_CLASSES = 1024
"""Classes of event remembered by one limiter. More are possible only by a mistake; then the memory starts anew."""

_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

# C0 and C1 controls, DEL, the Unicode line ends, marks that reorder text on a terminal, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_QUERY = re.compile(r"\?[^\s'\"<>]*=[^\s'\"<>]*")
_ANY_QUERY = re.compile(r"\?[^\s'\"<>]+")
_JWT = re.compile(r"eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?")
_SECRET = re.compile(
    r"(?i)\b(authorization|x-api-key|apikey|bearer|token)(['\"]?\s*[:=]\s*['\"]?|\s+)(bearer\s+|apikey\s+)?[^\s'\",;)]+"
)

# These write the URI of a request into their lines and into tracebacks.
_WRITES_URIS = ("tornado", "asyncio")


def escape(text: str) -> str:
    r"""``text`` on one line: every control character becomes ``\n``, ``\r``, ``\t``, ``\xNN`` or ``\uNNNN``."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def redact(text: str, *, uris: bool = False) -> str:
    """``text`` without query strings, JWTs and authorization values; ``uris`` also cuts a query that has no ``=``."""
    text = (_ANY_QUERY if uris else _QUERY).sub("?[redacted]", text)
    if uris:
        text = _SECRET.sub(r"\1\2[redacted]", text)
    return _JWT.sub("[redacted]", text)


def fields(**values: object) -> dict[str, Mapping[str, object]]:
    """The ``extra=`` of a record: ``log.info("worker ready", extra=fields(pid=12))`` ends the line with ``pid=12``."""
    return {"fields": values}


class Line(logging.Formatter):
    """Makes one line of a record. ``name`` says which process speaks; ``journald`` leaves the time to the journal."""

    def __init__(self, name: str, *, journald: bool = False) -> None:
        super().__init__()
        self._name = f"[{name}]" if name else ""
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        parts = [record.getMessage()]
        parts += [f"{key}={_value(value)}" for key, value in getattr(record, "fields", {}).items()]
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(self.formatException(record.exc_info))
        uris = record.name.split(".", 1)[0] in _WRITES_URIS
        text = escape(redact(" ".join(parts), uris=uris))
        if len(text) > MAX_LINE:
            text = f"{text[:MAX_LINE]}... cut={len(text) - MAX_LINE}"
        if self._journald:
            return f"<{_PRIORITY.get(record.levelname, 6)}>{record.name}{self._name} {text}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower():<7} {record.name}{self._name} {text}"


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or " " in text or "=" in text else text


class Limiter:
    """Lets one event per class and interval through, and tells how many were held back since."""

    __slots__ = ("_clock", "_interval", "_seen")

    def __init__(self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._seen: dict[object, list[float]] = {}  # class -> [when it was last let through, held back since]

    def admit(self, kind: object) -> int | None:
        """How many events of ``kind`` were held back before this one; None when this one is held back too."""
        now = self._clock()
        entry = self._seen.get(kind)
        if entry is None:
            if len(self._seen) >= MAX_CLASSES:
                self._seen.clear()
            self._seen[kind] = [now, 0]
            return 0
        if now - entry[0] < self._interval:
            entry[1] += 1
            return None
        suppressed = int(entry[1])
        entry[:] = [now, 0]
        return suppressed


class Limited:
    """A logger that writes one line per class of event and 10 seconds; the next line says ``suppressed=N``.

    ``kind`` is the class: a fixed word, never something a client sent.
    """

    __slots__ = ("_limiter", "_logger")

    def __init__(
        self, logger: logging.Logger, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._limiter = Limiter(interval, clock)

    def info(self, kind: str, message: str, *args: object, **values: object) -> None:
        """Log at level info; ``args`` fill the ``%`` of ``message``, ``values`` become ``key=value``."""
        self._log(logging.INFO, kind, message, args, values)

    def warning(self, kind: str, message: str, *args: object, **values: object) -> None:
        """Log at level warning; see :meth:`info`."""
        self._log(logging.WARNING, kind, message, args, values)

    def error(self, kind: str, message: str, *args: object, **values: object) -> None:
        """Log at level error; see :meth:`info`."""
        self._log(logging.ERROR, kind, message, args, values)

    def exception(self, kind: str, message: str, *args: object, **values: object) -> None:
        """Log at level error with the exception now being handled; see :meth:`info`."""
        self._log(logging.ERROR, kind, message, args, values, exc_info=True)

    def _log(
        self,
        level: int,
        kind: str,
        message: str,
        args: tuple[object, ...],
        values: dict[str, object],
        *,
        exc_info: bool = False,
    ) -> None:
        suppressed = self._limiter.admit(kind)
        if suppressed is None:
            return
        if suppressed:
            values["suppressed"] = suppressed
        self._logger.log(level, message, *args, exc_info=exc_info, extra=fields(**values))


class Flood(logging.Filter):
    """Holds back what other people's loggers write more than once per call site and interval (a flood of bad
    handshakes).
    """

    def __init__(self, own: str = "rt") -> None:
        super().__init__()
        self._own = own
        self._limiter = Limiter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".", 1)[0] == self._own:
            return True
        suppressed = self._limiter.admit((record.name, record.pathname, record.lineno))
        if suppressed:
            record.fields = {"suppressed": suppressed}
        return suppressed is not None


class Writer(threading.Thread):
    """Writes lines to a descriptor from a bounded queue. :meth:`put` never waits; a full queue drops the line and
    counts it.
    """

    def __init__(self, fd: int, limit: int = 4096) -> None:
        super().__init__(name="log writer", daemon=True)
        self.dropped = 0
        """Lines that could not be queued or written, in all."""
        self._fd = fd
        self._limit = limit
        self._lines: collections.deque[str] = collections.deque()
        self._wake = threading.Condition()
        self._busy = False
        self._told = 0
        self._closing = False

    def put(self, line: str) -> None:
        """Queue ``line`` (without a line end), or count it as dropped."""
        with self._wake:
            if len(self._lines) >= self._limit:
                self.dropped += 1
                return
            self._lines.append(line)
            self._wake.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all is written, at most ``timeout`` seconds; whether it is."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._lines and not self._busy, timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Write what is left, waiting at most ``timeout`` seconds, then end the thread."""
        self.flush(timeout)
        with self._wake:
            self._closing = True
            self._wake.notify_all()

    def run(self) -> None:
        """Write until :meth:`close`; the thread's own work."""
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._lines or self._closing)
                if self._closing:
                    return
                line = self._lines.popleft()
                self._busy = True
            self._write(line)

    def _write(self, line: str) -> None:
        if self.dropped > self._told:
            lost, self._told = self.dropped - self._told, self.dropped
            line = f"{line}\nlog lines dropped count={lost}"
        data = memoryview(f"{line}\n".encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                select.select([], [self._fd], [], 1.0)
            except OSError:
                self.dropped += 1  # the reader is gone (a closed pipe); serving goes on without it
                return


class Queued(logging.Handler):
    """Formats a record where it is logged and leaves the writing to a :class:`Writer`."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.put(self.format(record))
        except Exception:
            # A record that cannot be formatted must not end what logged it.
            self.writer.put(f"a log record of {record.name} could not be formatted ({record.pathname}:{record.lineno})")


def setup(name: str = "", *, level: int = logging.INFO, stream: TextIO | None = None) -> Writer:
    """Send all logging of this process to ``stream`` (stderr); returns the writer, to be closed at the very end.

    ``name`` is the process's own name in each line. Call once, before anything logs.
    """
    stream = stream or sys.stderr
    writer = Writer(stream.fileno())
    handler = Queued(writer)
    handler.setFormatter(Line(name, journald=_is_journal(stream.fileno())))
    handler.addFilter(Flood())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # redis-py logs payloads at debug, asyncio slow callbacks with their arguments: never, whatever the level.
    for noisy in ("redis", "push_response", "asyncio", "tornado.access"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    writer.start()
    return writer


def dropped() -> int:
    """Lines that this process could not write since :func:`setup`; 0 without it."""
    return sum(handler.writer.dropped for handler in logging.getLogger().handlers if isinstance(handler, Queued))


def _is_journal(fd: int) -> bool:
    """Whether ``fd`` is the journal's own stream, as systemd says in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
