"""Whether a stream may begin, and what it follows: the channels of its URL or request, and those that the backend says.

Everything is checked anew each time that a client comes back: a cursor grants nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rt import errors
from rt.delivery import server_side
from rt.delivery.rules import Visitor
from rt.errors import Closing, Refused
from rt.protocol import channels, cursor, tokens
from rt.protocol.publication import NOWHERE, Position

if TYPE_CHECKING:
    from rt.config import Namespace
    from rt.delivery.hub import Hub
    from rt.protocol.commands import Connect, Subscribe
    from rt.protocol.options import Terms
    from rt.protocol.tokens import Identity

NOT_A_POSITION = Position("-", 0)
"""Where a cursor that makes no sense points to: no stream has this epoch, so it ends in a gap, which is told."""


class Request(NamedTuple):
    """What the URL and the headers ask for, not yet checked. ``since`` is the cursor; empty to begin now.

    ``connect`` is the request of a ``uni`` stream, which names no channels in its URL; ``address`` is who asks.
    """

    names: Sequence[str]
    since: str = ""
    token: str = ""
    subscription_tokens: Sequence[str] = ()
    connect: Connect | None = None
    address: str = ""


class Following(NamedTuple):
    """One channel of a stream. ``namespace`` is the effective one, with overrides in place.

    ``info`` and ``data`` are raw JSON, for others and for the stream itself; ``expire_at`` is when the right ends, in
    seconds since 1970. ``since`` is where to begin (None: now, or nowhere without history); ``recovering`` is whether
    the client came back for what it missed, or is treated so.
    """

    name: str
    namespace: Namespace
    info: bytes = b""
    data: bytes = b""
    expire_at: float | None = None
    since: Position | None = None
    recovering: bool = False


class Admission(NamedTuple):
    """A request that was found good. ``named``: its cursors name their channels, since the list is not the URL's."""

    following: tuple[Following, ...]
    named: bool
    identity: Identity


def admit(hub: Hub, request: Request) -> Admission | Coroutine[Any, Any, Admission]:
    """Check names, token, permissions and limits; at once, where nothing must be waited for: else what is to be awaited
    fetches keys, reads the user's session or asks for shared tokens. It is bounded.

    Raises Refused or Closing, and StoreError when it is awaited.
    """
    try:
        identity, grants = _identified(hub, request, fetched=False)
    except tokens.KeysWanted:
        return _with_keys(hub, request)
    asked = _counted(hub, request, identity)
    whole = server_side.known(hub, identity) if asked is None else None
    if whole is None:
        return _with_session(hub, request, identity, grants, asked)
    found = _admission(hub, request, whole, grants)
    asked = _listing(hub, request, found)
    return found if asked is None else _when(asked, found)


async def _with_keys(hub: Hub, request: Request) -> Admission:
    assert hub.keys is not None
    await hub.keys.fetch()
    identity, grants = _identified(hub, request, fetched=True)
    return await _with_session(hub, request, identity, grants, _counted(hub, request, identity))


async def _with_session(
    hub: Hub, request: Request, identity: Identity, grants: Grants, asked: Awaitable[object] | None
) -> Admission:
    if asked is not None:
        await asked
    found = _admission(hub, request, await server_side.wanted(hub, identity), grants)
    asked = _listing(hub, request, found)
    return found if asked is None else await _when(asked, found)


async def _when(asked: Awaitable[object], found: Admission) -> Admission:
    await asked
    return found


def _counted(hub: Hub, request: Request, identity: Identity) -> Awaitable[object] | None:
    """Whether the user may have one more connection."""
    hub.crowd.admit(identity.user)
    return hub.limits.log_in(Visitor(user=identity.user, address=request.address))


def _listing(hub: Hub, request: Request, found: Admission) -> Awaitable[object] | None:
    """Whether the user may follow so many channels at once that it chose itself."""
    asked = request.names if request.connect is None else list(request.connect.subs)
    names = [one.name for one in found.following if one.name in asked and one.name not in found.identity.subs]
    return hub.limits.subscribes(Visitor(user=found.identity.user, address=request.address), names)


Grants = Mapping[str, tokens.Grant]


def _identified(hub: Hub, request: Request, *, fetched: bool) -> tuple[Identity, Grants]:
    """Who asks, and what the subscription tokens grant."""
    names, most = request.names, cursor.MAX_CHANNELS
    if len(names) > most or len(set(names)) != len(names):
        raise Refused(errors.BAD_REQUEST, f"at most {most} different channels")
    now = hub.wall()
    identity = tokens.identify(request.token, hub.verifier, hub.config.client, now, fetched=fetched)
    return identity, _granted(hub, request, identity.user, now, fetched=fetched)


def _granted(hub: Hub, request: Request, user: str, now: float, *, fetched: bool) -> Grants:
    """The channels of the list that subscription tokens open; each token says itself which one it is for."""
    found = {}
    for token in request.subscription_tokens:
        try:
            channel = hub.verifier.subscription(token, now, fetched=fetched).channel
        except tokens.TokenExpired:
            raise Refused(errors.TOKEN_EXPIRED) from None
        except tokens.TokenInvalid:
            raise Refused(errors.PERMISSION_DENIED) from None
        if channel in request.names:
            found[channel] = tokens.permit(
                token, hub.verifier, channel=channel, user=user, client="", now=now, fetched=fetched
            )
    return found


def _admission(hub: Hub, request: Request, identity: Identity, grants: Grants) -> Admission:
    who = channels.Who(identity.user, hub.config.client.insecure)
    following = {name: by_server(hub, name, terms) for name, terms in identity.subs.items()}
    named = bool(following) or request.connect is not None
    if request.connect is not None:
        _add_asked(hub, request.connect.subs, who, following)
    else:
        following = _listed(hub, request.names, who, grants, following)
        if not following:
            raise Refused(errors.BAD_REQUEST, "no channel in the list, and none that the backend says")
    if len(following) > hub.config.client.channel_limit or (named and not cursor.fits(list(following))):
        raise Closing(errors.CHANNEL_LIMIT, "more channels than a stream may follow")
    names = sorted(following) if named else list(following)
    return Admission(_beginning(request, [following[name] for name in names]), named, identity)


def by_server(hub: Hub, name: str, terms: Terms) -> Following:
    """A channel that the backend says. Raises Refused (102, 107) where it cannot be."""
    namespace = hub.namespaces.find(name)
    if terms.override is not None:
        namespace = terms.override.over(namespace)
    return Following(name, namespace, terms.info, terms.data, terms.expire_at)


def _listed(
    hub: Hub, names: Sequence[str], who: channels.Who, grants: Grants, said: Mapping[str, Following]
) -> dict[str, Following]:
    """The list of a URL, all or nothing, and after it what the backend says. That decides alone where both name one."""
    listed = {name: said.get(name) or _by_client(hub, name, who, grants.get(name)) for name in names}
    return {**listed, **said}


def _by_client(hub: Hub, name: str, who: channels.Who, grant: tokens.Grant | None) -> Following:
    namespace = hub.namespaces.named(name)
    if grant is None:
        channels.may_subscribe(name, namespace, who)
        return Following(name, namespace)
    if grant.override is not None:
        namespace = grant.override.over(namespace)
    return Following(name, namespace, grant.info, expire_at=grant.expire_at)


def _add_asked(hub: Hub, asked: Mapping[str, Subscribe], who: channels.Who, following: dict[str, Following]) -> None:
    """What a connect request asks for: where the backend's channels begin, and others that need no token. What is not
    permitted is left out in silence; a namespace that is not there means a mistake (3501)."""
    for name, request in asked.items():
        try:
            hub.namespaces.find(name)
        except Refused:
            raise Closing(errors.BAD_COMMAND, "a channel that cannot be") from None
        try:
            one = following.get(name) or _by_client(hub, name, who, None)
        except Refused:
            continue
        since = Position(request.epoch, request.offset) if request.recover else None
        following[name] = one._replace(since=since, recovering=request.recover)


def _beginning(request: Request, following: Sequence[Following]) -> tuple[Following, ...]:
    """Where each of them begins. A cursor that is none must not be taken for a wish to begin now."""
    try:
        found = cursor.decode(request.since, request.names) if request.since else {}
    except cursor.CursorError:
        return tuple(one._replace(since=NOT_A_POSITION, recovering=True) for one in following)
    return tuple(
        one._replace(since=found[one.name], recovering=True) if one.name in found else begins(one) for one in following
    )


def begins(one: Following) -> Following:
    """Where a channel begins that no cursor speaks of: with ``auto_cache_recover`` at its newest publication."""
    namespace = one.namespace
    cached = namespace.history and namespace.force_recovery_mode == "cache" and namespace.auto_cache_recover
    if one.since is None and cached:
        return one._replace(since=NOWHERE, recovering=True)
    return one
