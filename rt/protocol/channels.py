"""Channel names, and who may do what in a channel.

A name is 1 to ``max_length`` characters of printable ASCII without white space and without these eight: ``{ }`` (they
choose the slot of a key in a cluster), ``* ? [ ] \\`` (a pattern in the store and in the server API, never a name) and
``"`` (so that a name is the same in JSON). One alphabet without look-alikes: no two names that read alike are two
channels. The part before the first ``:`` selects the namespace and with it the options; a leading ``$`` (private)
does not count for that. ``/``, ``&``, ``@``, ``%`` are ordinary characters, and so are ``#`` and ``,`` except where the
namespace has user-limited channels: there the last ``#`` begins a list of users, ``room#42,43``.

The rules of permission follow one order: what is not available is said first (108), what is not permitted after (103).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from rt import errors
from rt.protocol.commands import History, Subscribe
from rt.protocol.publication import NOWHERE, Position

ANONYMOUS = ""
PRIVATE = "$"
USERS = "#"
USER_SEPARATOR = ","
_NAME = re.compile(r"[!#-)+->@-Z^-z|~]+")


class Namespace(Protocol):
    """The options of a channel that decide over permissions; the names are those of the configuration."""

    @property
    def name(self) -> str: ...
    @property
    def history(self) -> bool: ...
    @property
    def force_positioning(self) -> bool: ...
    @property
    def allow_positioning(self) -> bool: ...
    @property
    def force_recovery(self) -> bool: ...
    @property
    def allow_recovery(self) -> bool: ...
    @property
    def force_recovery_mode(self) -> Literal["stream", "cache"]: ...
    @property
    def auto_cache_recover(self) -> bool: ...
    @property
    def presence(self) -> bool: ...
    @property
    def join_leave(self) -> bool: ...
    @property
    def force_push_join_leave(self) -> bool: ...
    @property
    def channel_regex(self) -> str: ...
    @property
    def allow_user_limited_channels(self) -> bool: ...
    @property
    def allow_subscribe_for_client(self) -> bool: ...
    @property
    def allow_subscribe_for_anonymous(self) -> bool: ...
    @property
    def allow_publish_for_subscriber(self) -> bool: ...
    @property
    def allow_publish_for_client(self) -> bool: ...
    @property
    def allow_publish_for_anonymous(self) -> bool: ...
    @property
    def allow_history_for_subscriber(self) -> bool: ...
    @property
    def allow_history_for_client(self) -> bool: ...
    @property
    def allow_history_for_anonymous(self) -> bool: ...
    @property
    def allow_presence_for_subscriber(self) -> bool: ...
    @property
    def allow_presence_for_client(self) -> bool: ...
    @property
    def allow_presence_for_anonymous(self) -> bool: ...


N = TypeVar("N", bound=Namespace)
N_co = TypeVar("N_co", bound=Namespace, covariant=True)


class ChannelSettings(Protocol[N_co]):
    """The ``channel`` part of the configuration. ``max_length`` is in bytes."""

    @property
    def max_length(self) -> int: ...
    @property
    def without_namespace(self) -> N_co: ...
    @property
    def namespaces(self) -> Sequence[N_co]: ...


class Who(NamedTuple):
    """Who asks. ``user`` is empty for the anonymous; ``insecure`` is the setting that permits everything."""

    user: str
    insecure: bool = False


class Granted(NamedTuple):
    """What a subscription gets: its position watched, missed publications brought back, who comes and leaves."""

    positioned: bool
    recoverable: bool
    joins: bool = False


def check(name: str, max_length: int) -> None:
    """Raise :class:`errors.Refused` (107) unless ``name`` is a channel name of at most ``max_length`` bytes."""
    # The length first: matching costs by the character.
    if len(name) > max_length or not _NAME.fullmatch(name):
        raise errors.Refused(errors.BAD_REQUEST, "not a channel name")


def namespace_part(name: str) -> str | None:
    """The name of the namespace a channel asks for, or None when it asks for none."""
    part, colon, _ = name.removeprefix(PRIVATE).partition(":")
    return part if colon else None


class Namespaces(Generic[N]):
    """Finds the options of a channel by its name."""

    __slots__ = ("_by_name", "_max_length", "_regexes", "_without")

    def __init__(self, settings: ChannelSettings[N]) -> None:
        self._max_length = settings.max_length
        self._without = settings.without_namespace
        self._by_name = {namespace.name: namespace for namespace in settings.namespaces}
        self._regexes = {
            namespace.name: re.compile(namespace.channel_regex)
            for namespace in (settings.without_namespace, *settings.namespaces)
            if namespace.channel_regex
        }

    def find(self, channel: str) -> N:
        """The namespace of ``channel``; :class:`errors.Refused`: 107 for a bad name, 102 for an unknown namespace."""
        check(channel, self._max_length)
        if ":" not in channel:
            return self._without
        namespace = self._by_name.get(namespace_part(channel) or "")
        if namespace is None:
            raise errors.Refused(errors.UNKNOWN_CHANNEL)
        return namespace

    def named(self, channel: str) -> N:
        """The namespace of a ``channel`` that a connection names itself, as :meth:`find`.

        There ``channel_regex`` counts too (107): it must be found in what follows the first ``:``, or in the whole name
        where there is none. What a backend names, by API or token, is not held against it.
        """
        namespace = self.find(channel)
        regex = self._regexes.get(namespace.name)
        if regex is not None and not regex.search(channel.partition(":")[2] if ":" in channel else channel):
            raise errors.Refused(errors.BAD_REQUEST, "the channel_regex of the namespace does not match")
        return namespace


def admit(request: Subscribe, *, subscribed: bool, count: int, limit: int) -> None:
    """Whether one more subscription fits, before anything is asked about permission.

    ``subscribed``: the connection already has this channel (105). ``count`` subscriptions of ``limit`` are taken (106).
    Kinds other than streams are not available (108); filters by tag must be allowed by an option, and none does (107).
    """
    if subscribed:
        raise errors.Refused(errors.ALREADY_SUBSCRIBED)
    if count >= limit:
        raise errors.Refused(errors.LIMIT_EXCEEDED)
    if request.type != 0:
        raise errors.Refused(errors.NOT_AVAILABLE)
    if bytes(request.tf) not in (b"", b"null"):
        raise errors.Refused(errors.BAD_REQUEST, "filters are not allowed here")


def may_subscribe(channel: str, namespace: Namespace, who: Who) -> None:
    """Permission to subscribe without a token; :class:`errors.Refused` (103) otherwise. A token would decide alone.

    A user-limited channel is for the users it lists and for nobody else, except for ``insecure``.
    """
    if channel.startswith(PRIVATE):
        raise errors.Refused(errors.PERMISSION_DENIED)
    if namespace.allow_user_limited_channels and USERS in channel:
        allowed = _lists(channel, who.user)
    else:
        allowed = _permitted(namespace.allow_subscribe_for_client, namespace.allow_subscribe_for_anonymous, who)
    if not (allowed or who.insecure):
        raise errors.Refused(errors.PERMISSION_DENIED)


def personal(user: str, namespace: str) -> str:
    """The channel of one user, in ``namespace`` (empty: in none): ``#42`` or ``ns:#42``.

    :class:`errors.Refused` (107) for a user whose id would list others, as ``a,b`` would list a and b.
    """
    if not user or USERS in user or USER_SEPARATOR in user:
        raise errors.Refused(errors.BAD_REQUEST, "this user cannot have a channel of its own")
    return f"{namespace}:{USERS}{user}" if namespace else USERS + user


def may_publish(namespace: Namespace, who: Who, *, subscribed: bool) -> None:
    """Permission to publish, all the time or while ``subscribed``; :class:`errors.Refused` (103) otherwise."""
    allowed = namespace.allow_publish_for_client or (namespace.allow_publish_for_subscriber and subscribed)
    if not (who.insecure or _permitted(allowed, namespace.allow_publish_for_anonymous, who)):
        raise errors.Refused(errors.PERMISSION_DENIED)


def may_see_presence(namespace: Namespace, who: Who, *, subscribed: bool) -> None:
    """Permission to ask who is there; :class:`errors.Refused`: 108 where presence is off, else 103."""
    if not namespace.presence:
        raise errors.Refused(errors.NOT_AVAILABLE)
    if not _presence_access(namespace, who, subscribed):
        raise errors.Refused(errors.PERMISSION_DENIED)


def may_read_history(namespace: Namespace, who: Who, *, subscribed: bool) -> None:
    """Permission to read history; :class:`errors.Refused`: 108 where there is none at all, else 103."""
    if not namespace.history:
        raise errors.Refused(errors.NOT_AVAILABLE)
    if not _history_access(namespace, who, subscribed):
        raise errors.Refused(errors.PERMISSION_DENIED)


def history_limit(request: History, maximum: int) -> int:
    """How many publications to read at most: 0 (only the position) to ``maximum``.

    Reading backwards from the very beginning is a mistake: :class:`errors.Refused` (107).
    """
    if request.reverse and request.since is not None and request.since.offset == 0:
        raise errors.Refused(errors.BAD_REQUEST, "nothing lies before offset 0")
    return maximum if request.limit < 0 else min(request.limit, maximum)


def granted(request: Subscribe, namespace: Namespace, who: Who) -> Granted:
    """What a permitted subscription gets of what it asks for; what it may not have is left out in silence.

    Without history there are no positions. Who as a subscriber may read the history may recover from it, and who may
    see presence may be told of its changes. ``namespace`` is the one with overrides in place. A server-side
    subscription asks for nothing.
    """
    joins = namespace.join_leave and (
        namespace.force_push_join_leave or (request.join_leave and _presence_access(namespace, who, True))
    )
    if not namespace.history:
        return Granted(False, False, joins)
    reader = _history_access(namespace, who, True)
    recoverable = namespace.force_recovery or (request.recoverable and (namespace.allow_recovery or reader))
    positioned = namespace.force_positioning or (request.positioned and (namespace.allow_positioning or reader))
    return Granted(positioned or recoverable, recoverable, joins)


def recovery(request: Subscribe, namespace: Namespace, granted: Granted) -> Position | None:
    """Where a subscription is recovered from; None when it begins now.

    With ``auto_cache_recover`` whoever does not ask gets the newest publication all the same.
    """
    if not granted.recoverable:
        return None
    if request.recover:
        return Position(request.epoch, request.offset)
    cached = namespace.force_recovery_mode == "cache" and namespace.auto_cache_recover
    return NOWHERE if cached else None


def _permitted(allowed: bool, anonymous: bool, who: Who) -> bool:
    """Whether what is ``allowed`` is allowed to ``who``, who may be ``anonymous``."""
    return allowed and (who.user != ANONYMOUS or anonymous)


def _lists(channel: str, user: str) -> bool:
    """Whether a user-limited channel lists ``user``. The anonymous have no name that could be listed."""
    return user != ANONYMOUS and user in channel.rpartition(USERS)[2].split(USER_SEPARATOR)


def _history_access(namespace: Namespace, who: Who, subscribed: bool) -> bool:
    allowed = namespace.allow_history_for_client or (namespace.allow_history_for_subscriber and subscribed)
    return who.insecure or _permitted(allowed, namespace.allow_history_for_anonymous, who)


def _presence_access(namespace: Namespace, who: Who, subscribed: bool) -> bool:
    allowed = namespace.allow_presence_for_client or (namespace.allow_presence_for_subscriber and subscribed)
    return who.insecure or _permitted(allowed, namespace.allow_presence_for_anonymous, who)
