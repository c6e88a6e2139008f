"""The sections about channels: namespaces and what they allow."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import msgspec

from rt.config.section import Group, Groups, Key, Section
from rt.config.values import Choice, Duration, Flag, Pattern, Text, Whole

NAMESPACE_NAME = Text("2 to 64 letters, digits, - or _", r"[-a-zA-Z0-9_]{2,64}")


class Namespace(Section, frozen=True, kw_only=True):
    """Settings of the channels whose name begins with ``name:``.

    Where history is off, ``force_recovery`` is false and ``slow`` is ``disconnect``, whatever the defaults say.
    """

    name: Annotated[str, Key("The part of a channel's name before the first `:`.", NAMESPACE_NAME, required=True)] = ""
    history_size: Annotated[
        int, Key("Publications kept per channel; 0 switches history off, and recovery with it.", Whole(0, 1000000))
    ] = 300
    history_ttl: Annotated[
        float, Key("They are kept this long after the newest; 0 switches history off.", Duration("0s", "365d"))
    ] = 120.0
    history_meta_ttl: Annotated[
        float, Key("A channel's epoch and offset are kept this long.", Duration("1s", "3650d"))
    ] = 2592000.0
    force_positioning: Annotated[bool, Key("Every subscription has a position, so that a gap is noticed.", Flag())] = (
        False
    )
    allow_positioning: Annotated[bool, Key("Clients may ask for a position.", Flag())] = False
    force_recovery: Annotated[
        bool,
        Key("Every subscription can be recovered.", Flag(), default="true with history, else false"),
    ] = True
    allow_recovery: Annotated[bool, Key("Clients may ask for recovery.", Flag())] = False
    force_recovery_mode: Annotated[
        Literal["stream", "cache"],
        Key("`stream` recovers all that was missed, `cache` only the newest publication.", Choice("stream", "cache")),
    ] = "stream"
    auto_cache_recover: Annotated[
        bool,
        Key("With `cache` every subscriber begins with the newest publication, without asking for it.", Flag()),
    ] = False
    presence: Annotated[bool, Key("Who is subscribed can be asked for.", Flag())] = False
    join_leave: Annotated[bool, Key("Subscribers who ask for it are told who comes and who leaves.", Flag())] = False
    force_push_join_leave: Annotated[bool, Key("So are those who do not ask, if `join_leave` is on.", Flag())] = False
    allow_subscribe_for_client: Annotated[bool, Key("Users may subscribe without a token.", Flag())] = False
    allow_subscribe_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    allow_publish_for_subscriber: Annotated[bool, Key("Subscribers may publish.", Flag())] = False
    allow_publish_for_client: Annotated[bool, Key("Users may publish without a subscription.", Flag())] = False
    allow_publish_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    allow_history_for_subscriber: Annotated[bool, Key("Subscribers may read the history.", Flag())] = False
    allow_history_for_client: Annotated[bool, Key("Users may read the history without a subscription.", Flag())] = False
    allow_history_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    allow_presence_for_subscriber: Annotated[bool, Key("Subscribers may ask who else is.", Flag())] = False
    allow_presence_for_client: Annotated[bool, Key("Users may ask who is subscribed, without being it.", Flag())] = (
        False
    )
    allow_presence_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    allow_user_limited_channels: Annotated[
        bool,
        Key(
            "A channel whose name ends with `#` and users, as in `dialog#1,2`, is open to these, and without a token "
            "to no others.",
            Flag(),
        ),
    ] = False
    channel_regex: Annotated[
        str,
        Key(
            "Clients may only use channels whose name after the namespace's `:` has this in it; `^` and `$` make it "
            "the whole.",
            Pattern(),
        ),
    ] = ""
    publication_data_format: Annotated[
        Literal["", "json", "json_object"],
        Key(
            "What clients may publish: any JSON, or objects only.",
            Choice("", "json", "json_object", note=" (binary needs a protocol this server does not speak)"),
        ),
    ] = ""
    slow: Annotated[
        Literal["", "catch_up", "disconnect", "drop_oldest", "drop_newest", "conflate"],
        Key(
            "What becomes of a subscriber that reads too slowly. It catches up from history; it is closed (3008); or "
            "what does not fit is left out: the oldest, the newest, or all but the newest of each `conflate_key`.",
            Choice("catch_up", "disconnect", "drop_oldest", "drop_newest", "conflate"),
            default="catch_up with history, else disconnect",
        ),
    ] = ""
    conflate_key: Annotated[
        str,
        Key(
            'With `conflate`: the tag whose value tells publications apart; with "", and for those without the tag, '
            "only the newest of the channel counts.",
            Text('the name of a tag of at most 64 characters, or ""', r"[^\x00-\x1f]{0,64}"),
        ),
    ] = ""
    priority: Annotated[
        Literal["high", "normal", "low"],
        Key(
            "Which of a slow connection's subscriptions go on: `low` are the first to fall behind or to lose "
            "something, `high` the last.",
            Choice("high", "normal", "low"),
        ),
    ] = "normal"
    batch: Annotated[
        float,
        Key(
            "Publications wait so long for others to go out together with; with `conflate` only the newest of each key "
            "does. 0 is no waiting.",
            Duration("0s", "10s"),
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        if not self.slow:
            msgspec.structs.force_setattr(self, "slow", "catch_up" if self.history else "disconnect")
        if not self.history:
            msgspec.structs.force_setattr(self, "force_recovery", False)

    @property
    def history(self) -> bool:
        """Whether publications are kept at all."""
        return self.history_size > 0 and self.history_ttl > 0


_NAMESPACES = Groups(Namespace, "a name and the keys of without_namespace", "[{name: chat, history_ttl: 300s}]")


class Channel(Section, frozen=True, kw_only=True, dict=True):
    """Channels and their namespaces."""

    max_length: Annotated[int, Key("Longest channel name, in bytes.", Whole(1, 255))] = 255
    without_namespace: Annotated[
        Namespace,
        Key("Settings of channels without a namespace.", Group(Namespace, omit=frozenset({"name"}))),
    ] = Namespace()
    namespaces: Annotated[tuple[Namespace, ...], Key("Settings by namespace.", _NAMESPACES)] = ()

    @functools.cached_property
    def _by_name(self) -> dict[str, Namespace]:
        return {"": self.without_namespace} | {namespace.name: namespace for namespace in self.namespaces}

    def namespace(self, name: str) -> Namespace | None:
        """The settings of a namespace, those without one for ``""``; ``None`` for a name the config does not have."""
        return self._by_name.get(name)
