"""Rate limits: who may do what how often, decided before anything is spent on it.

**Where it is checked.** Each thing is counted at the first place where it is known who does it, and before its cost:

1. A request for a stream (WebSocket, event stream): ``connect`` per ip and tenant, after the origin and the handshake
   were found good, before the waiting room, any token, and the socket being taken over. Over it: 429.
2. A connection whose token was verified: ``connect`` per user, with the connection limit of the user.
3. Bytes and messages, as they are read: ``bytes`` of each read, ``message`` for each frame or line of a frame. Nothing
   is refused here: what is read is carried out, and when a bucket is empty nothing more is, and nothing is read from
   that socket, until there is a token. The sender is stopped by TCP; the worker holds at most one read.
4. A command, decoded and in its turn: ``subscribe``, ``publish``, ``presence``, ``history`` and ``rpc``, before a token
   is verified, a permission looked up, or the store asked. Over it: error 111 with ``retry_after``; the connection
   goes on. The channels in the URL of a stream are subscribes too; over it: 429.
5. A call of the server API, when its key was found good: ``api`` per ip and tenant. Over it: 429.

**What counts.** Of the rules with the same action and scope the first whose namespace fits; of different scopes all.
All of them must have a token, or none is taken. A command that is refused by a rule costs nothing. One that is refused
for another reason (permission, a bad name, the store) has cost the *own* buckets of who sent it: connection, user and
address. To the *common* ones (channel, tenant) it gives back what it took: else who may do nothing could use up what
is everybody's. A command of a batch counts like one that came alone.

**What a refusal costs.** A lookup by action, one number per rule, and the reply: no exception but one, no log line, no
call. They have a bucket, too: a connection may be refused ``tolerance`` times at once and as often in each ten seconds;
one more closes it (3013).

**Subjects.** A connection is its id, a user its name, an anonymous connection a user of its own, an address an IPv4
address or the ``ipv6_prefix`` of an IPv6 address, a channel its name, and a tenant is one. What a client can choose
freely is bounded before it becomes a subject (a name by the length of channels). Each rule has a map of its own that
holds at most ``subjects`` entries, of one number each; full buckets have none. Counts of refusals, for who asks which
subjects are the worst, are in a table of 64 entries per rule which is renewed each minute.

**Shared rules** are drawn from in the store (:mod:`rt.delivery.quota`), after the others: what a worker refuses by
itself asks nobody. A command that must ask waits, as for any answer of the store, and its connection is not read.

**Reload.** A rule is known by what it counts: action, scope, namespace, shared. One that is there before and after
keeps its buckets, which neither fill nor empty by it; rates and capacities change under them. Connections are not
touched.

**Tenants** have each their own object of this class, with rules, maps and quotas of their own.

Nothing of this is on the way of a publication. Where there are no rules, a command costs one lookup in an empty dict,
and a read one look at an attribute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from math import floor
from typing import TYPE_CHECKING

from rt.config import RateLimit
from rt.delivery.buckets import Buckets
from rt.delivery.quota import Outage, Quota, Store
from rt.delivery.rules import Asker, Rule, Scopes, Taken, TooMany

if TYPE_CHECKING:
    from rt import config
    from rt.metrics import TenantMetrics

COMMANDS = {
    "subscribe": "subscribe",
    "publish": "publish",
    "presence": "presence",
    "presence_stats": "presence",
    "history": "history",
    "rpc": "rpc",
}
"""The action that a command is, by the command's name."""

WINDOW = 10.0  # seconds in which the tolerance comes back
SWEEP = 10.0  # seconds between two looks at what is of no use any more

Key = tuple[str, str, str, bool]


class Limits:
    """The rate limits of one tenant on one worker.

    ``commands`` has the rules about commands, by the command's name; ``door``, ``login``, ``messages``, ``bytes`` and
    ``api`` those about the rest, None where there are none; ``measured`` is whether there are any of ``messages`` and
    ``bytes``.
    """

    def __init__(
        self,
        settings: config.Limits,
        *,
        store: Store,
        metrics: TenantMetrics,
        loop: asyncio.AbstractEventLoop,
        tenant: str,
    ) -> None:
        self.loop = loop
        self.now: Callable[[], float] = loop.time
        self.outage = Outage(self.now, tenant)
        self._store = store
        self._metrics = metrics
        self._rules: dict[Key, Rule] = {}
        self._gone = 0  # forgotten subjects of rules that are no more
        self._provoked = Buckets(1.0, 1.0, 1)
        self.reload(settings)

    def reload(self, settings: config.Limits) -> None:
        """Take other rules; those that count the same as before go on with their buckets."""
        now, before = self.now(), self._rules
        self.ipv6_prefix = settings.ipv6_prefix
        self.most = settings.subjects
        self._tolerance = settings.tolerance
        self._rules = {}
        for rate in settings.rates:
            key = (rate.on, rate.per, rate.namespace, rate.shared)
            rule = before.pop(key, None)
            if rule is None:
                rule = self._made(rate)
            else:
                rule.change(rate, self.most, now)
            self._rules[key] = rule
        self._gone += sum(rule.forgotten for rule in before.values())
        tolerance = max(self._tolerance, 1)
        self._provoked.change(tolerance / WINDOW, float(tolerance), self.most, now)
        self._arrange()

    def _made(self, rate: RateLimit) -> Rule:
        if rate.shared:
            name = f"{rate.on}:{rate.per}:{rate.namespace}"
            return Rule(rate, None, Quota(rate, name, self._store, self.outage, self.loop, self.most))
        return Rule(rate, Buckets(rate.rate.per_second, rate.capacity, self.most), None)

    def _arrange(self) -> None:
        found = {kind: self._about(action) for kind, action in COMMANDS.items()}
        self.commands = {kind: scopes for kind, scopes in found.items() if scopes is not None}
        self.door = self._about("connect", "ip", "tenant")
        self.login = self._about("connect", "user")
        self.messages = self._about("message")
        self.bytes = self._about("bytes")
        self.api = self._about("api")
        self.measured = self.messages is not None or self.bytes is not None

    def _about(self, action: str, *scopes: str) -> Scopes | None:
        rules = [rule for rule in self._rules.values() if rule.on == action and (not scopes or rule.per in scopes)]
        return Scopes(self, rules) if rules else None

    @property
    def rules(self) -> Iterator[Rule]:
        """All rules, in the order of the config."""
        return iter(self._rules.values())

    @property
    def subjects(self) -> int:
        """Buckets that are kept here, over all rules."""
        return sum(rule.count for rule in self._rules.values())

    @property
    def forgotten(self) -> int:
        """Buckets that were forgotten because there were too many, ever."""
        return self._gone + sum(rule.forgotten for rule in self._rules.values())

    def left(self, asker: Asker) -> dict[str, float]:
        """The tokens that a connection has left, by rule, in whole numbers; of shared rules only the store knows."""
        found: dict[str, float] = {}
        for scopes in {*self.commands.values(), self.messages, self.bytes} - {None}:
            assert scopes is not None
            for rule, left in scopes.standing(asker):
                if left is not None:
                    found[f"{rule.on} per {rule.per}"] = floor(left)
        return found

    def sweep(self, now: float) -> None:
        """Forget what is of no use any more; to be called each :data:`SWEEP` seconds."""
        self._provoked.sweep(now)
        for rule in self._rules.values():
            rule.sweep(now)

    # Coming in

    def log_in(self, asker: Asker) -> asyncio.Future[None] | None:
        """The user of a connection is known: count it. What is returned, if anything, is to be awaited. Raises, or ends
        with, TooMany."""
        taken = None if self.login is None else self.login.take(asker)
        return None if taken is None else taken.asked

    def subscribes(self, asker: Asker, names: Sequence[str]) -> asyncio.Future[None] | None:
        """A connection begins with subscriptions to these channels: the same."""
        scopes = self.commands.get("subscribe")
        if scopes is None:
            return None
        every: list[Taken] = []
        try:
            for name in names:
                taken = scopes.take(asker, name)
                every += [taken] if taken is not None else []
        except TooMany:
            self._undo(every)
            raise
        asked = [taken.asked for taken in every if taken.asked is not None]
        return self._all(asked, every) if asked else None

    def _all(self, asked: list[asyncio.Future[None]], every: list[Taken]) -> asyncio.Future[None]:
        whole: asyncio.Future[None] = self.loop.create_future()

        def answered(done: asyncio.Future[list[None]]) -> None:
            refused = None if done.cancelled() else done.exception()
            if refused is not None or whole.done():
                self._undo(every)
            if whole.done():
                return
            if refused is not None:
                whole.set_exception(refused)
            else:
                whole.set_result(None)

        asyncio.gather(*asked).add_done_callback(answered)
        return whole

    def _undo(self, every: list[Taken]) -> None:
        """Give back what is everybody's of all of them. One that still waits gives it back by itself."""
        for taken in every:
            if taken.asked is None or (taken.asked.done() and not taken.asked.cancelled()):
                self.give(taken.common or [])
            else:
                taken.asked.cancel()

    # Refusals

    def note(self, rule: Rule, subject: str, now: float) -> None:
        """A rule stopped somebody."""
        rule.hit(subject, now)
        self._metrics.limited(rule.on, rule.per, rule.namespace)

    def refusal(self, rule: Rule, subject: str, wait: float, now: float) -> TooMany:
        """The refusal by a rule that has no token for ``subject``."""
        meant = not (rule.settings.shared and rule.settings.redis_down == "deny" and self.outage.lasts)
        if meant:
            self.note(rule, subject, now)
        return TooMany(rule, wait, meant=meant)

    def provoked(self, connection: Asker) -> bool:
        """The connection was refused once more: whether that is once too often."""
        return bool(self._tolerance) and self._provoked.take(connection.id, self.now()) > 0.0

    def give(self, drawn: list[tuple[Rule, str]], count: int = 1) -> None:
        """Put back what was taken for nothing."""
        now = self.now()
        for rule, subject in drawn:
            if rule.buckets is not None:
                rule.buckets.give(subject, now, count)
            elif rule.quota is not None:
                rule.quota.give(subject, count)
