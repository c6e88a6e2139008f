"""Who may do what where: every combination of the options, asked by everybody, over a socket that no library helps."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.raw import RawSocket, Shut, text
from tests.servers import STREAM, Server
from tests.tokens import sign, subscription_token

OK = 0
"""In the tables: the command is carried out."""

USER = "42"
COMMANDS = ("publish", "history", "presence", "presence_stats")
FIELDS: dict[str, dict[str, Any]] = {"publish": {"data": {"n": 1}}, "history": {"limit": 1}}


class Rule(NamedTuple):
    """One namespace of the table: whom its options let in, and whether it has what they are about."""

    subscriber: bool
    client: bool
    anonymous: bool
    features: bool = True

    @property
    def name(self) -> str:
        """The namespace's name."""
        letters = zip("sca", (self.subscriber, self.client, self.anonymous), strict=True)
        return (
            "may-"
            + "".join(letter if allowed else "-" for letter, allowed in letters)
            + ("-on" if self.features else "-off")
        )

    def options(self) -> dict[str, Any]:
        """The namespace as the config file has it."""
        options: dict[str, Any] = {"name": self.name, "presence": self.features}
        options |= STREAM if self.features else {"history_size": 0, "force_recovery": False}
        for what in ("publish", "history", "presence"):
            options[f"allow_{what}_for_subscriber"] = self.subscriber
        for what in ("publish", "history", "presence", "subscribe"):
            options[f"allow_{what}_for_client"] = self.client
            options[f"allow_{what}_for_anonymous"] = self.anonymous and (self.client or what != "subscribe")
        return options

    def expected(self, command: str, user: str, subscribed: bool) -> int:
        """The code that the protocol asks for: first whether the feature is there, then whether they may have it."""
        if command != "publish" and not self.features:
            return 108
        known = bool(user) or self.anonymous
        return OK if known and (self.client or (self.subscriber and subscribed)) else 103

    def expected_subscribe(self, user: str, *, private: bool) -> int:
        """Of a subscribe without a token."""
        return OK if self.client and (user or self.anonymous) and not private else 103


RULES = [
    Rule(*flags)
    for flags in itertools.product((False, True), repeat=4)
    if Rule(*flags).anonymous <= (Rule(*flags).client or Rule(*flags).subscriber)
]
"""All combinations that the config takes: what the anonymous user may, others may too."""
NAMESPACES = [
    *(rule.options() for rule in RULES),
    {"name": "limited", **STREAM, "allow_user_limited_channels": True},
    {"name": "shared", **STREAM, "allow_user_limited_channels": True, "allow_subscribe_for_client": True},
    {"name": "digits", **STREAM, "allow_subscribe_for_client": True, "channel_regex": "^[0-9]+$"},
    {"name": "begins", **STREAM, "allow_subscribe_for_client": True, "channel_regex": "^ab"},
]


@pytest.fixture(scope="module")
def ruled() -> Iterator[Server]:
    """One worker with all the namespaces of the table."""
    with Server({"server": {"workers": 1}, "channel": {"namespaces": NAMESPACES}}) as running:
        yield running


@pytest.fixture(scope="module")
def insecure() -> Iterator[Server]:
    """The same in the hands of a developer who allowed everything."""
    client = {"insecure": True, "allow_anonymous_connect_without_token": False}
    with Server({"server": {"workers": 1}, "client": client, "channel": {"namespaces": NAMESPACES}}) as running:
        yield running


class Asker(RawSocket):
    """Sends one command after the other and says only how each ended."""

    async def enter(self, user: str = "", token: str | None = None) -> None:
        """Connect as ``user``, the anonymous without one."""
        await self.handshake()
        shown = token if token is not None else sign({"sub": user} if user else {})
        code, _ = await self.ask("connect", token=shown)
        assert code == OK

    async def ask(self, command: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """(code of the error, or OK; result). Pushes that come before the reply are left aside."""
        await self.send(text({"id": 7, command: fields}))
        while True:
            for line in (await self.frame()).payload.decode().split("\n"):
                reply = json.loads(line)
                if reply.get("id") == 7:
                    return reply.get("error", {}).get("code", OK), reply.get(command, {})

    async def table(self, rule: Rule, user: str, channel: str) -> dict[str, tuple[int, int]]:
        """What every command on ``channel`` of ``rule`` was answered, before and after a subscribe by token."""
        name = f"{rule.name}:{channel}"
        before = {
            command: (await self.ask(command, channel=name, **FIELDS.get(command, {})))[0] for command in COMMANDS
        }
        token = subscription_token(name, user) if user else sign({"channel": name})
        assert (await self.ask("subscribe", channel=name, token=token))[0] == OK
        after = {command: (await self.ask(command, channel=name, **FIELDS.get(command, {})))[0] for command in COMMANDS}
        return {command: (before[command], after[command]) for command in COMMANDS}


@pytest.mark.parametrize("user", [USER, ""], ids=["user", "anonymous"])
@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_the_table_of_commands(ruled: Server, channel: str, rule: Rule, user: str) -> None:
    """Publish, history and presence are answered as the options say, before and after the subscribe."""

    async def run() -> None:
        async with Asker(ruled) as asker:
            await asker.enter(user)
            assert await asker.table(rule, user, channel) == {
                command: (rule.expected(command, user, False), rule.expected(command, user, True))
                for command in COMMANDS
            }

    asyncio.run(run())


@pytest.mark.parametrize("user", [USER, ""], ids=["user", "anonymous"])
def test_the_table_of_subscribes(ruled: Server, channel: str, user: str) -> None:
    """A subscribe without a token needs the options for clients; a private channel needs a token whatever they say."""

    async def run() -> None:
        found, expected = {}, {}
        async with Asker(ruled) as asker:
            await asker.enter(user)
            for rule, mark in itertools.product(RULES, ("", "$")):
                name = f"{mark}{rule.name}:{channel}"
                found[name], _ = await asker.ask("subscribe", channel=name)
                expected[name] = rule.expected_subscribe(user, private=bool(mark))
        assert found == expected

    asyncio.run(run())


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_the_table_where_everything_is_allowed(insecure: Server, channel: str, rule: Rule) -> None:
    """An insecure server asks nobody, not even for a token; but what a namespace has not, nobody gets."""

    async def run() -> None:
        name = f"{rule.name}:{channel}"
        async with Asker(insecure) as asker:
            await asker.enter(token="")
            found = {
                command: (await asker.ask(command, channel=name, **FIELDS.get(command, {})))[0] for command in COMMANDS
            }
            missing = OK if rule.features else 108
            assert found == {"publish": OK, "history": missing, "presence": missing, "presence_stats": missing}
            assert (await asker.ask("subscribe", channel=name))[0] == OK

    asyncio.run(run())


def test_an_insecure_server_still_verifies(insecure: Server) -> None:
    """A token that is sent is verified all the same."""

    async def run() -> None:
        async with Asker(insecure) as asker:
            await asker.handshake()
            await asker.send(text({"id": 1, "connect": {"token": "nonsense"}}))
            assert (await asker.shut()).code == 3500

    asyncio.run(run())


LIMITED = [
    ("limited:#42", OK),
    ("limited:dialog#41,42", OK),
    ("limited:dialog#42,41", OK),
    ("limited:#41", 103),
    ("limited:#4", 103),
    ("limited:#142", 103),
    ("limited:#42 ", 107),
    ("limited:#", 103),
    ("limited:#42#41", 103),
    ("limited:#41#42", OK),
    ("limited:plain", 103),
    ("limited:42", 103),
    ("$limited:#42", 103),
    ("shared:#41", 103),
    ("shared:#42", OK),
    ("shared:plain", OK),
    ("may--c--on:#41", OK),
]
"""A channel of certain users, and what user 42 is answered."""


def test_channels_of_certain_users(ruled: Server) -> None:
    """Where the option is on, who is named behind the last ``#`` may come, nobody else; elsewhere it is any sign."""

    async def run() -> None:
        async with Asker(ruled) as asker:
            await asker.enter(USER)
            found = [(name, (await asker.ask("subscribe", channel=name))[0]) for name, _ in LIMITED]
            assert found == LIMITED
            token = subscription_token("limited:#43", USER)
            assert (await asker.ask("subscribe", channel="limited:#43", token=token))[0] == OK

    asyncio.run(run())


def test_the_anonymous_is_named_nowhere(ruled: Server) -> None:
    """An empty name behind the ``#`` lets no anonymous connection in."""

    async def run() -> None:
        async with Asker(ruled) as asker:
            await asker.enter("")
            for name in ("limited:#", "limited:#,42", "shared:#"):
                assert ((await asker.ask("subscribe", channel=name))[0], name) == (103, name)

    asyncio.run(run())


PATTERNS = [
    ("digits:123", OK),
    ("digits:12x", 107),
    ("digits:", 107),
    ("digits:1:2", 107),
    ("begins:abc", OK),
    ("begins:ab:c", OK),
    ("begins:cab", 107),
]
"""A channel of a namespace with a pattern, and what a subscribe is answered."""


def test_names_that_a_pattern_allows(ruled: Server) -> None:
    """The part behind the namespace must match its pattern, whatever the command."""

    async def run() -> None:
        async with Asker(ruled) as asker:
            await asker.enter(USER)
            found = [(name, (await asker.ask("subscribe", channel=name))[0]) for name, _ in PATTERNS]
            assert found == PATTERNS
            for command in COMMANDS:
                code, _ = await asker.ask(command, channel="digits:x", **FIELDS.get(command, {}))
                assert (command, code) == (command, 107)

    asyncio.run(run())


def test_presence_is_refused_before_it_is_asked_for_permission(ruled: Server) -> None:
    """Unknown namespaces and empty names have their own answers for every command."""

    async def run() -> None:
        async with Asker(ruled) as asker:
            await asker.enter(USER)
            for command in (*COMMANDS, "subscribe"):
                code, _ = await asker.ask(command, channel="nowhere:x", **FIELDS.get(command, {}))
                assert (command, code) == (command, 102)
        for command in (*COMMANDS, "subscribe", "unsubscribe", "sub_refresh"):
            async with Asker(ruled) as asker:
                await asker.enter(USER)
                with pytest.raises(Shut) as shut:
                    await asker.ask(command, channel="", **FIELDS.get(command, {}))
                assert (command, shut.value.code) == (command, 3501)

    asyncio.run(run())
