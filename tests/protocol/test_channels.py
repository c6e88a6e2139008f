"""Channel names and permissions, as tables."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.errors import Error
from rt.protocol import channels
from rt.protocol.channels import Granted, Who
from rt.protocol.commands import History, Since, Subscribe
from rt.protocol.publication import NOWHERE, Position


@dataclass(frozen=True)
class Namespace:
    """A namespace in which nothing is allowed, but with history and presence."""

    name: str = ""
    history: bool = True
    force_positioning: bool = False
    allow_positioning: bool = False
    force_recovery: bool = False
    allow_recovery: bool = False
    force_recovery_mode: Literal["stream", "cache"] = "stream"
    auto_cache_recover: bool = False
    presence: bool = True
    join_leave: bool = False
    force_push_join_leave: bool = False
    channel_regex: str = ""
    allow_user_limited_channels: bool = False
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_client: bool = False
    allow_publish_for_anonymous: bool = False
    allow_history_for_subscriber: bool = False
    allow_history_for_client: bool = False
    allow_history_for_anonymous: bool = False
    allow_presence_for_subscriber: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_anonymous: bool = False


@dataclass(frozen=True)
class Settings:
    """The ``channel`` part of a configuration with two namespaces."""

    max_length: int = 20
    without_namespace: Namespace = field(default_factory=Namespace)
    namespaces: tuple[Namespace, ...] = (Namespace("chat"), Namespace("a-b"))


NAMESPACES = channels.Namespaces(Settings())
USER, NOBODY, ROOT = Who("42"), Who(""), Who("", insecure=True)
LEGAL = sorted(set(string.ascii_letters + string.digits + string.punctuation) - set('{}[]*?\\"'))


@contextmanager
def answered(error: Error | None) -> Iterator[None]:
    """What is done here is refused with ``error``, or goes through where that is None."""
    try:
        yield
    except errors.Refused as refused:
        assert refused.error == error
    else:
        assert error is None


@pytest.mark.parametrize(
    "name",
    [
        "chat:room-1",
        "#42",
        "$priv:x",
        "a/b",
        "user@x.com",
        "a.b,c",
        "a&b",
        "a%2eb",
        "../..",
        "__proto__",
        "a",
        "a" * 255,
    ],
)
def test_names_in_use(name: str) -> None:
    """The names that applications use are names."""
    channels.check(name, 255)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 256,
        "x" * 2**20,
        *(f"a{c}b" for c in '{}[]*?\\"'),
        *(f"a{c}b" for c in " \t\r\n\0\x1b\x7f\x85\xa0"),
        "a\n",
        "\na",
        "?[a]",
        "caf\u00e9",
        "cafe\u0301",
        "\u0430",
        "a\u2028b",
        "a\u202eb",
        "\ufeffa",
        "\uff11",
    ],
    ids=itertools.count(),
)
def test_names_that_are_none(name: str) -> None:
    """White space, control characters, brackets, patterns and everything beyond ASCII are refused with 107."""
    with pytest.raises(errors.Refused) as refused:
        channels.check(name, 255)
    assert refused.value.error == errors.BAD_REQUEST


@given(st.text(LEGAL, min_size=1, max_size=30))
def test_every_legal_character(name: str) -> None:
    """Every other printable ASCII character is legal anywhere, and the name is the same in JSON."""
    channels.check(name, 30)
    assert msgspec.json.encode(name) == f'"{name}"'.encode()


@given(st.text(min_size=1, max_size=10))
def test_only_legal_characters(name: str) -> None:
    """A text passes if and only if all of its characters are in the alphabet."""
    try:
        channels.check(name, 10)
    except errors.Refused:
        assert not set(name) <= set(LEGAL)
    else:
        assert set(name) <= set(LEGAL)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("news", None),
        ("#42", None),
        ("$news", None),
        ("$", None),
        ("chat:x", "chat"),
        ("chat:x:y", "chat"),
        ("$chat:x", "chat"),
        ("$$chat:x", "$chat"),
        ("chat:", "chat"),
        (":x", ""),
    ],
)
def test_namespace_part(name: str, namespace: str | None) -> None:
    """The part before the first colon, without the private prefix."""
    assert channels.namespace_part(name) == namespace


@pytest.mark.parametrize(
    ("channel", "found"),
    [
        ("news", ""),
        ("chat:1", "chat"),
        ("$a-b:1", "a-b"),
        ("other:1", errors.UNKNOWN_CHANNEL),
        (":1", errors.UNKNOWN_CHANNEL),
        ("Chat:1", errors.UNKNOWN_CHANNEL),
        ("other:" + "x" * 20, errors.BAD_REQUEST),
        ("other:{x}", errors.BAD_REQUEST),
        ("", errors.BAD_REQUEST),
    ],
)
def test_find(channel: str, found: str | Error) -> None:
    """A channel has the options of its namespace; what is no name is said (107) before what is unknown (102)."""
    if isinstance(found, str):
        assert NAMESPACES.find(channel).name == found
    else:
        with pytest.raises(errors.Refused) as refused:
            NAMESPACES.find(channel)
        assert refused.value.error == found


@pytest.mark.parametrize(
    ("request_", "subscribed", "count", "error"),
    [
        (Subscribe("a"), False, 0, None),
        (Subscribe("a"), False, 127, None),
        (Subscribe("a"), False, 128, errors.LIMIT_EXCEEDED),
        (Subscribe("a"), True, 128, errors.ALREADY_SUBSCRIBED),
        (Subscribe("a", type=1), False, 0, errors.NOT_AVAILABLE),
        (Subscribe("a", type=-1), False, 0, errors.NOT_AVAILABLE),
        (Subscribe("a", type=1), False, 128, errors.LIMIT_EXCEEDED),
        (Subscribe("a", tf=msgspec.Raw(b"null")), False, 0, None),
        (Subscribe("a", tf=msgspec.Raw(b"{}")), False, 0, errors.BAD_REQUEST),
        (Subscribe("a", delta="fossil"), False, 0, None),
    ],
)
def test_admit(request_: Subscribe, subscribed: bool, count: int, error: Error | None) -> None:
    """What stands in the way of one more subscription, in the order of the protocol."""
    with answered(error):
        channels.admit(request_, subscribed=subscribed, count=count, limit=128)


@pytest.mark.parametrize(
    ("channel", "who", "client", "anonymous", "allowed"),
    [
        ("a", USER, False, False, False),
        ("a", USER, True, False, True),
        ("a", USER, False, True, False),
        ("a", NOBODY, True, False, False),
        ("a", NOBODY, False, True, False),
        ("a", NOBODY, True, True, True),
        ("a", ROOT, False, False, True),
        ("#7", USER, True, False, True),
        ("$a", USER, True, True, False),
        ("$a", ROOT, True, True, False),
    ],
)
def test_may_subscribe(channel: str, who: Who, client: bool, anonymous: bool, allowed: bool) -> None:
    """Without a token the namespace decides, never over a private channel."""
    namespace = Namespace(allow_subscribe_for_client=client, allow_subscribe_for_anonymous=anonymous)
    with answered(None if allowed else errors.PERMISSION_DENIED):
        channels.may_subscribe(channel, namespace, who)


@pytest.mark.parametrize(
    ("channel", "who", "allowed"),
    [
        ("#42", USER, True),
        ("room#42", USER, True),
        ("room#42,43", USER, True),
        ("room#43,42", USER, True),
        ("room#43#42", USER, True),
        ("room#42#43", USER, False),
        ("room#421", USER, False),
        ("room#4,2", USER, False),
        ("room#", USER, False),
        ("$room#42", USER, False),
        ("room", USER, True),
        ("room,42", USER, True),
        ("room#", NOBODY, False),
        ("room#,42", NOBODY, False),
        ("room", NOBODY, True),
        ("room#43", ROOT, True),
        ("$room#43", ROOT, False),
    ],
)
@pytest.mark.parametrize("open_", [True, False])
def test_user_limited_channels(channel: str, who: Who, allowed: bool, open_: bool) -> None:
    """Only who stands behind the last # may subscribe, whether or not the namespace is open to all."""
    namespace = Namespace(
        allow_user_limited_channels=True, allow_subscribe_for_client=open_, allow_subscribe_for_anonymous=open_
    )
    expected = allowed and (open_ or "#" in channel or who.insecure)
    with answered(None if expected else errors.PERMISSION_DENIED):
        channels.may_subscribe(channel, namespace, who)


@pytest.mark.parametrize(
    ("user", "namespace", "channel"),
    [
        ("42", "", "#42"),
        ("42", "me", "me:#42"),
        ("a:b", "", "#a:b"),
        ("", "", None),
        ("a,b", "", None),
        ("x#42", "me", None),
    ],
)
def test_personal(user: str, namespace: str, channel: str | None) -> None:
    """A user's own channel is one that only this user may subscribe to."""
    with answered(None if channel else errors.BAD_REQUEST):
        assert channels.personal(user, namespace) == channel
        channels.may_subscribe(channels.personal(user, ""), Namespace(allow_user_limited_channels=True), Who(user))


REGEXES = channels.Namespaces(
    Settings(
        max_length=30,
        without_namespace=Namespace(channel_regex="^[$a-z]+$"),
        namespaces=(
            Namespace("chat", channel_regex="[0-9]"),
            Namespace("whole", channel_regex="^[a-z:]+$"),
            Namespace("any"),
        ),
    )
)


@pytest.mark.parametrize(
    ("channel", "error"),
    [
        ("news", None),
        ("$news", None),
        ("news1", errors.BAD_REQUEST),
        ("#42", errors.BAD_REQUEST),
        ("chat:room1", None),
        ("$chat:1", None),
        ("chat:room", errors.BAD_REQUEST),
        ("chat:", errors.BAD_REQUEST),
        ("whole:a:b", None),
        ("$whole:ab", None),
        ("whole:A", errors.BAD_REQUEST),
        ("any:#1", None),
        ("other:x", errors.UNKNOWN_CHANNEL),
        ("chat:{1}", errors.BAD_REQUEST),
    ],
)
def test_channel_regex(channel: str, error: Error | None) -> None:
    """A name that a connection gives must have the regex of its namespace behind the colon; a backend's need not."""
    with answered(error):
        assert REGEXES.named(channel) is REGEXES.find(channel)
    if error == errors.BAD_REQUEST and "{" not in channel:
        REGEXES.find(channel)


@pytest.mark.parametrize("bits", list(itertools.product([False, True], repeat=4)))
@pytest.mark.parametrize("who", [USER, NOBODY, ROOT])
def test_may_publish_and_read(bits: tuple[bool, bool, bool, bool], who: Who) -> None:
    """Publishing, history and presence follow one rule: all, or subscribers; the anonymous only if allowed too."""
    client, subscriber, anonymous, subscribed = bits
    namespace = Namespace(
        allow_publish_for_client=client,
        allow_publish_for_subscriber=subscriber,
        allow_publish_for_anonymous=anonymous,
        allow_history_for_client=client,
        allow_history_for_subscriber=subscriber,
        allow_history_for_anonymous=anonymous,
        allow_presence_for_client=client,
        allow_presence_for_subscriber=subscriber,
        allow_presence_for_anonymous=anonymous,
    )
    allowed = who.insecure or ((client or (subscriber and subscribed)) and (anonymous or who.user != ""))
    for rule in (channels.may_publish, channels.may_read_history, channels.may_see_presence):
        with answered(None if allowed else errors.PERMISSION_DENIED):
            rule(namespace, who, subscribed=subscribed)


@pytest.mark.parametrize("who", [USER, NOBODY, ROOT])
def test_history_that_is_not_there(who: Who) -> None:
    """Where there is no history that is said (108), before and whatever the permissions."""
    with pytest.raises(errors.Refused) as refused:
        channels.may_read_history(Namespace(history=False, allow_history_for_client=True), who, subscribed=True)
    assert refused.value.error == errors.NOT_AVAILABLE


@pytest.mark.parametrize("who", [USER, NOBODY, ROOT])
@pytest.mark.parametrize("allowed", [True, False])
def test_presence_that_is_not_there(who: Who, allowed: bool) -> None:
    """Where presence is off that is said (108), before and whatever the permissions."""
    namespace = Namespace(presence=False, allow_presence_for_client=allowed, allow_presence_for_anonymous=allowed)
    with answered(errors.NOT_AVAILABLE):
        channels.may_see_presence(namespace, who, subscribed=True)


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        (History("a"), 0),
        (History("a", 5), 5),
        (History("a", 300), 300),
        (History("a", 301), 300),
        (History("a", -1), 300),
        (History("a", -(2**31)), 300),
        (History("a", 5, Since(0, "x")), 5),
        (History("a", 5, None, True), 5),
        (History("a", 5, Since(1, "x"), True), 5),
    ],
)
def test_history_limit(request_: History, limit: int) -> None:
    """A client reads no more than the configuration allows; below zero it asks for that."""
    assert channels.history_limit(request_, 300) == limit


def test_reading_back_from_the_beginning() -> None:
    """Reading backwards from offset 0 is a mistake (107)."""
    with pytest.raises(errors.Refused) as refused:
        channels.history_limit(History("a", 5, Since(0, "x"), True), 300)
    assert refused.value.error == errors.BAD_REQUEST


WANTS_ALL = Subscribe("a", positioned=True, recoverable=True)
WANTS_POSITION = Subscribe("a", positioned=True)


@pytest.mark.parametrize(
    ("request_", "namespace", "who", "expected"),
    [
        (Subscribe("a"), Namespace(), USER, Granted(False, False)),
        (WANTS_ALL, Namespace(), USER, Granted(False, False)),
        (WANTS_ALL, Namespace(history=False, force_recovery=True, force_positioning=True), ROOT, Granted(False, False)),
        (Subscribe("a"), Namespace(force_recovery=True), USER, Granted(True, True)),
        (Subscribe("a"), Namespace(force_positioning=True), USER, Granted(True, False)),
        (Subscribe("a"), Namespace(allow_recovery=True, allow_positioning=True), USER, Granted(False, False)),
        (WANTS_ALL, Namespace(allow_recovery=True), USER, Granted(True, True)),
        (WANTS_ALL, Namespace(allow_positioning=True), USER, Granted(True, False)),
        (WANTS_POSITION, Namespace(allow_recovery=True), USER, Granted(False, False)),
        (WANTS_ALL, Namespace(allow_history_for_client=True), USER, Granted(True, True)),
        (WANTS_ALL, Namespace(allow_history_for_subscriber=True), USER, Granted(True, True)),
        (WANTS_ALL, Namespace(allow_history_for_subscriber=True), NOBODY, Granted(False, False)),
        (WANTS_POSITION, Namespace(allow_history_for_client=True), USER, Granted(True, False)),
        (WANTS_ALL, Namespace(), ROOT, Granted(True, True)),
    ],
)
def test_granted(request_: Subscribe, namespace: Namespace, who: Who, expected: Granted) -> None:
    """A subscription gets what is forced, and what it asks for and may have; recovery includes the position."""
    assert channels.granted(request_, namespace, who) == expected


WANTS_JOINS = Subscribe("a", join_leave=True)


@pytest.mark.parametrize(
    ("request_", "namespace", "who", "joins"),
    [
        (WANTS_JOINS, Namespace(join_leave=True), USER, False),
        (WANTS_JOINS, Namespace(join_leave=True, allow_presence_for_client=True), USER, True),
        (WANTS_JOINS, Namespace(join_leave=True, allow_presence_for_subscriber=True), USER, True),
        (WANTS_JOINS, Namespace(join_leave=True, allow_presence_for_subscriber=True), NOBODY, False),
        (WANTS_JOINS, Namespace(join_leave=True, allow_presence_for_anonymous=True), NOBODY, False),
        (
            WANTS_JOINS,
            Namespace(join_leave=True, allow_presence_for_client=True, allow_presence_for_anonymous=True),
            NOBODY,
            True,
        ),
        (WANTS_JOINS, Namespace(join_leave=True), ROOT, True),
        (WANTS_JOINS, Namespace(allow_presence_for_client=True), USER, False),
        (WANTS_JOINS, Namespace(force_push_join_leave=True), ROOT, False),
        (Subscribe("a"), Namespace(join_leave=True, allow_presence_for_client=True), USER, False),
        (Subscribe("a"), Namespace(join_leave=True, force_push_join_leave=True), USER, True),
        (Subscribe("a"), Namespace(join_leave=True, force_push_join_leave=True), NOBODY, True),
        (Subscribe("a"), Namespace(join_leave=True), ROOT, False),
        (WANTS_JOINS, Namespace(join_leave=True, presence=False, allow_presence_for_client=True), USER, True),
    ],
)
@pytest.mark.parametrize("history", [True, False])
def test_granted_joins(request_: Subscribe, namespace: Namespace, who: Who, joins: bool, history: bool) -> None:
    """Who comes and leaves is told to whom it is forced upon, and to those who ask and may see presence."""
    assert channels.granted(request_, replace(namespace, history=history), who) == Granted(False, False, joins)


ASKS = Subscribe("a", recover=True, epoch="x", offset=3)
CACHED = Namespace(force_recovery_mode="cache", auto_cache_recover=True)


@pytest.mark.parametrize(
    ("request_", "namespace", "granted", "since"),
    [
        (Subscribe("a"), Namespace(), Granted(True, True), None),
        (ASKS, Namespace(), Granted(True, True), Position("x", 3)),
        (Subscribe("a", recover=True), Namespace(), Granted(True, True), NOWHERE),
        (ASKS, Namespace(), Granted(True, False), None),
        (Subscribe("a"), CACHED, Granted(True, True), NOWHERE),
        (ASKS, CACHED, Granted(True, True), Position("x", 3)),
        (Subscribe("a"), CACHED, Granted(True, False), None),
        (Subscribe("a"), Namespace(auto_cache_recover=True), Granted(True, True), None),
        (Subscribe("a"), Namespace(force_recovery_mode="cache"), Granted(True, True), None),
    ],
)
def test_recovery(request_: Subscribe, namespace: Namespace, granted: Granted, since: Position | None) -> None:
    """Recovery begins where it is asked from; a cache is given unasked where the namespace says so."""
    assert channels.recovery(request_, namespace, granted) == since
