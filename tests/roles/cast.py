"""A cast: publishers and readers in processes of their own, recording, and the verdict on what they recorded.

    with cast(server, publishers=2, readers=9, rate=50, channels=3, seed=1) as run:
        with store.stopped():
            run.wait(receives=200)
        run.assert_clean(at_least=1000)

``assert_clean`` is ``finish`` (faults are over: probes go out, everybody stops) and ``judge``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import resource
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tests.checker import Finding, Judge, Record
from tests.roles.journal import Journal
from tests.servers import API_KEY, ROOT
from tests.waiting import PATIENCE

ROUND = 1.0
"""Seconds between two rounds of probes, while not everybody has had one."""

HEAL = 10.0
"""Seconds after the last fault within which everybody must receive again."""

SETTLE = 20.0
"""Seconds that publishers get in the end to learn what became of their last publications."""

SHOWN = 5
"""Findings of a rule that a message shows."""


class Port(Protocol):
    """What a cast needs of a server."""

    port: int


@dataclass
class Options:
    """How a cast behaves. Rates and pauses are averages; ``seed`` decides everything that is left to chance."""

    publishers: int = 2
    readers: int = 6
    rate: float = 20.0
    """Publications per second and publisher."""
    channels: int | Sequence[str] = 2
    """How many, with names of their own, or the names."""
    per_reader: int = 2
    """Most channels that one reader follows."""
    kinds: Sequence[str] = ("sdk", "ws", "sse")
    """Doors of the readers, in turn."""
    seed: int = 1
    namespace: str = ""
    """``"long:"``, for instance; only for channels that are named here."""
    size: int = 100
    """Most bytes of a publication's body."""
    reconnect_every: float = 0.0
    """Seconds that a reader stays connected before it leaves by itself; 0: as long as it may."""
    pause_every: float = 0.0
    """Seconds between two times that a reader does not read; 0: it always reads."""
    pause: float = 1.0
    """Longest time for which it does not read."""
    receive_buffer: int = 0
    """Bytes of a reader's buffer in the kernel; 0: the kernel's own choice, in which a lot fits."""
    ramp: float = 0.0
    """Seconds over which the readers come."""
    move: float = 0.05
    """Chance that a publisher takes another connection after a publication."""
    refusals: float = 0.0
    """Part of the publications that must be refused."""
    workers: Sequence[int] = ()
    """Process ids of the workers that publishers call, in turn; none: whichever answers."""
    reader_processes: int = 1
    prefix: str = ""
    """``/t/<tenant>``."""
    api_key: str = API_KEY
    token: str = ""
    folder: Path | None = None
    """Where the records go, and stay; without it, a temporary folder that goes when nothing failed."""


class Role:
    """One process of a cast."""

    def __init__(self, kind: str, settings: Mapping[str, Any], folder: Path) -> None:
        self.name: str = settings["name"]
        self.errors = folder / f"{self.name}.err"
        self.records = folder / f"{self.name}.jsonl"
        text = json.dumps({**settings, "journal": str(self.records)})
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.roles.{kind}", text],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )

    def tell(self, do: str, **fields: Any) -> None:
        """Send a command; :meth:`hear` gives its answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        except BrokenPipeError:
            raise AssertionError(f"{self.name} has ended\n{self.errors.read_text()}") from None

    def hear(self, timeout: float = PATIENCE) -> Any:
        """The answer to the oldest command that has none yet."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{self.name} does not answer"
            piece = self.process.stdout.read(65536)
            assert piece, f"{self.name} has ended\n{self.errors.read_text()}"
            answer += piece
        return json.loads(answer)

    def ask(self, do: str, timeout: float = PATIENCE, **fields: Any) -> Any:
        """Send a command and wait for its answer."""
        self.tell(do, **fields)
        return self.hear(timeout)

    def end(self) -> None:
        """Let nothing of it live on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@dataclass
class Run:
    """A cast at work. ``channels`` are the names of its channels, ``folder`` holds its raw records."""

    channels: list[str]
    folder: Path
    publisher: Role
    readers: list[Role]
    journal: Journal
    healed: float | None = None
    """Seconds from the end of the faults until everybody received again; None before, and when somebody did not."""
    _finished: bool = field(default=False, init=False)

    # While it plays

    @property
    def receives(self) -> int:
        """How many publications were received so far."""
        return sum(status["receives"] for status in self._ask_readers("status"))

    def published(self) -> dict[str, int]:
        """How many records of each kind the publishers have made: publish, published, refused, unknown."""
        counts: dict[str, int] = self.publisher.ask("status")
        return counts

    def wait(self, receives: int = 0, timeout: float = 30.0) -> None:
        """Until that many more were received; AssertionError after ``timeout``."""
        goals = [(role, role.ask("status")["receives"]) for role in self.readers]
        share = -(-receives // len(goals))
        self._await([(role, {"receives": count + share}) for role, count in goals], timeout, f"{receives} receives")

    def wait_inside(self, timeout: float = 30.0) -> None:
        """Until every reader has been subscribed to all that it follows; AssertionError after ``timeout``."""
        self._await([(role, {"all": True}) for role in self.readers], timeout, "everybody is subscribed")

    def play(self, seconds: float) -> None:
        """Let it go on for a while, whatever happens in it."""
        goals = [(role, {"receives": sys.maxsize}) for role in self.readers]
        with contextlib.suppress(AssertionError):
            self._await(goals, seconds, "")

    def set_rate(self, rate: float) -> None:
        """Publications per second and publisher from now on."""
        self.publisher.ask("rate", rate=rate)

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Record that something is wrong during the block, for who reads the records."""
        self.journal.note("fault", name=name, what="start")
        try:
            yield
        finally:
            self.journal.note("fault", name=name, what="end")

    # The end of it

    def probe(self, within: float = HEAL) -> float | None:
        """All faults are over: publish to every channel until everybody has received one; the seconds that it took.

        None when somebody has not after ``within`` seconds; ``judge`` says who.
        """
        self.journal.note("healed", within=within)
        begun = time.monotonic()
        for role in self.readers:
            role.ask("calm")
        ids: dict[str, list[str]] = {channel: [] for channel in self.channels}
        self.healed = None
        while self.healed is None and (left := begun + within - time.monotonic()) > 0:
            made = self._publish_probes(left)
            for channel, one in made.items():
                ids[channel].append(one)
            missing = self._until([(role, {"ids": ids}) for role in self.readers], min(ROUND, left))
            if len(made) == len(self.channels) and not missing:
                self.healed = time.monotonic() - begun
        return self.healed

    def _publish_probes(self, within: float) -> dict[str, str]:
        """One to each channel; their ids by channel, of those that were published in time."""
        made: dict[str, str] = self.publisher.ask("probe", within + PATIENCE, channels=self.channels, within=within)
        return made

    def finish(self, within: float = HEAL) -> list[Record]:
        """``stop``; all records, those of the cast first."""
        self.stop(within)
        return list(self.records())

    def stop(self, within: float = HEAL) -> None:
        """No more publications; probe; let publishers settle; a last probe, behind which nothing is under way, gets
        as long again; and stop everybody."""
        if self._finished:
            return
        self.publisher.ask("over")
        self.probe(within)
        self.publisher.ask("finish", SETTLE + PATIENCE, within=SETTLE)
        last = {channel: [one] for channel, one in self._publish_probes(within).items()}
        self._until([(role, {"ids": last}) for role in self.readers], within)
        for role in (self.publisher, *self.readers):
            role.ask("stop")
        self.journal.flush()
        self._finished = True

    def records(self) -> Iterator[Record]:
        """All records so far, one after the other."""
        files = [self.folder / "cast.jsonl", self.publisher.records, *(role.records for role in self.readers)]
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for file in files:
            with file.open("rb") as lines:
                yield from map(decode, lines)

    def judge(self, at_least: int | Mapping[str, int] = 1, at_most: Mapping[str, int] | None = None) -> list[Finding]:
        """The findings, after ``stop`` or ``finish``; ``healed`` is from then on what the readers' clocks say. Where
        nothing may be lost ``at_most={"gaps": 0}`` says so."""
        assert self._finished, "finish comes first"
        judge = Judge()
        for record in self.records():
            judge.take(record)
        findings = judge.finish(at_least, at_most)
        self.healed = judge.heal_time()
        return findings

    def assert_clean(
        self,
        at_least: int | Mapping[str, int] = 1,
        within: float = HEAL,
        at_most: Mapping[str, int] | None = None,
    ) -> list[Record]:
        """``finish``, and AssertionError with all that is wrong; all records."""
        self.stop(within)
        findings = self.judge(at_least, at_most)
        assert not findings, told(findings, self.folder)
        return list(self.records())

    # Asking

    def _ask_readers(self, do: str) -> list[Any]:
        for role in self.readers:
            role.tell(do)
        return [role.hear() for role in self.readers]

    def _until(self, goals: Iterable[tuple[Role, dict[str, Any]]], within: float) -> list[Any]:
        """Ask each for its goal at the same time; what is missing after ``within`` seconds."""
        goals = list(goals)
        for role, goal in goals:
            role.tell("until", within=within, **goal)
        answers = [(goal, role.hear(within + PATIENCE)) for role, goal in goals]
        few = [answer["receives"] for goal, answer in answers if answer["receives"] < goal.get("receives", 0)]
        return [one for _, answer in answers for one in answer["missing"]] + few

    def _await(self, goals: Iterable[tuple[Role, dict[str, Any]]], within: float, what: str) -> None:
        missing = self._until(goals, within)
        assert not missing, f"not within {within:g} s: {what}; missing: {missing[:SHOWN]}; records: {self.folder}"


def told(findings: Sequence[Finding], folder: Path) -> str:
    """How many findings by rule, the first of them, and where the records are that they came from."""
    by_rule = Counter(finding.rule for finding in findings)
    counts = ", ".join(f"{count} x {rule}" for rule, count in by_rule.most_common())
    firsts = [
        f"{finding.rule}: {finding.text}"
        for rule in by_rule
        for finding in itertools.islice((one for one in findings if one.rule == rule), SHOWN)
    ]
    return "\n".join([f"{counts}; records in {folder}", *firsts])


def concluded(name: str, run: Callable[[Path], Sequence[Finding]]) -> int:
    """The exit status of a long run by hand: it has all descriptors and a folder, which is kept when it found something
    (a process that hangs and a traceback in the log, too)."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    folder = Path(tempfile.mkdtemp(prefix=f"rt-{name}-"))
    try:
        findings = run(folder)
    except AssertionError as error:
        findings = [Finding("FAILED", str(error))]
    if findings:
        print(told(findings, folder))
        return 1
    print("clean")
    shutil.rmtree(folder)
    return 0


@contextlib.contextmanager
def cast(server: Port | Sequence[Port], **options: Any) -> Iterator[Run]:
    """Start a cast on ``server`` (or several that share a store); :class:`Options` says what there is to choose.

    The block begins when everybody has been subscribed. After it no process is left; the records stay when it failed.
    """
    chosen = Options(**options)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="rt-cast-"))
    folder.mkdir(parents=True, exist_ok=True)
    servers = server if isinstance(server, Sequence) else [server]
    roles: list[Role] = []
    journal = Journal(folder / "cast.jsonl")
    journal.note("cast", seed=chosen.seed)
    try:
        channels = make_channels(chosen)
        common = {"ports": [one.port for one in servers], "prefix": chosen.prefix}
        roles += [Role("reader", {**common, **settings}, folder) for settings in reader_settings(chosen, channels)]
        roles.append(Role("publisher", {**common, **publisher_settings(chosen, channels)}, folder))
        run = Run(channels, folder, roles[-1], roles[:-1], journal)
        run.wait_inside(30.0 + chosen.ramp)
        run.set_rate(chosen.rate)
        yield run
    except BaseException as error:
        error.add_note(f"records in {folder}")
        raise
    else:
        if chosen.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        journal.close()
        for role in roles:
            role.end()


def make_channels(options: Options) -> list[str]:
    """Names that no other run uses, unless they are given."""
    if isinstance(options.channels, int):
        run = secrets.token_hex(4)
        return [f"{options.namespace}c{number}-{run}" for number in range(options.channels)]
    return list(options.channels)


def reader_settings(options: Options, channels: list[str]) -> list[dict[str, Any]]:
    """Of each process: readers of all doors, each with some of the channels."""
    dice = random.Random(options.seed)
    kinds = itertools.cycle(options.kinds)
    most = min(options.per_reader, len(channels))
    readers = [
        {
            "kind": kind,
            "name": f"{kind}-{number}",
            "channels": dice.sample(channels, dice.randint(1, most)),
            "seed": dice.getrandbits(32),
        }
        for number, kind in zip(range(options.readers), kinds, strict=False)
    ]
    names = ("token", "ramp", "reconnect_every", "pause_every", "pause", "receive_buffer")
    common = {name: getattr(options, name) for name in names}
    return [
        {"name": f"readers-{number}", "readers": readers[number :: options.reader_processes], **common}
        for number in range(options.reader_processes)
    ]


def publisher_settings(options: Options, channels: list[str]) -> dict[str, Any]:
    """Of the process with all publishers. They wait for a rate, which they get when everybody listens."""
    dice = random.Random(options.seed + 1)
    workers = itertools.cycle(options.workers or (0,))
    publishers = [
        {"name": f"p{number}-{secrets.token_hex(3)}", "seed": dice.getrandbits(32), "worker": worker}
        for number, worker in zip(range(options.publishers), workers, strict=False)
    ]
    return {
        "name": "publishers",
        "publishers": publishers,
        "channels": channels,
        "rate": 0.0,
        "size": options.size,
        "move": options.move,
        "refusals": options.refusals,
        "secret": secrets.token_hex(8),
        "api_key": options.api_key,
    }
